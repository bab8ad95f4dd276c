"""Documents of the right form with anything in their fields are used, or refused by a message."""

import copy
import json
import random
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.photo_folder import SIZE, photograph

from zsseg.stages.data.images import write_png
from zsseg.stages.errors import UserError
from zsseg.stages.importing.import_folder import ImportRequest, import_folder

JUNK: list[Any] = [None, True, -1, 0, 1e308, float("nan"), float("inf"), 10**30, "", "x", "a.png"]
JUNK += ["../../x", [], {}, [[]], [None], {"a": 1}, [1, 2], "\x00", "🙂"]
BOX = [1, 1, 9, 1, 9, 9, 1, 9]
SIDES = {"original_width": SIZE[1], "original_height": SIZE[0]}
DOCUMENTS: dict[str, Any] = {
    "coco": {
        "images": [{"id": 1, "file_name": "a.png", "height": 24, "width": 40},
                   {"id": 2, "file_name": "b.png"}],
        "categories": [{"id": 1, "name": "x"}, {"id": 2, "name": "y"}],
        "annotations": [
            {"image_id": 1, "category_id": 1, "segmentation": [BOX], "area": 3, "bbox": [1] * 4},
            {"image_id": 2, "category_id": 2,
             "segmentation": {"size": [24, 40], "counts": [3, 5, 952]}},
            {"image_id": 2, "category_id": 1, "segmentation": {"size": [24, 40], "counts": "PP1"}},
        ],
    },
    "panoptic": {
        "images": [{"id": 1, "file_name": "a.png"}],
        "categories": [{"id": 1, "name": "x"}, {"id": 2, "name": "y"}],
        "annotations": [{"image_id": 1, "file_name": "p.png", "segments_info": [
            {"id": 3, "category_id": 1}, {"id": 4, "category_id": 2}]}],
    },
    "labelme": {
        "imagePath": "a.png", "imageHeight": 24, "imageWidth": 40,
        "shapes": [
            {"label": "x", "points": [[1, 1], [9, 1], [9, 9]], "shape_type": "polygon"},
            {"label": "y", "points": [[1, 1], [9, 9]], "shape_type": "rectangle"},
            {"label": "y", "points": [[1, 1], [9, 9]], "shape_type": "circle"},
            {"label": "y", "points": [[1, 1], [9, 9]], "shape_type": "mask", "mask": "AAAA"},
        ],
    },
    "label_studio": [{"id": 1, "data": {"image": "a.png"}, "annotations": [{"result": [
        SIDES | {"value": {"points": [[1, 1], [9, 1], [9, 9]], "polygonlabels": ["x"]}},
        SIDES | {"value": {"rle": [0, 0, 1, 2, 3, 4, 5, 6, 7, 8], "brushlabels": ["y"]}},
    ]}]}],
    "names": {"labels": [{"name": "a", "readable": "A", "color": [1, 2, 3]},
                         {"name": "b", "color": [1, 2, 4]}]},
}  # fmt: skip


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    keys: Iterable[Any] = ()
    if isinstance(value, dict | list):
        keys = value if isinstance(value, dict) else range(len(value))
    for key in keys:
        yield (*path, key)
        yield from places(value[key], (*path, key))


def spoilt(value: Any, rng: random.Random) -> Any:
    """The value with one to three of its parts replaced or missing."""
    value = copy.deepcopy(value)
    for _ in range(rng.randint(1, 3)):
        path = rng.choice([*places(value)] or [()])
        within = value
        for key in path[:-1]:
            within = within[key]
        if not path:
            return rng.choice(JUNK)
        if rng.random() < 0.25 and isinstance(within, dict):
            del within[path[-1]]
        else:
            within[path[-1]] = copy.deepcopy(rng.choice(JUNK))
    return value


@pytest.mark.parametrize("form", DOCUMENTS)
def test_nothing_but_our_own_errors(
    form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Reading the built-in descriptions takes longer than all the rest.
    monkeypatch.setattr("zsseg.stages.importing.import_folder.builtin_names", lambda folder: [])
    photos = tmp_path / "photos"
    for seed, name in enumerate("ab"):
        photograph(photos / f"{name}.png", seed=seed)
    code = np.zeros((*SIZE, 3), dtype=np.uint8)
    code[..., 0] = 3
    write_png(photos / "document" / "p.png", code)
    rng = random.Random(form)
    for number in range(40):
        (photos / "document.json").write_text(json.dumps(spoilt(DOCUMENTS[form], rng)))
        request = ImportRequest(photos, tmp_path / f"{number}", names=("p", "q"))
        with suppress(UserError):
            made = import_folder(request, progress=lambda done, total: None)
            assert sum(count for count, _ in made.splits.values()) == 2


def test_links_to_nothing_and_folders_called_like_files(tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    photograph(photos / "a.png")
    photograph(photos / "b.png", seed=1)
    for name in ("c.jpg", "labels.txt", "d.json", "e.xml", "names.yaml"):
        (photos / name).symlink_to("nowhere")
    (photos / "f.json").mkdir()
    request = ImportRequest(photos, tmp_path / "made", names=("p", "q"))
    made = import_folder(request, progress=lambda done, total: None)
    assert made.splits == {"train": (1, 0), "val": (1, 0)}
    assert [each.path.name for each in made.problems] == ["c.jpg"]


def test_labels_of_a_folder_above_use_its_file_of_names(tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    photograph(photos / "images" / "a.png")
    photograph(photos / "images" / "b.png", seed=1)
    for name in "ab":
        mask = np.zeros((*SIZE, 3), dtype=np.uint8)
        mask[:, :9] = (1, 2, 3)
        mask[:, 20:] = (4, 5, 6)
        write_png(photos / "masks" / f"{name}.png", mask)
    (photos / "labelmap.txt").write_text("road:1,2,3::\nsky:4,5,6::\n")
    request = ImportRequest(photos, tmp_path / "made", labels=photos)
    assert import_folder(request, progress=lambda *_: None).names.classes == ("road", "sky")
    (photos / "masks").rename(tmp_path / "masks")
    (photos / "labelmap.txt").rename(tmp_path / "labelmap.txt")
    request = ImportRequest(photos, tmp_path / "other", labels=tmp_path / "masks")
    assert import_folder(request, progress=lambda *_: None).names.classes == ("road", "sky")
    request = ImportRequest(photos, tmp_path / "third", labels=tmp_path)
    with pytest.raises(UserError, match="holds the images"):
        import_folder(request, progress=lambda *_: None)


def test_a_folder_of_labels_alone_is_told(tmp_path: Path) -> None:
    photograph(tmp_path / "photos" / "masks" / "a.png")
    request = ImportRequest(tmp_path / "photos", tmp_path / "made", tmp_path / "photos" / "masks")
    with pytest.raises(UserError, match="all look like labels"):
        import_folder(request, progress=lambda done, total: None)
