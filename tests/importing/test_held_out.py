"""Which images are held out: as folders say, else by chance, so that training shows all classes."""

from pathlib import Path

import pytest

from zsseg.stages.importing.held_out import splits_of

ROOT = Path("d")


def numbered(count: int, folder: str = "") -> list[Path]:
    return [ROOT / folder / f"{i}.jpg" for i in range(count)]


def held(split_of: dict[Path, str]) -> set[str]:
    return {path.stem for path, split in split_of.items() if split == "val"}


@pytest.mark.parametrize("seed", range(30))
def test_a_class_that_one_image_shows_stays_in_training(seed: int) -> None:
    images = numbered(10)
    labelled = {image: [0, 1] for image in images} | {images[3]: [0, 2], images[7]: [3]}
    split_of, from_folders = splits_of(images, labelled, ROOT, seed=seed)
    assert not from_folders
    assert len(held(split_of)) == 2
    assert not held(split_of) & {"3", "7"}


def test_labelled_images_and_others_alike() -> None:
    images = numbered(20)
    labelled = {image: [0] for image in images[:5]}
    split_of, _ = splits_of(images, labelled, ROOT)
    assert sum(split_of[image] == "val" for image in images[:5]) == 1
    assert sum(split_of[image] == "val" for image in images[5:]) == 3


@pytest.mark.parametrize(
    ("images", "labelled", "count"), [(1, 0, 0), (2, 0, 1), (9, 1, 0), (9, 2, 2)]
)
def test_few_images(images: int, labelled: int, count: int) -> None:
    """A validation split without a label could not be scored."""
    paths = numbered(images)
    split_of, _ = splits_of(paths, {path: [0] for path in paths[:labelled]}, ROOT)
    assert len(held(split_of)) == count


@pytest.mark.parametrize(
    ("train", "val"),
    [("train", "val"), ("training", "validation"), ("images/train2017", "images/val2017"),
     ("Train", "Valid"), ("a/train_images", "a/val-images")],
)  # fmt: skip
def test_folders_of_splits(train: str, val: str) -> None:
    images = numbered(3, train) + numbered(2, val)
    split_of, from_folders = splits_of(images, {}, ROOT)
    assert from_folders
    assert [split_of[image] for image in images] == ["train"] * 3 + ["val"] * 2


def test_training_and_test_alone_leave_test_alone() -> None:
    images = numbered(10, "train") + numbered(4, "test")
    split_of, from_folders = splits_of(images, {}, ROOT)
    assert from_folders
    assert [split_of[image] for image in images[10:]] == ["test"] * 4
    assert sum(split_of[image] == "val" for image in images[:10]) == 2


def test_folders_whose_validation_has_no_label_are_not_taken_for_splits() -> None:
    images = numbered(5, "train") + numbered(5, "val")
    _, from_folders = splits_of(images, {image: [0] for image in images[:5]}, ROOT)
    assert not from_folders


def test_a_folder_called_valley_or_trainer_is_no_split() -> None:
    images = numbered(3, "trainer") + numbered(3, "valley")
    assert not splits_of(images, {}, ROOT)[1]
