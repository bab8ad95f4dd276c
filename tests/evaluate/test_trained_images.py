"""Which of the images to score a run was trained on."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from helpers.colour_run import colour_run
from helpers.random_store import write_store

from zsseg.stages.data.spec import DatasetSpec, FolderPatterns
from zsseg.stages.data.splits import check_split, list_samples
from zsseg.stages.errors import DatasetError
from zsseg.stages.evaluate.evaluation import evaluate_run
from zsseg.stages.evaluate.result import read_result, save_result
from zsseg.stages.evaluate.trained_images import count_trained_on
from zsseg.stages.evaluate.trained_run import TrainedRun


def run_of(world: Path, folder: Path) -> TrainedRun:
    """A run whose store has the images of `train`."""
    store = write_store(folder / "store", world)
    run = colour_run(folder / "run", world)
    record = run.record.model_copy(update={"store": str(store.path), "root": world.parent})
    return replace(run, record=record)


def count(run: TrainedRun, world: Path, split: str) -> int | None:
    samples = list_samples(run.spec, world.parent, split)
    return count_trained_on(run, run.spec, samples, split)


def undivided(spec: DatasetSpec) -> DatasetSpec:
    patterns = FolderPatterns(images="images/train", labels="labels/train")
    return spec.model_copy(update={"patterns": patterns})


def test_a_copy_under_another_name_in_another_split_counts(
    tiny_world: Path, tmp_path: Path
) -> None:
    run = run_of(tiny_world, tmp_path)
    assert count(run, tiny_world, "val") == 0
    for kind in ("images", "labels"):
        folder = tiny_world.parent / kind
        shutil.copy(folder / "train" / "scene_001.png", folder / "val" / "other.png")
    assert count(run, tiny_world, "val") == 1

    result, *_ = evaluate_run(
        run, run.spec, tiny_world.parent, "val", progress=lambda done, total: None
    )
    assert result.trained_on == 1
    json_path, csv_path = save_result(tmp_path, result)
    assert read_result(json_path).trained_on == 1
    assert f"1 of {result.images} images" in csv_path.read_text()


def test_images_written_anew_under_their_ids_count(tiny_world: Path, tmp_path: Path) -> None:
    run = run_of(tiny_world, tmp_path)
    for image in (tiny_world.parent / "images" / "train").iterdir():
        image.write_bytes(image.read_bytes() + b"more")
    assert count(run, tiny_world, "train") == len(
        list_samples(run.spec, tiny_world.parent, "train")
    )


def test_without_the_store_only_the_split_tells(tiny_world: Path, tmp_path: Path) -> None:
    run = run_of(tiny_world, tmp_path)
    shutil.rmtree(tmp_path / "store")
    assert count(run, tiny_world, "val") is None
    assert count(run, tiny_world, "train")
    whole = replace(
        run, record=run.record.model_copy(update={"dataset": undivided(run.spec), "split": "all"})
    )
    assert count(whole, tiny_world, "train")


@pytest.mark.parametrize("split", ["val", "banana", "test"])
def test_an_undivided_data_set_has_no_other_split(
    tiny_world: Path, tmp_path: Path, split: str
) -> None:
    run = run_of(tiny_world, tmp_path)
    spec = undivided(run.spec)
    with pytest.raises(DatasetError, match=f"no split '{split}'.*{{split}}"):
        evaluate_run(run, spec, tiny_world.parent, split, progress=lambda done, total: None)
    for there in ("all", "train"):
        check_split(spec, there)
    check_split(run.spec, split)
