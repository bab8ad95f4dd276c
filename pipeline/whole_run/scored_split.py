"""Which images a student is scored on: those of a split that it is not trained on, with labels."""

from dataclasses import dataclass
from pathlib import Path

from zsseg.stages.data.held_out_split import held_out_names, held_out_split
from zsseg.stages.data.spec import DatasetSpec
from zsseg.stages.data.splits import training_samples


@dataclass(frozen=True)
class ScoredSplit:
    """What there is to score and to look at."""

    name: str | None
    """The split that can be scored; None: there is none."""
    missing: str
    """Why not, and what to do; empty where it can be."""
    images: Path
    """A folder of images to predict: of the split held out, else of those trained on."""


def scored_split(spec: DatasetSpec, root: Path) -> ScoredSplit:
    """The split to score, of those that are there. Raises DatasetError without any image."""
    if found := held_out_split(spec, root):
        return ScoredSplit(found.name, "", found.samples[0].image.parent)
    names = held_out_names(spec, root)
    if not names:
        images = training_samples(spec, root, "train")[0].image.parent
        held = "put some images and their labels into a split of their own, such as `val`"
        return ScoredSplit(None, f"no images are held out of training: {held}", images)
    images = training_samples(spec, root, names[0])[0].image.parent
    missing = f"no image of the split '{names[0]}' has a label: with labels for some it is scored"
    return ScoredSplit(None, missing, images)
