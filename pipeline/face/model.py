"""A trained student as one object: `zsseg.load`.

Legend: D CLIP width, H W pixels, h w positions of the student's feature.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal, overload

import numpy as np
from numpy.typing import NDArray

from zsseg.pipeline.face.given_image import GivenImage, checked_path, rgb_image
from zsseg.pipeline.run_options import text_encoder
from zsseg.stages.errors import UserError
from zsseg.stages.evaluate.asked_names import AskedNames, ask_names, default_background
from zsseg.stages.evaluate.confidence_measure import Measure
from zsseg.stages.evaluate.inference import prepared, student_feature
from zsseg.stages.evaluate.prediction import Prediction
from zsseg.stages.evaluate.predictor import Predictor
from zsseg.stages.evaluate.trained_run import TrainedRun, load_run
from zsseg.stages.share.hub import is_hub_name, pulled

if TYPE_CHECKING:
    from zsseg.stages.export.export_run import Exported


class Model:
    """A trained student, ready to be asked for any class names. Made by `zsseg.load`.

    CLIP is loaded only for names that are new to the run; their embeddings are kept in its folder.
    """

    def __init__(self, run: TrainedRun, *, teacher: str | None = None) -> None:
        self.run = run
        self._checked = False
        self.teacher = teacher
        """Where the run's CLIP is now; None: where it was when the store was made."""

    @property
    def classes(self) -> tuple[str, ...]:
        """The classes that the student was trained with, unseen ones included."""
        return self.run.spec.classes

    @overload
    def predict(
        self,
        images: GivenImage,
        classes: Sequence[str] | None = None,
        *,
        background: Sequence[str] | None = None,
        unsure: float = 0.0,
        confidence: Measure = "margin",
    ) -> Prediction: ...

    @overload
    def predict(
        self,
        images: list[GivenImage] | tuple[GivenImage, ...],
        classes: Sequence[str] | None = None,
        *,
        background: Sequence[str] | None = None,
        unsure: float = 0.0,
        confidence: Measure = "margin",
    ) -> list[Prediction]: ...

    def predict(
        self,
        images: GivenImage | list[GivenImage] | tuple[GivenImage, ...],
        classes: Sequence[str] | None = None,
        *,
        background: Sequence[str] | None = None,
        unsure: float = 0.0,
        confidence: Measure = "margin",
    ) -> Prediction | list[Prediction]:
        """Label an image, or each image of a list; they may differ in size, and small ones that
        the student sees whole in one size go through it together.

        `classes`: any names, a bar between several names of one class ('car|van'); None: the run's.
        `background`: names of what else is there, whose pixels become void (255); None: the run's
        (`evaluate.background`). `unsure`: least
        confidence, 0 to 1; pixels below it become void. `confidence`: what that is (`Measure`).

        Raises UserError for names that cannot be told apart, for values that are no image, and for
        new names where the run's CLIP cannot be found; DatasetError for a file that cannot be read.
        """
        asked = self._asked(self.classes if classes is None else classes, background)
        predictor = Predictor(self.run, asked, unsure, confidence)
        if isinstance(images, list | tuple):
            stems = [_stem(image, f"image_{i:04d}") for i, image in enumerate(images)]
            many = predictor.predict_many([rgb_image(image) for image in images], names=stems)
            return [replace(each, stem=stem) for each, stem in zip(many, stems, strict=True)]
        stem = _stem(images, "image")
        return replace(predictor.predict(rgb_image(images), name=stem), stem=stem)

    def embed(self, image: GivenImage) -> NDArray[np.float32]:
        """(D, h, w) the student's feature of an image, in CLIP's space; not normalised.

        The image is seen whole, at the run's working size. The cosine of a position to a text
        embedding is the score of that name there. Raises as `predict` for what is no image.
        """
        image_3HW = prepared(rgb_image(image), config=self.run.evaluate, stride=self.run.stride)
        return student_feature(self.run.student, image_3HW).cpu().numpy()

    def export(
        self,
        out: str | Path,
        classes: Sequence[str] | None = None,
        *,
        background: Sequence[str] | None = None,
        precision: Literal["fp32", "fp16", "int8"] = "fp32",
        force: bool = False,
    ) -> "Exported":
        """Write the student as one ONNX file with a script that runs it, as `zsseg export` does.

        Without `classes` the file takes any names, as embeddings. Raises UserError as the command.
        """
        from zsseg.stages.export.export_run import ExportOptions, export_run

        if background and classes is None:
            raise UserError(
                f"background={list(background)}: belongs to fixed names. Give classes too"
            )
        fixed = None if classes is None else self._asked(classes, background)
        options = replace(ExportOptions(), precision=precision, force=force)
        return export_run(self.run, Path(out), fixed=fixed, options=options)

    def save_pretrained(
        self, folder: str | Path, *, image: str | Path | None = None, force: bool = False
    ) -> Path:
        """Write a folder that `zsseg.load` takes anywhere: weights, names, settings, a model card.

        `image`: one that may be handed on, for the card's picture. Raises UserError where something
        is there already.
        """
        from zsseg.stages.share.save_pretrained import save_pretrained

        shown = None if image is None else Path(image)
        save_pretrained(self.run, Path(folder), image=shown, force=force)
        return Path(folder)

    def _asked(self, classes: Sequence[str], background: Sequence[str] | None) -> AskedNames:
        if background is None:
            background = default_background(self.run, classes)
        encode = text_encoder(self.run, self.teacher)
        # Once is enough: it is loaded to see that it is the run's own.
        teacher = None if self._checked else self.teacher
        asked = ask_names(self.run, classes, background, encode=encode, teacher=teacher)
        self._checked = True
        return asked

    def __repr__(self) -> str:
        return f"<zsseg.Model {self.run.path}, step {self.run.step}, {len(self.classes)} classes>"


def load(
    path: str | Path,
    *,
    device: Literal["auto", "cpu", "cuda"] = "auto",
    teacher: str | None = None,
) -> Model:
    """The trained student of a run folder, of a folder of `save_pretrained`, or of the Hub.

    `path` may be ORG/NAME, a repository of the Hugging Face Hub, where there is no such folder
    here. `teacher`: where the run's CLIP is now, for names that are new to the run; None: where it
    was when the store was made. No code of the folder is run. Raises UserError when there is no run
    or no intact checkpoint, or a file that could carry code, ResourceError when `device` is not
    there or the Hub cannot be reached.
    """
    folder = checked_path(path)
    if isinstance(path, str) and not folder.exists() and is_hub_name(path):
        folder = pulled(path)
    return Model(load_run(folder, device=device), teacher=teacher)


def _stem(image: GivenImage, without: str) -> str:
    """What the files of an image are called; `without`: where it is no file itself."""
    return Path(image).stem if isinstance(image, str | Path) else without
