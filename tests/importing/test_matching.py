"""Which image a file belongs to by its name."""

from pathlib import Path

import pytest

from zsseg.stages.importing.matching import ImagesByName, match_names


def paths(*names: str) -> list[Path]:
    return [Path(name) for name in names]


@pytest.mark.parametrize(
    ("files", "images"),
    [
        (["m/a.png", "m/b.png"], ["i/a.jpg", "i/b.jpg"]),
        (["i/a_mask.png", "i/b_mask.png"], ["i/a.jpg", "i/b.jpg"]),
        (["m/mask_01.png", "m/mask_02.png"], ["i/img_01.jpg", "i/img_02.jpg"]),
        (["m/my_dog_mask.png", "m/my_cat_mask.png"], ["i/my_dog.jpg", "i/my_cat.jpg"]),
        (["m/a_0_1_gt_ids.png", "m/b_0_1_gt_ids.png"], ["i/a_0_1_left.png", "i/b_0_1_left.png"]),
        (["trainannot/1.png", "valannot/1.png"], ["train/1.png", "val/1.png"]),
        (["m/a_label.png"], ["i/a.jpg"]),
        (["m/cafe\u0301.png"], ["i/caf\u00e9.jpg"]),
    ],
)
def test_names_that_belong_together(files: list[str], images: list[str]) -> None:
    found = match_names(paths(*files), paths(*images))
    assert found == dict(zip(paths(*files), paths(*images), strict=True))


def test_names_that_do_not() -> None:
    assert match_names(paths("m/x.png"), paths("i/a.jpg", "i/b.jpg")) == {}


def test_images_by_the_names_of_documents() -> None:
    images = ImagesByName(paths("d/train/a.jpg", "d/val/a.jpg", "d/b c.JPG"))
    assert images.find("train/a.jpg") == Path("d/train/a.jpg")
    assert images.find(r"C:\pictures\val\a.jpg") == Path("d/val/a.jpg")
    assert images.find("a.jpg") is None  # which of the two?
    assert images.find("B C.jpg") == Path("d/b c.JPG")
    assert images.find("/data/upload/3/0a1b2c3d-b%20c.JPG") == Path("d/b c.JPG")
    assert images.find("/data/local-files/?d=photos/b c.JPG") == Path("d/b c.JPG")
    assert images.find("../../etc/passwd") is None
    assert images.find("") is None
