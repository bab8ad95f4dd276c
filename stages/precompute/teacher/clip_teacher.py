"""The frozen CLIP that stage one runs over the data: images and prompts in, tokens out.

open_clip is imported here, in `dense_tokens.py`, and in `teacher_files.py` where it must be asked
for files.
Legend: n images or prompts, H W pixels, D CLIP width, h w token grid.
"""

import logging
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal

import numpy as np
import open_clip
import torch
from numpy.typing import NDArray
from torch import Tensor

from zsseg.stages.device import choose_device
from zsseg.stages.errors import ResourceError, UserError
from zsseg.stages.precompute.precompute_config import DenseConfig, Precision, Resize
from zsseg.stages.precompute.teacher.averaged_tokens import pass_tokens
from zsseg.stages.precompute.teacher.dense_passes import DensePass, dense_passes
from zsseg.stages.precompute.teacher.dense_tokens import (
    dense_path,
    dense_tokens,
    token_grid,
    tower_strides,
)
from zsseg.stages.precompute.teacher.open_clip_parts import (
    load_tokenizer,
    load_weights,
    text_tower_settings,
)
from zsseg.stages.precompute.teacher.passes import Passes
from zsseg.stages.precompute.teacher.private_copy import private_copy
from zsseg.stages.precompute.teacher.resizing import resized
from zsseg.stages.precompute.teacher.teacher_files import TeacherFiles
from zsseg.stages.precompute.teacher.teacher_protocol import AroundPass, Seen, pixels_at
from zsseg.stages.precompute.teacher.teacher_weights import read_weights
from zsseg.stages.precompute.threads import in_threads, slices

logger = logging.getLogger(__name__)

Colour = tuple[float, float, float]


