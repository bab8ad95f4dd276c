"""The user's own object (`own_code.OwnObject`) as a teacher of stage one.

Images are resized, cut into windows and mirrored here, so that an object that knows one pass has
`dense.scales`, `dense.flip` and `dense.windows` too. What it gives is checked at every call.
Legend: n images or prompts, H W pixels, D width, h w token grid.
"""

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from zsseg.stages.device import choose_device
from zsseg.stages.errors import UserError
from zsseg.stages.precompute.precompute_config import DenseConfig, Resize
from zsseg.stages.precompute.teacher.averaged_tokens import pass_tokens
from zsseg.stages.precompute.teacher.dense_passes import DensePass, dense_passes
from zsseg.stages.precompute.teacher.own_code import OwnObject, build_own, described, source_hash
from zsseg.stages.precompute.teacher.resizing import resized
from zsseg.stages.precompute.teacher.teacher_files import TeacherFiles, resolve_teacher
from zsseg.stages.precompute.teacher.teacher_protocol import AroundPass, Pair, Seen, pixels_at
from zsseg.stages.precompute.threads import in_threads, slices

_IMAGENET = (124, 116, 104)


@dataclass(frozen=True)
class OwnTeacher:
    """A `Teacher` made of the user's object, which one thread calls at a time for images."""

    spec: str
    own: OwnObject
    device: torch.device
    """Where stage one computes besides; the object runs where it likes."""
    around_pass: AroundPass = nullcontext
    by_id: bool = False
    tokenizer: Callable[[list[str]], Tensor] | None = None
    interpolation: Literal["bilinear", "bicubic"] = "bicubic"
    resize: Resize = "pillow"

    @property
    def width(self) -> int:
        """D."""
        return self.own.width

    @property
    def native_size(self) -> Pair:
        """Height and width in pixels that `cls` takes images at."""
        height, width = self.own.image_size
        return height, width

    @property
    def prompts(self) -> bool:
        """Does it take prompts, and not class names?"""
        return bool(getattr(self.own, "templates", True))

    @property
    def mean_colour(self) -> tuple[int, int, int]:
        """RGB of what is outside the mask of a crop."""
        red, green, blue = getattr(self.own, "fill_colour", _IMAGENET)
        return red, green, blue

    @property
    def strides(self) -> Pair:
        """Height and width in pixels of what one dense token stands for."""
        return self.own.stride, self.own.stride

    def grid(self, config: DenseConfig) -> Pair:
        """(h, w) of `dense`. Raises UserError for a size that is no multiple of the stride."""
        (height, width), stride = config.pixels, self.own.stride
        if height % stride or width % stride:
            fitting = [max(1, round(side / stride)) * stride for side in (height, width)]
            raise UserError(
                f"dense.size=[{height}, {width}]: {self.spec} has one token per {stride} pixels of "
                f"each side. Give multiples of that, like {fitting}"
            )
        return height // stride, width // stride

    def dense_passes(self, config: DenseConfig) -> tuple[DensePass, ...]:
        """The passes of `dense`. Raises UserError as `grid`."""
        self.grid(config)
        return dense_passes(config, self.strides)

    def dense_path(self, _: DenseConfig) -> str:
        """The object has its own way."""
        return "own"

    def fitted(self, image: NDArray[np.uint8], size: Pair) -> NDArray[np.uint8]:
        """An image resized to `size` (rows, columns)."""
        return resized(image, size, interpolation=self.interpolation, resize=self.resize)

    def cls(self, images: Sequence[Seen]) -> NDArray[np.float32]:
        """(n, D) tokens of whole images. Raises UserError for a wrong shape."""
        image_nHW3 = self._pixels(images, self.native_size)
        with self.around_pass(len(images)):
            return self._called("cls", image_nHW3, (len(images), self.width))

    def dense(self, images: Sequence[Seen], config: DenseConfig) -> NDArray[np.float32]:
        """(n, D, h, w) tokens of whole images: of one plain pass as the object gives them; else
        the mean of the unit tokens of all passes. Raises UserError for a wrong shape.
        """
        if config.plain:
            image_nHW3 = self._pixels(images, config.pixels)
            with self.around_pass(len(images)):
                return self._dense(image_nHW3)
        grid, passes = self.grid(config), self.dense_passes(config)
        mean_nDhw = np.zeros((len(images), self.width, *grid), np.float32)
        for seen in passes:
            times = seen.windows * (2 if config.flip else 1)
            for part in slices(len(images), seen.at_once(len(images), config.pixels)):
                pixel_n3HW = torch.from_numpy(self._pixels(images[part], seen.size)).movedim(3, 1)
                with self.around_pass(times * len(pixel_n3HW)):
                    token_nDhw = pass_tokens(
                        self._encoded, pixel_n3HW, seen, grid, flip=config.flip
                    )
                mean_nDhw[part] += token_nDhw.numpy()
        return mean_nDhw / np.float32(len(passes))

    def text(self, prompts: Sequence[str]) -> NDArray[np.float32]:
        """(n, D) embeddings. Raises UserError for a wrong shape, or for one that says nothing."""
        token_nD = self._called("text", list(prompts), (len(prompts), self.width))
        good_n = np.isfinite(token_nD).all(1) & token_nD.any(1)
        if not good_n.all():
            text = prompts[int(np.flatnonzero(~good_n)[0])]
            raise UserError(
                f"{self.spec}: text() gives NaN, infinity or only zeros for '{text}'. Mend it there"
            )
        return token_nD

    def within(self, around_pass: AroundPass) -> "OwnTeacher":
        """Itself, with `around_pass` around its passes."""
        return replace(self, around_pass=around_pass)

    def _pixels(self, images: Sequence[Seen], size: Pair) -> NDArray[np.uint8]:
        """(n, H, W, 3) of one size."""
        pixels = [pixels_at(each, size) for each in images]
        if any(each.shape[:2] != size for each in pixels):
            pixels = in_threads(lambda each: self.fitted(each, size), pixels)
        return np.stack(pixels)

    def _encoded(self, pixel_n3HW: Tensor) -> Tensor:
        return torch.from_numpy(self._dense(np.ascontiguousarray(pixel_n3HW.movedim(1, 3).numpy())))

    def _dense(self, image_nHW3: NDArray[np.uint8]) -> NDArray[np.float32]:
        images, height, width, _ = image_nHW3.shape
        stride = self.own.stride
        return self._called(
            "dense", image_nHW3, (images, self.width, height // stride, width // stride)
        )

    def _called(self, method: str, given: Any, shape: tuple[int, ...]) -> NDArray[np.float32]:
        """What a method of the object gives. Raises UserError for an error and a wrong shape."""
        try:
            with torch.inference_mode():
                made = getattr(self.own, method)(given)
            if isinstance(made, Tensor):
                made = made.detach().float().cpu().numpy()
            values = np.asarray(made)
        except (UserError, MemoryError, torch.OutOfMemoryError):
            raise
        except Exception as error:  # whatever the user's code meets
            raise UserError(
                f"{self.spec}: {method}() raised {described(error)}. Mend it"
            ) from error
        if values.shape != shape or values.dtype.kind != "f":
            of = f"of images {given.shape}" if isinstance(given, np.ndarray) else f"of {len(given)}"
            raise UserError(
                f"{self.spec}: {method}() {of} gives {values.dtype} {values.shape}, not floats "
                f"{shape}. Mend it there, or what it says of width and stride"
            )
        return values.astype(np.float32)


def open_own(
    files: TeacherFiles, *, device: Literal["auto", "cpu", "cuda"], resize: Resize = "pillow"
) -> OwnTeacher:
    """The user's object, built in this process. Raises UserError where it is another one here."""
    here = resolve_teacher(files.spec, typed=True)
    if here.recipe() != files.recipe():
        raise UserError(
            f"{files.spec}: is another teacher here than where the command was given. Bring the "
            "same file and weights to this machine"
        )
    return OwnTeacher(
        spec=files.spec,
        own=build_own(files.spec, source_hash(files.spec)),
        device=choose_device(device),
        resize=resize,
    )
