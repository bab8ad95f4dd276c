"""A folder of maps (`token_files.TokenFiles`) as a teacher of stage one: it knows images by id.

Nothing passes a model here. Legend: n images or names, D width, h w token grid.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from zsseg.stages.data.images import resize_image
from zsseg.stages.device import choose_device
from zsseg.stages.errors import UserError
from zsseg.stages.precompute.precompute_config import DenseConfig
from zsseg.stages.precompute.teacher.averaged_tokens import to_grid
from zsseg.stages.precompute.teacher.dense_passes import DensePass
from zsseg.stages.precompute.teacher.teacher_files import TeacherFiles
from zsseg.stages.precompute.teacher.teacher_protocol import AroundPass, Pair, Seen
from zsseg.stages.precompute.teacher.token_files import TEXT, TokenFiles, open_tokens
from zsseg.stages.precompute.threads import in_threads

_SHOWN = 8  # names that a message lists


@dataclass(frozen=True)
class TokenFolder:
    """A `Teacher` whose tokens are in files."""

    files: TokenFiles
    device: torch.device
    """Where stage one computes besides."""
    by_id: bool = True
    prompts: bool = False
    tokenizer: Callable[[list[str]], Tensor] | None = None
    interpolation: Literal["bilinear", "bicubic"] = "bilinear"
    native_size: Pair = (1, 1)
    mean_colour: tuple[int, int, int] = (0, 0, 0)
    strides: Pair = (16, 16)
    """Nothing follows from it but multiples in `dense.size: auto`."""

    @property
    def width(self) -> int:
        """D."""
        return self.files.description.width

    def grid(self, _: DenseConfig) -> Pair:
        """(h, w) that the folder's description says, whatever `dense.size` is."""
        return self.files.description.grid

    def dense_passes(self, _: DenseConfig) -> tuple[DensePass, ...]:
        """None: no image passes anything."""
        return ()

    def dense_path(self, _: DenseConfig) -> str:
        """The maps were made elsewhere."""
        return "stored"

    def fitted(self, image: NDArray[np.uint8], size: Pair) -> NDArray[np.uint8]:
        """An image resized to `size` (rows, columns)."""
        return resize_image(image, size, interpolation=self.interpolation)

    def cls(self, images: Sequence[Seen]) -> NDArray[np.float32]:
        """(n, D) the CLS tokens of images by id; the mean of its unit dense tokens for an image
        without one. Raises as `TokenFiles.tokens`.
        """

        def token(image: Seen) -> NDArray[np.float32]:
            dense_Dhw, cls_D = self.files.tokens(_id(image))
            if cls_D is not None:
                return cls_D
            mean_D: NDArray[np.float32] = _unit(dense_Dhw).mean((1, 2))
            return mean_D

        return np.stack(in_threads(token, images))

    def dense(self, images: Sequence[Seen], _: DenseConfig) -> NDArray[np.float32]:
        """(n, D, h, w) maps of images by id: as they are, or unit tokens brought to the grid where
        theirs is another one. Raises as `TokenFiles.tokens`.
        """
        grid = self.files.description.grid

        def tokens(image: Seen) -> NDArray[np.float32]:
            dense_Dhw, _ = self.files.tokens(_id(image))
            if dense_Dhw.shape[1:] == grid:
                return dense_Dhw
            with torch.inference_mode():
                brought = to_grid(torch.from_numpy(_unit(dense_Dhw))[None], grid)
                return np.asarray(brought[0].numpy())

        return np.stack(in_threads(tokens, images))

    def text(self, prompts: Sequence[str]) -> NDArray[np.float32]:
        """(n, D) the embeddings of class names. Raises UserError for a name that has none."""
        known = self.files.embeddings
        if lacking := [name for name in prompts if name not in known]:
            there = ", ".join(f"'{name}'" for name in list(known)[:_SHOWN])
            raise UserError(
                f"{self.files.spec}: {self.files.folder / TEXT} has no embedding of "
                f"{', '.join(f'{name!r}' for name in lacking[:_SHOWN])}; it has {there}"
                f"{', ...' if len(known) > _SHOWN else ''}. Write one for each name there, or give "
                "the class a name that is there (`names:` of the data set's description)"
            )
        return np.stack([known[name] for name in prompts])

    def within(self, _: AroundPass) -> "TokenFolder":
        """Itself: it makes no pass."""
        return self


def open_folder(files: TeacherFiles, *, device: Literal["auto", "cpu", "cuda"]) -> TokenFolder:
    """The folder as a teacher. Raises as `TokenFiles`."""
    return TokenFolder(open_tokens(files.spec, files.tokenizer_hash), choose_device(device))


def _id(image: Seen) -> str:
    assert isinstance(image, str), "maps in files are known by the ids of images"
    return image


def _unit(dense_Dhw: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.asarray(F.normalize(torch.from_numpy(dense_Dhw), dim=0).numpy())
