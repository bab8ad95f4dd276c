"""Folds: seen classes that a training is not shown, and images that no training is shown.

Everything here follows from visible labels: pixels of unseen classes are void.
"""

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from zsseg.stages.cache.format.recipe import fingerprint
from zsseg.stages.cache.reader import Store
from zsseg.stages.data.samples import Sample
from zsseg.stages.data.spec import VOID, DatasetSpec
from zsseg.stages.data.visible import read_visible_label
from zsseg.stages.errors import DatasetError, UserError
from zsseg.stages.train.batches.store_check import stored_samples

_DIGITS = 8


@dataclass(frozen=True)
class HeldOut:
    """The images of a store, divided: the first ones are trained on, the others scored."""

    trained: int
    samples: tuple[Sample, ...]
    """The images to score: those after the first `trained` that have a label."""
    pixels: Mapping[int, int]
    """Labelled pixels of each seen class in these, by class id; classes without any are left
    out."""


@dataclass(frozen=True)
class Fold:
    """Seen classes that one training is not shown."""

    spec: DatasetSpec
    """The data set, these classes among the unseen ones."""
    hidden: tuple[str, ...]
    """In class order."""
    held_out: HeldOut

    @property
    def hidden_ids(self) -> tuple[int, ...]:
        """Their class ids."""
        return tuple(i for i, name in enumerate(self.spec.classes) if name in self.hidden)

    @property
    def key(self) -> str:
        """A name for its folder: of equal folds the same."""
        images = [sample.id for sample in self.held_out.samples]
        identity = {
            "hidden": list(self.hidden),
            "unseen": list(self.spec.unseen),
            "trained": self.held_out.trained,
            "scored": images,
            "pixels": {str(i): count for i, count in sorted(self.held_out.pixels.items())},
        }
        return f"fold-{fingerprint(identity)[:_DIGITS]}"


def divide(store: Store, spec: DatasetSpec, root: Path, *, share: float) -> HeldOut:
    """`hold_out` of a store's images."""
    usable_N = store.read_all("status") == 0
    return hold_out(spec, stored_samples(store, spec, root), usable_N.tolist(), share=share)


def hold_out(
    spec: DatasetSpec, samples: Sequence[Sample], usable: Sequence[bool], *, share: float
) -> HeldOut:
    """Hold the last `share` of a store's images out.

    `samples`, `usable`: by row of the store. The last ones, not random ones: of images that follow
    each other in a video, neighbours would be trained on and scored. Raises UserError where no
    image is left to train on, DatasetError where none of the others has a label.
    """
    trained = len(samples) - max(1, round(share * len(samples)))
    if trained < 1:
        raise UserError(
            f"--hold-out {share:g}: leaves none of {len(samples)} images to train on. Give a "
            "smaller share, or a store of more images"
        )
    held = tuple(
        sample
        for sample, good in zip(samples[trained:], usable[trained:], strict=True)
        if good and sample.label is not None
    )
    pixels = _visible_pixels(spec, held)
    if not pixels:
        raise DatasetError(
            f"'{spec.name}': no label of the {len(samples) - trained} images held out shows a seen "
            "class, so there is nothing to score with. Give a larger --hold-out"
        )
    return HeldOut(trained, held, pixels)


def _visible_pixels(spec: DatasetSpec, samples: Sequence[Sample]) -> dict[int, int]:
    count_V = np.zeros(VOID + 1, np.int64)

    def count(sample: Sample) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
        return np.bincount(read_visible_label(spec, sample).reshape(-1), minlength=VOID + 1)

    with ThreadPoolExecutor() as threads:
        for found_V in threads.map(count, samples):
            count_V += found_V
    return {int(i): int(count_V[i]) for i in spec.seen_ids if count_V[i]}


def make_folds(
    spec: DatasetSpec, held_out: HeldOut, *, folds: int, given: Sequence[str]
) -> list[Fold]:
    """Folds that hide the `given` groups of classes ("tree, car"), else groups of our choice.

    Raises UserError where there is nothing to hide, and for groups that cannot be scored.
    """
    if not spec.unseen or len(spec.seen_ids) < 2:
        few = "only one" if spec.seen_ids else "no"
        lacking = f"{few} class is seen" if spec.unseen else "no class is unseen"
        raise UserError(
            f"'{spec.name}': {lacking}. `zsseg tune` chooses settings for unseen classes by scores "
            "of seen ones that it hides, and trains on others. Give a store of a data set that has "
            "both with --cache"
        )
    groups = [_group(spec, held_out, text) for text in given] or hidden_groups(
        spec, held_out.pixels, folds=folds
    )
    return [
        Fold(spec.model_copy(update={"unseen": (*spec.unseen, *group)}), group, held_out)
        for group in groups
    ]


def hidden_groups(
    spec: DatasetSpec, pixels: Mapping[int, int], *, folds: int
) -> list[tuple[str, ...]]:
    """As many disjoint groups of seen classes as `folds`, each in class order.

    A group has as large a share of the seen classes as the unseen ones have of all. Classes are
    ranked by their `pixels` and dealt out, so that each group has frequent and rare ones. Raises
    UserError when there are too few classes.
    """
    seen = len(spec.seen_ids)
    ranked = sorted(pixels, key=lambda i: (-pixels[i], i))
    wanted = max(1, round(seen * len(spec.unseen) / len(spec.classes)))
    size = min(wanted, len(ranked) // folds, seen - 1)
    if size < 1:
        raise UserError(
            f"--folds {folds}: each hides another class, and the labels of the images held out "
            f"show {len(ranked)} of {seen} seen classes. Give fewer, or a larger --hold-out"
        )
    count = size * folds
    chosen = [ranked[i * len(ranked) // count] for i in range(count)]
    return [tuple(spec.classes[i] for i in sorted(chosen[first::folds])) for first in range(folds)]


def _group(spec: DatasetSpec, held_out: HeldOut, text: str) -> tuple[str, ...]:
    """The classes of one `--hide`, in class order."""
    names = [name.strip() for name in text.split(",") if name.strip()]
    seen = [spec.classes[i] for i in spec.seen_ids]
    strange = [name for name in names if name not in seen]
    if strange or not names:
        which = f"not a seen class: {', '.join(strange)}" if names else "names no class"
        raise UserError(f"--hide '{text}': {which}. Choose from these: {', '.join(seen)}")
    shown = {spec.classes[i] for i in held_out.pixels}
    if absent := [name for name in names if name not in shown]:
        raise UserError(
            f"--hide '{text}': no label of the images held out shows {', '.join(absent)}, so what "
            "is made of them cannot be scored. Give others, or a larger --hold-out"
        )
    if len(set(names)) == len(seen):
        raise UserError(f"--hide '{text}': these are all seen classes. Leave one to train on")
    return tuple(name for name in spec.classes if name in names)