@dataclass(frozen=True)
class ClipTeacher:
    """A loaded CLIP in evaluation mode, its weights in fp32. Make one with `load_teacher`.

    It is a `Teacher`. Images pass in the precision of `passes`, prompts in fp32.
    """

    model: Any
    tokenizer: Callable[[list[str]], Tensor]
    passes: Passes
    width: int
    """CLIP width D."""
    native_size: tuple[int, int]
    """Height and width in pixels that the image tower was trained with."""
    mean: Colour
    std: Colour
    interpolation: Literal["bilinear", "bicubic"]
    resize: Resize = "pillow"
    """What resizes images for it."""
    around_pass: AroundPass = nullcontext
    """Entered around every forward pass of the image tower."""
    by_id: bool = False
    prompts: bool = True

    @property
    def device(self) -> torch.device:
        """Where it runs."""
        return self.passes.device

    @property
    def precision(self) -> Precision:
        """Of the passes over images."""
        return self.passes.precision

    @property
    def mean_colour(self) -> tuple[int, int, int]:
        """The RGB value (0..255) that the normalisation brings nearest to zero."""
        red, green, blue = (round(255 * value) for value in self.mean)
        return red, green, blue

    def cls(self, images: Sequence[Seen]) -> NDArray[np.float32]:
        """(n, D) global tokens of whole images (H, W, 3), not normalised.

        Each image is squeezed to the native size rather than cropped, so that its token describes
        all of it.
        """
        return self._pass(images, self.native_size, self.model.encode_image)

    def dense(self, images: Sequence[Seen], config: DenseConfig) -> NDArray[np.float32]:
        """(n, D, h, w) tokens of whole images (H, W, 3) in the text space.

        An image may also be given in the sizes of `dense_passes`.

        Of one plain pass as the tower gives them; else the mean of the unit tokens of all passes.
        Passes at a larger size than `config.size` take fewer images at a time.
        """
        grid, visual = self.grid(config), self.model.visual
        if config.plain:
            return self._pass(
                images, config.pixels, lambda pixel: dense_tokens(visual, pixel, config)
            )
        passes, mirrored = self.dense_passes(config), 2 if config.flip else 1
        mean_nDhw = np.zeros((len(images), self.width, *grid), np.float32)
        for seen in passes:

            def forward(pixel_n3HW: Tensor, seen: DensePass = seen) -> Tensor:
                return pass_tokens(
                    lambda pixel: dense_tokens(visual, pixel, config),
                    pixel_n3HW,
                    seen,
                    grid,
                    flip=config.flip,
                )

            for part in slices(len(images), seen.at_once(len(images), config.pixels)):
                mean_nDhw[part] += self._pass(
                    images[part], seen.size, forward, times=mirrored * seen.windows
                )
        return mean_nDhw / np.float32(len(passes))

    def grid(self, config: DenseConfig) -> tuple[int, int]:
        """(h, w) of `dense`. Raises UserError when the size does not fit the image tower."""
        return token_grid(self.model.visual, config.pixels)

    def dense_passes(self, config: DenseConfig) -> tuple[DensePass, ...]:
        """The passes of `dense`, each made twice with `config.flip`. Raises UserError as `grid`."""
        return dense_passes(config, self.strides)

    @property
    def strides(self) -> tuple[int, int]:
        """Height and width in pixels of what one dense token stands for."""
        return tower_strides(self.model.visual)

    def dense_path(self, config: DenseConfig) -> str:
        """The path that `dense` takes: see `dense_tokens.dense_path`."""
        return dense_path(self.model.visual, config)

    def text(self, prompts: Sequence[str]) -> NDArray[np.float32]:
        """(n, D) embeddings of prompts, not normalised."""
        with torch.inference_mode():
            token_nL = self.tokenizer(list(prompts)).to(self.device)
            token_nD: NDArray[np.float32] = self.model.encode_text(token_nL).cpu().numpy()
        return token_nD

    def fitted(self, image: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
        """An image resized to `size` (rows, columns) as this teacher does it.

        `cls` takes images at `native_size` and `dense` at the sizes of its passes; both resize
        others.
        """
        return resized(image, size, interpolation=self.interpolation, resize=self.resize)

    def within(self, around_pass: AroundPass) -> "ClipTeacher":
        """Itself, with `around_pass` around its passes."""
        return replace(self, around_pass=around_pass)

    def _pass(
        self,
        given: Sequence[Seen],
        size: tuple[int, int],
        forward: Callable[[Tensor], Tensor],
        *,
        times: int = 1,
    ) -> NDArray[np.float32]:
        """`forward` of the normalised pixels (n, 3, H, W) of images resized to `size`.

        `times`: how often each image passes the tower in it.
        """
        images = [pixels_at(each, size) for each in given]
        if any(image.shape[:2] != size for image in images):
            images = in_threads(lambda image: self.fitted(image, size), images)
        image_nHW3 = self.passes.ready(np.stack(images))
        with self.around_pass(times * len(images)):
            return self.passes.run(lambda few_nHW3: forward(self._pixels(few_nHW3)), image_nHW3)

    def _pixels(self, image_nHW3: Tensor) -> Tensor:
        """(n, 3, H, W) normalised pixels on the device; in memory the channels come last."""
        mean_311, std_311 = self._normal
        pixel_n3HW = image_nHW3.permute(0, 3, 1, 2).float()
        return pixel_n3HW.div_(255).sub_(mean_311).div_(std_311)

    @cached_property
    def _normal(self) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation on the device; copied once, since copying makes it wait."""
        mean_311, std_311 = (
            torch.tensor(value, device=self.device).view(3, 1, 1) for value in (self.mean, self.std)
        )
        return mean_311, std_311


def load_teacher(
    files: TeacherFiles,
    *,
    device: Literal["auto", "cpu", "cuda"],
    precision: Precision = "fp32",
    resize: Resize = "pillow",
) -> ClipTeacher:
    """Load a teacher onto a device (auto: the GPU where torch can use one).

    Raises UserError for weights that do not fit the model, ResourceError when the GPU or the
    tokenizer is missing.
    """
    target = choose_device(device)
    model = _create_model(files, target)
    tokenizer = load_tokenizer(files)
    settings = model.visual.preprocess_cfg
    if settings["interpolation"] not in {"bilinear", "bicubic"}:
        raise UserError(
            f"{files.spec}: interpolation {settings['interpolation']!r} of its preprocess_cfg is "
            "neither bilinear nor bicubic. Set one of them there"
        )
    height, width = _pair(settings["size"])
    if target.type == "cuda":  # on a CPU it would change the last digits of what stores hold
        model.visual.to(memory_format=torch.channels_last)
    return ClipTeacher(
        model=model.eval().requires_grad_(False),
        tokenizer=tokenizer,
        passes=Passes(target, precision),
        width=files.width,
        native_size=(height, width),
        mean=_colour(settings["mean"]),
        std=_colour(settings["std"]),
        interpolation=settings["interpolation"],
        resize=resize,
    )


def _create_model(files: TeacherFiles, device: torch.device) -> Any:
    """The model with its weights; what is built is told by the checked configuration alone."""
    preprocessing = _file_preprocessing(files) if files.pretrained == str(files.weights) else {}
    root = logging.getLogger()
    root.addFilter(_not_about_weights)
    try:
        with private_copy(files.model) as name:
            model = open_clip.create_model(
                name,
                pretrained=files.pretrained,
                load_weights=False,
                pretrained_text=False,
                device=device,
                force_preprocess_cfg=preprocessing,
                **text_tower_settings(name),
            )
    except (OSError, ImportError) as error:
        raise ResourceError(
            f"{files.spec}: cannot build it: {_one_line(error)}. Install or bring what is missing"
        ) from error
    except MemoryError:
        raise
    except Exception as error:  # whatever a model of settings that do not fit together meets
        raise UserError(
            f"{files.spec}: open_clip cannot build a model of its configuration: "
            f"{_one_line(error)}. Correct it, or take the file that was published with the weights"
        ) from error
    finally:
        root.removeFilter(_not_about_weights)
    try:
        load_weights(model, read_weights(files.weights, files.spec))
    except (UserError, MemoryError):
        raise
    except Exception as error:  # of tensors whose number, shape or kind is not expected
        raise UserError(
            f"{files.spec}: {files.weights} does not fit {files.model}: {_one_line(error)}. "
            "Check that these are the weights of this model"
        ) from error
    return model


_ABOUT_WEIGHTS = (
    "No pretrained weights loaded",
    "Local config loaded, but no CLIP weights",
    "Multiple checkpoints found",
)


def _not_about_weights(record: logging.LogRecord) -> bool:
    """Is a record anything but open_clip's warning that it loads no weights? They are loaded after.

    open_clip logs with the root logger.
    """
    return not record.getMessage().startswith(_ABOUT_WEIGHTS)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:300].rstrip(".")


def _file_preprocessing(files: TeacherFiles) -> dict[str, Any]:
    """Preprocessing for a built-in model with a weights file, which says nothing of it.

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


def _colour(value: float | Sequence[float]) -> Colour:
    """A value for each of red, green and blue; a single number is that of all three."""
    if isinstance(value, int | float):
        return value, value, value
    red, green, blue = value
    return red, green, blue
