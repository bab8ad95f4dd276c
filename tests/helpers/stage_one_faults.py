"""Faults of stage one, put in on purpose: a wrong token, an interruption before a commit."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from zsseg.stages.cache.writer import Writer
from zsseg.stages.data.images import read_image
from zsseg.stages.precompute.precompute_config import DenseConfig
from zsseg.stages.precompute.teacher.clip_teacher import ClipTeacher


def spoil_tokens(patch: pytest.MonkeyPatch, image: Path, value: float) -> None:
    """Let the teacher say `value` somewhere in the dense tokens of one image, whenever asked."""
    dense, image_HW3 = ClipTeacher.dense, read_image(image)

    def spoiled(self: ClipTeacher, images: Any, config: DenseConfig) -> NDArray[np.float32]:
        tokens = dense(self, images, config)
        fitted_HW3 = self.fitted(image_HW3, config.pixels)
        for i, each in enumerate(images):
            shown = each[config.pixels] if isinstance(each, dict) else each
            if np.array_equal(self.fitted(shown, config.pixels), fitted_HW3):
                tokens[i, 3, 4, 5] = value
        return tokens

    patch.setattr(ClipTeacher, "dense", spoiled)


def kill_commit(patch: pytest.MonkeyPatch, number: int) -> None:
    """Interrupt before this commit, counted from 0."""
    commit, calls = Writer.commit, [0]

    def failing(self: Writer, *args: Any, **kwargs: Any) -> None:
        calls[0] += 1
        if calls[0] > number:
            raise KeyboardInterrupt
        commit(self, *args, **kwargs)

    patch.setattr(Writer, "commit", failing)
