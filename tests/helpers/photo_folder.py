"""Small folders of photographs, as users have them, and what `zsseg init` makes of one."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from helpers.zsseg_command import zsseg
from zsseg.stages.data.images import write_png
from zsseg.stages.data.labels import read_label
from zsseg.stages.data.spec import DatasetSpec, load_spec
from zsseg.stages.data.splits import list_samples

SIZE = (24, 40)


def photograph(path: Path, *, seed: int = 0, size: tuple[int, int] = SIZE) -> Path:
    """A picture in which no two neighbours are equal, as a PNG."""
    rng = np.random.default_rng(seed)
    write_png(path, rng.integers(0, 256, (*size, 3), dtype=np.uint8))
    return path


def photographs(folder: Path, count: int, *, name: str = "photo_{}.png") -> list[Path]:
    return [photograph(folder / name.format(i), seed=i) for i in range(count)]


def halves(left: int, right: int, *, size: tuple[int, int] = SIZE) -> NDArray[np.uint8]:
    """A label of two values side by side."""
    label_HW = np.full(size, left, dtype=np.uint8)
    label_HW[:, size[1] // 2 :] = right
    return label_HW


def made_of(folder: Path, *options: object, code: int = 0) -> tuple[DatasetSpec, Path]:
    """What `zsseg init` makes of a folder: the description and the new folder.

    It is what `zsseg dataset verify` accepts, and the user's folder is as before.
    """
    description = folder.parent / f"made-of-{folder.name}.yaml"
    before = contents(folder)
    assert zsseg("init", folder, "--out", description, "-q", *options) == code
    assert contents(folder) == before
    assert zsseg("dataset", "verify", description, "-q") == 0
    made = description.with_name(f"{description.stem}-zsseg")
    assert (made / "check.html").read_text(encoding="utf-8").startswith("<!doctype html>")
    return load_spec(str(description)), made


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def labels_of(spec: DatasetSpec, made: Path) -> dict[str, NDArray[np.uint8]]:
    """The class ids of each labelled image, of all splits, by the name of the image."""
    splits = sorted(each.name for each in (made / "images").iterdir())
    samples = [sample for split in splits for sample in list_samples(spec, made, split)]
    return {sample.id: read_label(spec, sample) for sample in samples if sample.label}
