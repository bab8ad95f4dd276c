"""One image of a data set with the file that holds its label."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from zsseg.stages.data.pascal_context import RunLengthMasks

LabelForm = Literal["described", "class-ids", "context-59", "context-masks"]
"""How a label file stores its classes: by the description's encoding, as class ids, or in one of
PASCAL Context's other two formats."""


@dataclass(frozen=True, slots=True, init=False)
class Sample:
    """One image and, where there is one, the file that holds its label.

    The files are kept as text: a Path takes five times the memory, and there are many samples.
    """

    id: str
    """Path of the image below the image folder, with '/' and without extension."""
    image_file: str
    """Path with '/', as is `label_file`."""
    label_file: str | None
    form: LabelForm
    masks: RunLengthMasks | None
    """The label itself, of form `context-masks` (its file holds the labels of all images)."""

    def __init__(
        self,
        id: str,
        image: Path,
        label: Path | None,
        form: LabelForm = "described",
        masks: RunLengthMasks | None = None,
    ) -> None:
        object.__setattr__(self, "id", id)
        object.__setattr__(self, "image_file", image.as_posix())
        object.__setattr__(self, "label_file", label and label.as_posix())
        object.__setattr__(self, "form", form)
        object.__setattr__(self, "masks", masks)

    @property
    def image(self) -> Path:
        """The image's file."""
        return Path(self.image_file)

    @property
    def label(self) -> Path | None:
        """The file that holds its label."""
        return None if self.label_file is None else Path(self.label_file)
