"""Which images are held out of training and can score a student: those of a split with labels."""

from dataclasses import dataclass
from pathlib import Path

from zsseg.stages.data.samples import Sample
from zsseg.stages.data.spec import DatasetSpec
from zsseg.stages.data.splits import list_samples, splits
from zsseg.stages.errors import DatasetError

_USUAL = ("val", "validation", "valid", "test")
_TRAINED = ("train", "all", "trainval")


@dataclass(frozen=True)
class HeldOutSplit:
    """A split that is not trained on."""

    name: str
    samples: tuple[Sample, ...]
    """Its images with a label, by id."""


def held_out_names(spec: DatasetSpec, root: Path) -> list[str]:
    """Names of the splits that are there and not trained on, the usual ones first.

    Raises DatasetError where there is no such folder.
    """
    there = splits(spec, root)
    usual = [name for name in _USUAL if name in there]
    return usual + [name for name in there if name not in (*_USUAL, *_TRAINED)]


def held_out_split(spec: DatasetSpec, root: Path) -> HeldOutSplit | None:
    """The first of `held_out_names` of which an image has a label; None: there is none."""
    for name in held_out_names(spec, root):
        if samples := labelled_samples(spec, root, name):
            return HeldOutSplit(name, samples)
    return None


def labelled_samples(spec: DatasetSpec, root: Path, split: str) -> tuple[Sample, ...]:
    """The images of a split that have a label; () also where there is no such split."""
    try:
        return tuple(each for each in list_samples(spec, root, split) if each.label is not None)
    except DatasetError:  # there are no labels, or no images
        return ()
