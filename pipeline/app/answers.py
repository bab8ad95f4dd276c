"""What students, and their teacher beside them, make of an image and of names as a person types.

Legend: C classes, H W pixels of the image.
"""

import base64
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from zsseg.pipeline.face.model import Model
from zsseg.pipeline.run_options import read_names, text_encoder
from zsseg.stages.data.images import jpeg_bytes, read_image, resize_image
from zsseg.stages.errors import UserError
from zsseg.stages.evaluate.asked_names import ask_names
from zsseg.stages.evaluate.labelling import upsampled_argmax
from zsseg.stages.evaluate.overlay import overlay
from zsseg.stages.evaluate.prediction import Prediction
from zsseg.stages.evaluate.teacher_evaluation import named_scores
from zsseg.stages.evaluate.vocabulary import checked_names
from zsseg.stages.precompute.preview import LoneTeacher

_LONGEST = 1280
"""Pixels of the longer side of a picture sent to the page. [ours]"""


@dataclass(frozen=True)
class Question:
    """What the page asks for."""

    run: str
    names: str
    """As typed: commas between classes, a bar between several names of one."""
    off: tuple[str, ...] = ()
    """Those of the names that are switched off."""
    unsure: float = 0.0
    """Pixels of less confidence have no class."""


@dataclass(frozen=True)
class Students:
    """The runs by the name that the page shows, and their teacher, where it is to be seen."""

    models: Mapping[str, Model]
    teacher: LoneTeacher | None = None

    def answer(self, question: Question, content: bytes, *, file: str) -> dict[str, object]:
        """What the page shows, as values of JSON; without an image (no bytes) the names alone.

        `content`: the bytes of an image file, called `file` in messages. Raises UserError for
        names as `Model.predict` does, DatasetError for what is no image.
        """
        if question.run not in self.models:
            raise UserError(f"run '{question.run}': not one of {', '.join(self.models)}")
        model = self.models[question.run]
        names = typed_names(question.names)
        on = [name for name in names if name not in question.off]
        if not on:
            raise UserError(f"names '{question.names}': all are switched off. Choose one at least")
        if not content:
            return {"names": [_name(name, on=name in on) for name in names]}
        image_HW3 = read_image(Path(file), content)
        started = time.perf_counter()
        found = model.predict(image_HW3, on, unsure=question.unsure)
        spent = time.perf_counter() - started
        colour_of = dict(zip(found.classes, found.colours, strict=True))
        shares = found.shares()
        return {
            "names": [
                _name(name, colour_of.get(name), shares.get(name, 0.0), on=name in on)
                for name in names
            ],
            "size": [image_HW3.shape[1], image_HW3.shape[0]],
            "picture": _data(image_HW3),
            "overlay": _data(found.overlay_pixels()),
            "confidence": _data(_grey(found)),
            "mean_confidence": found.mean_confidence,
            "unsure": found.void_share(),
            "milliseconds": 1000 * spent,
            "teacher": self._teacher(model, on, image_HW3, found.palette),
        }

    def _teacher(
        self,
        model: Model,
        names: Sequence[str],
        image_HW3: NDArray[np.uint8],
        palette: NDArray[np.uint8],
    ) -> dict[str, object] | None:
        if self.teacher is None:
            return None
        encode = text_encoder(model.run, model.teacher)
        text_CD = ask_names(model.run, names, encode=encode).text_KD.cpu().numpy()
        started = time.perf_counter()
        map_4yx = self.teacher.name_pixels(image_HW3, text_CD)
        label_HW = upsampled_argmax(named_scores(map_4yx, len(names)), image_HW3.shape[:2])
        return {
            "milliseconds": 1000 * (time.perf_counter() - started),
            "overlay": _data(overlay(image_HW3, label_HW, palette)),
        }


def typed_names(text: str) -> tuple[str, ...]:
    """Class names of a text field. Raises UserError for none, and for some that are equal."""
    if text.strip().startswith("@"):  # a file, on the command line
        raise UserError(
            f"names '{text.strip()}': a name cannot begin with @. Give the names themselves"
        )
    return checked_names(read_names(" ".join(text.split("\n")), "names"))


def _name(
    name: str, colour_3: NDArray[np.uint8] | None = None, share: float = 0.0, *, on: bool
) -> dict[str, object]:
    colour = None if colour_3 is None else "#{:02x}{:02x}{:02x}".format(*colour_3)
    return {"name": name, "colour": colour, "share": share, "on": on}


def _grey(found: Prediction) -> NDArray[np.uint8]:
    grey_HW = np.rint(255 * found.confidence).astype(np.uint8)
    return np.repeat(grey_HW[:, :, None], 3, axis=2)


def _data(image_HW3: NDArray[np.uint8]) -> str:
    height, width = image_HW3.shape[:2]
    scale = min(1.0, _LONGEST / max(height, width))
    if scale < 1:
        shown = max(1, round(height * scale)), max(1, round(width * scale))
        image_HW3 = resize_image(image_HW3, shown)
    return f"data:image/jpeg;base64,{base64.b64encode(jpeg_bytes(image_HW3)).decode()}"
