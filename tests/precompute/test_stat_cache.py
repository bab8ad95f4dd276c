"""Files recognised by size and time, without reading them."""

import os
from pathlib import Path
from typing import Any

import pytest
from helpers.clip_store import image_of, label_of
from helpers.drawn_world import draw_world

from zsseg.stages.cache.disk.bucket import BucketStorage
from zsseg.stages.cache.disk.store_path import store_path
from zsseg.stages.data.samples import Sample
from zsseg.stages.data.spec import load_spec
from zsseg.stages.data.splits import list_samples
from zsseg.stages.precompute.plan.stat_cache import StatCache


@pytest.fixture
def fresh(tmp_path: Path) -> tuple[Path, Path]:
    """A world of six images, and a folder that knows them."""
    world, path = draw_world(tmp_path / "world", images=6), tmp_path / "store"
    path.mkdir()
    stat_cache(world, path).save(samples_of(world), without=lambda _: False)
    return world, path


def samples_of(world: Path) -> list[Sample]:
    return list_samples(load_spec(str(world)), world.parent, "train")


def stat_cache(world: Path, path: Path, seen: dict[str, int] | None = None) -> StatCache:
    spec = load_spec(str(world))
    return StatCache(path, spec, world.parent, seen={} if seen is None else seen)


def test_the_stat_cache_knows_files_by_size_and_time(fresh: tuple[Path, Path]) -> None:
    world, path = fresh
    samples = samples_of(world)
    cache = stat_cache(world, path)
    cache.save(samples, without=lambda row: row == 2)
    again = stat_cache(world, path)
    assert [again.knows(sample) for sample in samples] == [row != 2 for row in range(6)]
    again.add([samples[2]])
    assert all(map(stat_cache(world, path).knows, samples))
    os.utime(label_of(world, 4), ns=(1, 1))
    assert [stat_cache(world, path).knows(sample) for sample in samples] == [
        row != 4 for row in range(6)
    ]


def test_a_stat_cache_that_would_not_change_is_not_written(fresh: tuple[Path, Path]) -> None:
    world, path = fresh
    samples = samples_of(world)
    stat_cache(world, path).save(samples, without=lambda _: False)
    os.utime(path / "sources.jsonl", ns=(1, 1))
    stat_cache(world, path).save(samples, without=lambda _: False)
    assert (path / "sources.jsonl").stat().st_mtime_ns == 1


def test_saving_known_files_looks_at_none_of_them_again(
    fresh: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    world, path = fresh
    samples = samples_of(world)
    cache = stat_cache(world, path)
    assert all(map(cache.knows, samples))
    looked_at: list[str] = []
    stat = os.stat

    def noted(file: Any, **more: Any) -> os.stat_result:
        looked_at.append(Path(file).name)
        return stat(file, **more)

    with monkeypatch.context() as patched:
        patched.setattr(os, "stat", noted)
        cache.save(samples, without=lambda _: False)
        assert "scene_000.png" not in looked_at
        cache.save(samples, without=lambda row: row == 2)
        assert "scene_000.png" in looked_at
    assert not stat_cache(world, path).knows(samples[2])
    cache.save(samples[:-1], without=lambda _: False)
    again = stat_cache(world, path)
    assert again.knows(samples[2])
    assert not again.knows(samples[-1])
    cache.save(samples, without=lambda _: False)
    before = (path / "sources.jsonl").read_bytes()
    cache.add(samples[:1])
    again = stat_cache(world, path)
    assert all(map(again.knows, samples))
    again.save(samples, without=lambda _: False)
    assert (path / "sources.jsonl").read_bytes() == before, "a line twice"


@pytest.mark.parametrize("content", [b"", b"\xff\n", b'{"labels":"other"}\n'])
def test_a_stat_cache_that_cannot_be_used_knows_nothing_and_is_begun_anew(
    fresh: tuple[Path, Path], content: bytes
) -> None:
    world, path = fresh
    samples = samples_of(world)
    lines = (path / "sources.jsonl").read_bytes().splitlines(keepends=True)
    cut = b"".join(lines)[:-4] if not content else content + b"".join(lines[1:])
    (path / "sources.jsonl").write_bytes(cut)
    cache = stat_cache(world, path)
    assert not any(map(cache.knows, samples))
    cache.add(samples[:2])
    again = stat_cache(world, path)
    assert [again.knows(sample) for sample in samples] == [True] * 2 + [False] * 4


def test_a_file_that_changed_since_it_was_seen_gets_no_entry(fresh: tuple[Path, Path]) -> None:
    """Its size and time are not those of the content that was looked at."""
    world, path = fresh
    samples = samples_of(world)
    seen: dict[str, int] = {}
    cache = stat_cache(world, path, seen)
    assert cache.knows(samples[1])
    cache.save(samples, without=lambda _: False)
    for row in (1, 3):
        os.utime(image_of(world, row), ns=(1, 1))
    cache.save(samples, without=lambda _: False)
    again = stat_cache(world, path)
    assert [again.knows(sample) for sample in samples] == [row not in (1, 3) for row in range(6)]
    (path / "other").mkdir()
    other = stat_cache(world, path / "other", seen)  # another store, the same run
    other.add(samples)
    known = stat_cache(world, path / "other")
    assert [known.knows(sample) for sample in samples] == [row not in (1, 3) for row in range(6)]


@pytest.mark.parametrize("how", ["copied", "renamed"])
def test_an_edit_that_keeps_size_and_time_is_seen(fresh: tuple[Path, Path], how: str) -> None:
    world, path = fresh
    samples = samples_of(world)
    stat_cache(world, path).save(samples, without=lambda _: False)
    file = image_of(world, 3)
    before, content = file.stat(), bytearray(file.read_bytes())
    content[-1] ^= 1
    if how == "copied":
        file.write_bytes(content)
    else:
        other = file.with_name("other")
        other.write_bytes(content)
        os.utime(other, ns=(before.st_atime_ns, before.st_mtime_ns))
        other.replace(file)
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    after = file.stat()
    assert (after.st_size, after.st_mtime_ns) == (before.st_size, before.st_mtime_ns)
    known = [stat_cache(world, path).knows(sample) for sample in samples]
    assert known == [row != 3 for row in range(6)]


def test_what_is_sent_to_a_url_grows_as_the_store_does(
    fresh: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    world, _ = fresh
    samples = samples_of(world)
    many = [Sample(f"image {n}", samples[n % 6].image, samples[n % 6].label) for n in range(300)]
    path = store_path("memory://stat-cache/store")
    sent: list[int] = []
    write = BucketStorage.write

    def counted(self: BucketStorage, content: bytes | memoryview) -> None:
        sent.append(len(content))
        write(self, content)

    monkeypatch.setattr(BucketStorage, "write", counted)
    spec = load_spec(str(world))
    cache = StatCache(path, spec, world.parent, seen={})
    for start in range(0, 300, 3):
        cache.add(many[start : start + 3])
    cache.save(many, without=lambda _: False)
    assert sum(sent) < 4 * sent[-1]
    again = StatCache(path, spec, world.parent, seen={})
    assert all(map(again.knows, many))
