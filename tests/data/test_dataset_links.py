"""Links in a data set: one to a file is that file, a circle a named image, a folder nothing."""

from pathlib import Path

import pytest

from zsseg.stages.data.images import read_image
from zsseg.stages.data.spec import load_spec
from zsseg.stages.data.splits import list_samples
from zsseg.stages.errors import DatasetError


def test_links_are_files_and_circles_end(tiny_world: Path) -> None:
    folder = tiny_world.parent / "images" / "train"
    before = [s.id for s in list_samples(load_spec(str(tiny_world)), tiny_world.parent, "train")]
    (folder / "round").symlink_to(".")
    (folder / "itself.png").symlink_to("itself.png")
    (folder / "nowhere.png").symlink_to("gone.png")
    (folder / "other.png").symlink_to(folder / "scene_000.png")
    samples = list_samples(load_spec(str(tiny_world)), tiny_world.parent, "train")
    assert [s.id for s in samples] == sorted([*before, "itself", "nowhere", "other"])
    for name, why in (("itself", "Too many levels"), ("nowhere", "No such file")):
        with pytest.raises(DatasetError, match=rf"{name}\.png: cannot be read as an image.*{why}"):
            read_image(folder / f"{name}.png")
    assert (read_image(folder / "other.png") == read_image(folder / "scene_000.png")).all()
