"""Training on files that are no longer those the store was made from."""

import json
import os
import shutil
from pathlib import Path

import pytest
from helpers.tiny_training import World, config_of, make_world, run, train_tiny_students

from zsseg.stages.cache.format.manifest import SOURCES
from zsseg.stages.cache.format.recipe import fingerprint
from zsseg.stages.cache.reader import Store
from zsseg.stages.data.images import image_content
from zsseg.stages.data.samples import Sample
from zsseg.stages.data.spec import DatasetSpec
from zsseg.stages.errors import CacheError
from zsseg.stages.train.batches import changed_images
from zsseg.stages.train.batches.changed_images import _is_same, check_unchanged, doubtful_rows
from zsseg.stages.train.batches.store_check import stored_samples


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    train_tiny_students(monkeypatch)
    return make_world(tmp_path)


def samples_of(world: World) -> list[Sample]:
    return stored_samples(world.store, world.spec, world.root)


def by_row(world: World) -> dict[int, Sample]:
    return dict(enumerate(samples_of(world)))


def write_sources(world: World, fields: int = 4) -> None:
    """The stat cache as stage one leaves it; older ones have two fields."""
    lines: list[dict[str, object]] = [{"labels": "any"}]
    for sample in samples_of(world):
        image, label = (
            list(changed_images._stat(file) or ())[:fields] or None
            for file in (sample.image_file, sample.label_file)
        )
        lines.append({"id": sample.id, "image": image, "label": label})
    path = Path(str(world.store.path)) / SOURCES
    path.write_text("".join(f"{json.dumps(line)}\n" for line in lines))


def swap(first: Path, second: Path) -> None:
    spare = first.with_suffix(".spare")
    first.rename(spare)
    second.rename(first)
    spare.rename(second)


@pytest.mark.parametrize("fields", [4, 2, 0])
def test_two_images_swapped_are_refused_and_nothing_is_written(
    world: World, tmp_path: Path, fields: int
) -> None:
    if fields:
        write_sources(world, fields)
    first, second, *_ = samples_of(world)
    os.utime(second.image, (1, 1))
    swap(first.image, second.image)
    with pytest.raises(CacheError, match=f"2 images .*{first.id}, {second.id}.*--update"):
        run(world, tmp_path / "run", config_of())
    assert not (tmp_path / "run").exists()


def test_another_content_under_the_old_size_and_time_is_seen(world: World) -> None:
    """As `cp -p` and `rsync -t` leave it."""
    write_sources(world)
    sample = samples_of(world)[2]
    before = sample.image.stat()
    content = bytearray(sample.image.read_bytes())
    content[-20] ^= 1
    sample.image.write_bytes(content)
    os.utime(sample.image, ns=(before.st_atime_ns, before.st_mtime_ns))
    with pytest.raises(CacheError, match=sample.id):
        check_unchanged(world.store, world.spec, by_row(world))


def test_what_is_known_is_not_read_and_a_touched_file_is(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_sources(world)
    read: list[Path] = []

    def counted(path: Path) -> bytes:
        read.append(path)
        return image_content(path)

    monkeypatch.setattr(changed_images, "image_content", counted)
    samples = by_row(world)
    check_unchanged(world.store, world.spec, samples)
    assert read == []
    os.utime(samples[3].image)
    check_unchanged(world.store, world.spec, samples)
    assert read == [samples[3].image]


@pytest.mark.parametrize("changed", [False, True])
def test_a_copied_data_set_is_compared_by_content(
    world: World, tmp_path: Path, changed: bool
) -> None:
    """All its files have other change times, as those have of which each was written again."""
    write_sources(world)
    copy = tmp_path / "copy"
    shutil.copytree(world.root, copy)
    moved = World(world.store, world.spec, copy)
    assert len(doubtful_rows(moved.store, by_row(moved))) == len(by_row(moved))
    if changed:
        file = by_row(moved)[2].image
        before = file.stat()
        shutil.copyfile(by_row(moved)[3].image, file)
        os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
        with pytest.raises(CacheError, match="1 image or its label has changed"):
            check_unchanged(world.store, world.spec, by_row(moved))
    else:
        assert not check_unchanged(world.store, world.spec, by_row(moved))


def test_of_very_many_doubtful_files_some_are_read(
    world: World, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    read: list[str] = []
    monkeypatch.setattr(changed_images, "MOST_HASHED", 3)

    def is_same(_store: object, _spec: object, sample: Sample, _row: int) -> bool:
        read.append(sample.id)
        return True

    monkeypatch.setattr(changed_images, "_is_same", is_same)
    samples = by_row(world)
    left = check_unchanged(world.store, world.spec, samples)
    assert set(read) == {samples[0].id, samples[2].id, samples[5].id}
    assert left == {1, 3, 4}
    assert "6 of 6 images or their labels have other times" in caplog.text
    assert "3 of them is compared now" in caplog.text


@pytest.mark.parametrize("workers", [0, 1])
def test_of_very_many_doubtful_files_the_others_are_compared_when_first_read(
    world: World, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, workers: int
) -> None:
    monkeypatch.setattr(changed_images, "MOST_HASHED", 2)
    first, *_, last = samples_of(world)
    checked: list[int] = []

    def is_same(store: Store, spec: DatasetSpec, sample: Sample, row: int) -> bool:
        checked.append(row)
        return _is_same(store, spec, sample, row)

    monkeypatch.setattr(changed_images, "_is_same", is_same)
    config = config_of(train={"steps": 12, "workers": workers})
    run(world, tmp_path / "right", config)
    if not workers:
        assert sorted(checked) == [*range(6)], "each once"
    # Rows 0 and 5 are compared at the start.
    swap(samples_of(world)[2].image, samples_of(world)[3].image)
    with pytest.raises(CacheError, match=r"1 image or its label has changed.*scene_00[23]"):
        run(world, tmp_path / "wrong", config)
    swap(first.image, last.image)
    with pytest.raises(CacheError, match=f"2 images or their labels.*{first.id}, {last.id}"):
        run(world, tmp_path / "refused", config)
    assert not (tmp_path / "refused" / "run.json").exists()


def test_a_store_replaced_under_a_run_ends_it(world: World, tmp_path: Path) -> None:
    other = make_world(tmp_path / "other")
    place = Path(str(world.store.path))
    seal = Path(str(other.store.path)) / "seal.json"

    def replace(step: int) -> None:
        if step == 1:
            content = json.loads(seal.read_bytes())
            content["files"]["index.jsonl"] = "0" * 32
            content["root"] = fingerprint(content["files"])
            (place / "seal.json").write_text(json.dumps(content))

    with pytest.raises(CacheError, match=r"another one now.*changed it meanwhile"):
        run(world, tmp_path / "run", config_of(), after_step=replace)


def test_a_store_that_is_being_written_again_ends_a_run(world: World, tmp_path: Path) -> None:
    def unseal(step: int) -> None:
        if step == 1:
            (Path(str(world.store.path)) / "seal.json").unlink()

    with pytest.raises(CacheError, match="being written again"):
        run(world, tmp_path / "run", config_of(), after_step=unseal)
