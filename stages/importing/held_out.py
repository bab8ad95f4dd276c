"""Which images are held out of training, for scores."""

import random
import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

TRAIN, VAL = "train", "val"

SHARE = 0.2
"""Of the labelled images, and of the others, that is held out. [ours]"""

_DRAWS = 20

_SPLITS = {
    "train": re.compile(r"^(training|train)(\d*|[_-].*|annot|images?)$"),
    "val": re.compile(r"^(validation|valid|val)(\d*|[_-].*|annot|images?)$"),
    "test": re.compile(r"^(testing|test)(\d*|[_-].*|annot|images?)$"),
}


def splits_of(
    images: Sequence[Path], labelled: Mapping[Path, Collection[int]], root: Path, *, seed: int = 0
) -> tuple[dict[Path, str], bool]:
    """The split of each image, and whether its folders say so.

    `labelled`: image with a label -> the classes that it shows. Folders say so where there is one
    of training and one of validation, each with a labelled image if any image has a label.
    Otherwise a share of the images is held out by chance.
    """
    named = {image: _of_folders(image.relative_to(root).parts[:-1]) for image in images}
    own = {image: split for image, split in named.items() if split}
    in_all = all({TRAIN, VAL} <= {own.get(i) for i in part} for part in _parts(images, labelled))
    if len(own) == len(images) and in_all:
        return own, True
    if len(own) == len(images) and {TRAIN, "test"} == set(own.values()):
        chosen = [image for image in images if own[image] == TRAIN]
        return own | _by_chance(chosen, labelled, seed), True
    return _by_chance(images, labelled, seed), False


def _parts(images: Sequence[Path], labelled: Collection[Path]) -> list[list[Path]]:
    chosen = [image for image in images if image in labelled]
    return [chosen] if chosen else [list(images)]


def _of_folders(parts: Sequence[str]) -> str | None:
    for part in parts:
        for split, pattern in _SPLITS.items():
            if pattern.match(part.casefold()):
                return split
    return None


def _by_chance(
    images: Sequence[Path], labelled: Mapping[Path, Collection[int]], seed: int
) -> dict[Path, str]:
    """The draw, of a few, whose training images show the most classes; the first of equal ones."""
    rng = random.Random(seed)
    draws = [_draw(images, labelled, rng) for _ in range(_DRAWS if labelled else 1)]

    def shown(split: Mapping[Path, str]) -> int:
        return len(
            {c for image, each in labelled.items() if split.get(image) == TRAIN for c in each}
        )

    return max(draws, key=shown)


def _draw(
    images: Sequence[Path], labelled: Collection[Path], rng: random.Random
) -> dict[Path, str]:
    """A share of the labelled images and of the others, at least one of each two.

    Where fewer than two have labels none is held out, unless no image has one.
    """
    split = dict.fromkeys(images, TRAIN)
    with_label = sorted(image for image in images if image in labelled)
    without = sorted(image for image in images if image not in labelled)
    if len(with_label) == 1:
        return split
    for part in (with_label, without):
        if len(part) > 1:
            for image in rng.sample(part, max(1, round(SHARE * len(part)))):
                split[image] = VAL
    return split
