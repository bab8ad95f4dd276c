"""What stage one asks of a teacher, whatever it is.

There are three: CLIP (`clip_teacher.py`), an object of the user's own (`own_teacher.py`), and maps
that another system wrote (`token_folder.py`); `open_teacher.py` opens any of them.
Legend: n images or prompts, D width, h w token grid.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from zsseg.stages.precompute.precompute_config import DenseConfig
from zsseg.stages.precompute.teacher.dense_passes import DensePass

Pair = tuple[int, int]
"""Of rows and columns."""

Sized = Mapping[Pair, NDArray[np.uint8]]
"""An image by the heights and widths that it has been resized to."""

Seen = NDArray[np.uint8] | Sized | str
"""An image as a teacher takes it: its pixels (H, W, 3), RGB; or its id, where `by_id`."""

AroundPass = Callable[[int], AbstractContextManager[object]]
"""Called with the number of images (each as often as it passes) and entered around every pass of
them. Threads that share a teacher wait for each other in it, and measure its time."""


def pixels_at(seen: Seen, size: Pair) -> NDArray[np.uint8]:
    """The pixels of an image: those of this height and width where it is there in several."""
    assert not isinstance(seen, str), "a teacher that takes pixels was given an id"
    return seen[size] if isinstance(seen, Mapping) else seen


class Teacher(Protocol):
    """A frozen model that gives images and names embeddings in one space of D numbers.

    What an image gets depends on nothing but this image (not on its batch). No embedding need be of
    length 1. Two threads may call it at once; what must not run twice at once is inside
    `AroundPass`.
    """

    @property
    def width(self) -> int:
        """D."""

    @property
    def native_size(self) -> Pair:
        """Height and width in pixels that `cls` takes images at."""

    @property
    def by_id(self) -> bool:
        """Are images known by their ids, since their tokens were made elsewhere?

        `cls` and `dense` take ids then, and of crops there is no token: local tokens are pooled
        from the dense ones (`pooled_tokens.py`), and there are no recorded views.
        """

    @property
    def tokenizer(self) -> Callable[[list[str]], Tensor] | None:
        """(n, L) what it sees of prompts; None where that is not known."""

    @property
    def prompts(self) -> bool:
        """Are class names put into prompt templates for `text`?"""

    @property
    def device(self) -> torch.device:
        """Where it runs."""

    @property
    def interpolation(self) -> Literal["bilinear", "bicubic"]:
        """How images are resized for it."""

    @property
    def mean_colour(self) -> tuple[int, int, int]:
        """The RGB value (0..255) that says least to it; fills a crop outside its mask."""

    @property
    def strides(self) -> Pair:
        """Height and width in pixels of what one dense token stands for."""

    def grid(self, config: DenseConfig) -> Pair:
        """(h, w) of `dense`. Raises UserError for settings that do not fit the teacher."""

    def dense_passes(self, config: DenseConfig) -> tuple[DensePass, ...]:
        """The passes of `dense`; none where `by_id`. Raises UserError as `grid`."""

    def dense_path(self, config: DenseConfig) -> str:
        """Name of the way that dense tokens are made."""

    def fitted(self, image: NDArray[np.uint8], size: Pair) -> NDArray[np.uint8]:
        """An image resized to `size` (rows, columns) as this teacher does it."""

    def cls(self, images: Sequence[Seen]) -> NDArray[np.float32]:
        """(n, D) global tokens of whole images or of crops. Raises UserError for wrong tokens."""

    def dense(self, images: Sequence[Seen], config: DenseConfig) -> NDArray[np.float32]:
        """(n, D, h, w) tokens of whole images. Raises UserError for wrong tokens."""

    def text(self, prompts: Sequence[str]) -> NDArray[np.float32]:
        """(n, D) embeddings of prompts, or of names. Raises UserError where one has none."""

    def within(self, around_pass: AroundPass) -> "Teacher":
        """Itself, with `around_pass` around its passes."""
