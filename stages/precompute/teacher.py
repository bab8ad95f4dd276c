"""The frozen CLIP that stage one runs over the data: images and prompts in, tokens out.

With `dense.py` the only door to open_clip; `teacher_files.py` finds the files without it.
Legend: n images or prompts, H W pixels, D CLIP width, h w token grid.
"""

import logging
import pickle
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import open_clip
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from torch import Tensor

from stages.data.images import resize_image
from stages.errors import ResourceError, UserError
from stages.precompute.config import DenseConfig
from stages.precompute.dense import dense_path, dense_tokens, token_grid
from stages.precompute.teacher_files import TeacherFiles

logger = logging.getLogger(__name__)

Colour = tuple[float, float, float]


@dataclass(frozen=True)
class Teacher:
    """A loaded CLIP in evaluation mode and fp32. Make one with `load_teacher`."""

    model: Any
    tokenizer: Callable[[list[str]], Tensor]
    device: torch.device
    width: int
    """CLIP width D."""
    native_size: tuple[int, int]
    """Height and width in pixels that the image tower was trained with."""
    mean: Colour
    std: Colour
    interpolation: Literal["bilinear", "bicubic"]
    turn: Callable[[int], AbstractContextManager[object]] = nullcontext
    """Entered with the number of images around every forward pass of them: whose turn it is at the
    model, where several threads share it, and what it cost."""

    @property
    def mean_colour(self) -> tuple[int, int, int]:
        """The RGB value (0..255) nearest to what the image tower sees as zero."""
        red, green, blue = (round(255 * value) for value in self.mean)
        return red, green, blue

    def cls(self, images: Sequence[NDArray[np.uint8]]) -> NDArray[np.float32]:
        """(n, D) global tokens of whole images (H, W, 3), not normalised.

        Each image is squeezed to the native size rather than cropped, so that its token speaks of
        all of it.
        """
        with self.turn(len(images)), torch.inference_mode():
            return _to_numpy(self.model.encode_image(self._pixels(images, self.native_size)))

    def dense(
        self, images: Sequence[NDArray[np.uint8]], config: DenseConfig
    ) -> NDArray[np.float32]:
        """(n, D, h, w) tokens of whole images (H, W, 3) in the text space, not normalised."""
        with self.turn(len(images)), torch.inference_mode():
            return _to_numpy(
                dense_tokens(self.model.visual, self._pixels(images, config.size), config)
            )

    def grid(self, config: DenseConfig) -> tuple[int, int]:
        """(h, w) of `dense`. Raises UserError when the size does not fit the image tower."""
        return token_grid(self.model.visual, config.size)

    def dense_path(self, config: DenseConfig) -> str:
        """The path that `dense` takes: the one asked for, where the image tower has it."""
        return dense_path(self.model.visual, config)

    def text(self, prompts: Sequence[str]) -> NDArray[np.float32]:
        """(n, D) embeddings of prompts, not normalised."""
        with torch.inference_mode():
            token_nL = self.tokenizer(list(prompts)).to(self.device)
            return _to_numpy(self.model.encode_text(token_nL))

    def fitted(self, image: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
        """An image as this teacher sees it at `size` (rows, columns); in threads, before its turn.

        `cls` sees images at `native_size`, `dense` at its configuration's size; what has that size
        is not resized again.
        """
        if image.shape[:2] == size:
            return image
        return resize_image(image, size, interpolation=self.interpolation)

    def _pixels(self, images: Sequence[NDArray[np.uint8]], size: tuple[int, int]) -> Tensor:
        """(n, 3, H, W) normalised pixels of images resized to `size`."""
        resized_nHW3 = np.stack([self.fitted(image, size) for image in images])
        pixel_n3HW = torch.from_numpy(resized_nHW3).to(self.device).permute(0, 3, 1, 2).float()
        mean, std = (
            torch.tensor(value, device=self.device).view(3, 1, 1) for value in (self.mean, self.std)
        )
        return pixel_n3HW.div_(255).sub_(mean).div_(std)


def load_teacher(files: TeacherFiles, *, device: Literal["auto", "cpu", "cuda"]) -> Teacher:
    """Load a teacher onto `auto`, `cpu` or `cuda` (auto: cuda where torch can use it).

    Raises UserError for weights that do not fit the model, ResourceError when the GPU or the
    tokenizer is missing.
    """
    gpu = device != "cpu" and torch.cuda.is_available()
    if device == "cuda" and not gpu:
        raise ResourceError("device=cuda, but torch finds no usable GPU. Use device=cpu or auto")
    target = torch.device("cuda" if gpu else "cpu")
    preprocessing = _file_preprocessing(files) if files.pretrained == str(files.weights) else {}
    try:
        model = open_clip.create_model(
            files.model,
            pretrained=files.pretrained,
            require_pretrained=True,
            device=target,
            force_preprocess_cfg=preprocessing,
        )
    except (
        OSError,
        EOFError,
        RuntimeError,
        ValueError,
        TypeError,
        KeyError,
        SafetensorError,
        pickle.UnpicklingError,
    ) as error:
        reason = " ".join(str(error).split())[:300]
        raise UserError(
            f"{files.spec}: open_clip cannot load {files.weights}: {reason}. "
            "Check that the file is whole, belongs to this model and is no TorchScript archive"
        ) from error
    try:
        tokenizer = open_clip.get_tokenizer(files.model)
    except (OSError, ImportError) as error:
        raise ResourceError(
            f"{files.spec}: its tokenizer is missing: {error}. Install the package `transformers` "
            "and, without network, put the tokenizer's files beside the weights (local-dir:FOLDER)"
        ) from error
    settings = model.visual.preprocess_cfg
    if settings["interpolation"] not in {"bilinear", "bicubic"}:
        raise UserError(
            f"{files.spec}: interpolation {settings['interpolation']!r} of its preprocess_cfg is "
            "neither bilinear nor bicubic"
        )
    height, width = _pair(settings["size"])
    return Teacher(
        model=model.eval().requires_grad_(False),
        tokenizer=tokenizer,
        device=target,
        width=files.width,
        native_size=(height, width),
        mean=tuple(settings["mean"]),
        std=tuple(settings["std"]),
        interpolation=settings["interpolation"],
    )


def _file_preprocessing(files: TeacherFiles) -> dict[str, Any]:
    """Preprocessing for a built-in model with a weights file, which does not tell its own.

    Taken from the model's published weights; open_clip would assume OpenAI's mean and standard
    deviation even for SigLIP.
    """
    tags = open_clip.list_pretrained_tags_by_model(files.model)
    published = [open_clip.get_pretrained_cfg(files.model, tag) for tag in tags]
    keys = ("mean", "std", "interpolation")
    choices = {(tuple(p["mean"]), tuple(p["std"]), p["interpolation"]) for p in published}
    if len(choices) == 1:
        return dict(zip(keys, choices.pop(), strict=True))
    logger.warning(
        "%s: the file does not tell its image preprocessing; OpenAI's is assumed. "
        "To state another, use local-dir:FOLDER with preprocess_cfg in open_clip_config.json",
        files.spec,
    )
    return {}


def _pair(size: int | Sequence[int]) -> tuple[int, int]:
    if isinstance(size, int):
        return size, size
    height, width = size
    return height, width


def _to_numpy(values: Tensor) -> NDArray[np.float32]:
    array: NDArray[np.float32] = values.float().cpu().numpy()
    return array
