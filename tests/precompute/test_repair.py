"""`zsseg cache verify --repair`: the store of before, and no more work than the damage asks for."""

import json
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import pytest
from helpers.clip_store import CONFIG, NOT_CONTENT, content, load_once, make, run
from helpers.drawn_world import draw_world
from helpers.file_damage import HARMS, Harm, delete, empty, flip, folder, kind, link, truncate
from helpers.random_clip import write_clip

from zsseg.stages.cache.disk.lock import locked
from zsseg.stages.cache.disk.storage import storage
from zsseg.stages.cache.disk.store_path import StorePath, store_path
from zsseg.stages.cache.format.manifest import GROUP, HISTORY, INDEX, SEAL
from zsseg.stages.cache.verify import EVERYTHING, verify_store
from zsseg.stages.errors import CacheError, CacheLocked
from zsseg.stages.precompute.check.repair import Repair, repair_store
from zsseg.stages.precompute.precompute_config import DenseConfig, LocalConfig
from zsseg.stages.precompute.teacher.clip_teacher import ClipTeacher


def repair(path: StorePath, **changes: Any) -> Repair | None:
    settings: dict[str, Any] = {
        "share": EVERYTHING,
        "root": None,
        "teacher": None,
        "device": None,
        "look": lambda done, total: None,
        "progress": lambda _: None,
    }
    return repair_store(path, **(settings | changes))


def covered(store: Path) -> list[str]:
    """What a damage can be found in: all content but the card."""
    return [name for name in content(store) if name != "README.md"]


@pytest.fixture(autouse=True)
def one_teacher(monkeypatch: pytest.MonkeyPatch) -> None:
    """Loading one costs more than these tests; equal files are the same teacher."""
    monkeypatch.setattr("zsseg.stages.precompute.teacher.clip_teacher.load_teacher", load_once)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, tiny_clip: str) -> Path:
    """The store of ten images in three shards, which no test changes."""
    place = tmp_path_factory.mktemp("made")
    return make(draw_world(place / "world", images=10), tiny_clip, place / "cache")


@pytest.fixture
def path(made: Path, tmp_path: Path) -> Path:
    """A copy of it to damage."""
    return Path(shutil.copytree(made, tmp_path / made.name))


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Images, crops and prompts that go through the teacher, by method."""
    counted: Counter[str] = Counter()

    def counting(name: str) -> Callable[..., Any]:
        method = getattr(ClipTeacher, name)

        def call(self: ClipTeacher, items: Any, *rest: Any, **more: Any) -> Any:
            counted[name] += len(items)
            return method(self, items, *rest, **more)

        return call

    for name in ("cls", "dense", "text"):
        monkeypatch.setattr(ClipTeacher, name, counting(name))
    return counted


def test_a_sound_store_is_left_alone(made: Path, passes: Counter[str]) -> None:
    before = {file: file.stat().st_mtime_ns for file in made.rglob("*") if file.name != ".lock"}
    assert repair(made) is None
    assert {f: f.stat().st_mtime_ns for f in made.rglob("*") if f.name != ".lock"} == before
    assert not passes


@pytest.mark.parametrize("harm", HARMS)
def test_every_kind_of_file_is_restored(made: Path, path: Path, harm: Harm) -> None:
    whole, rng = content(made), Random(f"{harm}")
    kinds: dict[str, list[str]] = {}
    for name in covered(made):
        kinds.setdefault(kind(name), []).append(name)
    assert len(kinds) == 6
    for names in kinds.values():
        name = rng.choice(names)
        other = rng.choice([each for each in covered(made) if whole[each] != whole[name]])
        harm(path / name, path / other, rng)
        repaired = repair(path)
        assert repaired is not None, (harm, name, other)
        for left in path.rglob("*.elsewhere"):
            left.unlink()
        assert content(path) == whole, (harm, name, other)
        assert verify_store(path, read_data=True) == []


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("dense/c.1.0.0.0", {"dense": 4}),
        ("cls/c.2.0.0", {"cls": 2}),
        ("views/c.0.0.0", {"cls": 4}),
        ("text/c.0.0", {"text": 4}),
        ("regions/c.1.0.0", {}),
        ("size/c.0.0", {}),
        ("regions/zarr.json", {}),
        (INDEX, {}),
        (GROUP, {}),
        (SEAL, {}),
        ("ledger/dense/000002.json", {"dense": 2}),
        ("ledger/regions/000000.json", {}),
        ("ledger/text/000000.json", {"text": 4}),
    ],
)
def test_only_what_is_damaged_goes_through_the_teacher(
    made: Path, path: Path, passes: Counter[str], name: str, expected: dict[str, int]
) -> None:
    flip(path / name, path, Random(0))
    repaired = repair(path)
    assert repaired is not None
    assert dict(passes) == expected
    assert content(path) == content(made)
    assert repaired.before in (None, repaired.after)
    assert (repaired.before is None) == (name == SEAL)


def test_without_the_receipt_of_the_index_all_of_its_shard_is_made_again(
    made: Path, path: Path, passes: Counter[str]
) -> None:
    """Only it has the hashes of the image files that the shard was made from."""
    flip(path / "ledger/index/000001.json", path, Random(0))
    repaired = repair(path)
    assert repaired is not None
    assert passes["dense"] == 4
    assert passes["cls"] > 4  # images and crops
    assert passes["text"] == 0
    assert content(path) == content(made)
    assert repaired.before == repaired.after


def test_a_lost_receipt_of_crops_counts_the_masks_left_out_again(
    tiny_clip: str, tmp_path: Path, passes: Counter[str]
) -> None:
    config = CONFIG.model_copy(update={"local": LocalConfig(max_masks=1)})
    path = make(draw_world(tmp_path / "world", images=4), tiny_clip, tmp_path / "cache", config)
    receipt = path / "ledger/local/000000.json"
    whole = receipt.read_bytes()
    assert set(json.loads(whole)["left_out"]) == {"0", "1", "2", "3"}
    receipt.unlink()
    passes.clear()
    assert repair(path) is not None
    assert receipt.read_bytes() == whole
    assert dict(passes) == {"cls": 4}


def test_several_damaged_shards_and_no_other(made: Path, path: Path, passes: Counter[str]) -> None:
    before = {file: file.stat().st_mtime_ns for file in path.rglob("c.*")}
    damaged = ["dense/c.0.0.0.0", "dense/c.2.0.0.0", "cls/c.1.0.0", "local/c.1.0.0"]
    for harm, name in zip((flip, empty, truncate, folder), damaged, strict=True):
        harm(path / name, path, Random(0))
    repaired = repair(path)
    assert repaired is not None
    assert sorted(problem.file for problem in repaired.problems) == sorted(damaged)
    assert passes["dense"] == 4 + 2
    written = {file for file in before if file.stat().st_mtime_ns != before[file]}
    again = {"dense/c.0", "dense/c.2", "cls/c.1", "views/c.1", "local/c.1", "local_ids/c.1"}
    assert {".".join(f.relative_to(path).as_posix().split(".")[:2]) for f in written} == again
    assert content(path) == content(made)


@pytest.mark.parametrize("names", [(GROUP, SEAL), (INDEX, SEAL), (GROUP, INDEX, SEAL)])
def test_a_store_without_seal_and_description_is_restored_from_its_history(
    made: Path, path: Path, passes: Counter[str], names: tuple[str, ...]
) -> None:
    for name in names:
        (path / name).unlink()
    assert repair(path) is not None
    assert content(path) == content(made)
    assert not passes


@pytest.mark.parametrize("form", ["int8", "pca:6", "none"])
def test_other_formats_of_dense_tokens_are_restored(
    tiny_clip: str, tmp_path: Path, form: str
) -> None:
    world = draw_world(tmp_path / "world", images=6)
    config = CONFIG.model_copy(update={"dense": DenseConfig(size=(64, 96), format=form)})
    path = make(world, tiny_clip, tmp_path / "cache", config)
    whole, rng = content(path), Random(form)
    artifacts = {"dense", "pca_basis", "regions", "cls"}
    for name in [name for name in whole if name.split("/")[0] in artifacts and "/c." in name]:
        rng.choice((flip, empty, delete, link))(path / name, path, rng)
        assert repair(path) is not None
        for left in path.rglob("*.elsewhere"):
            left.unlink()
        assert content(path) == whole, name


def test_a_history_cut_short_loses_that_line_only(made: Path, path: Path) -> None:
    lines = (path / HISTORY).read_bytes()
    (path / HISTORY).write_bytes(lines + b'{"begin":"20')
    assert repair(path) is not None
    assert (path / HISTORY).read_bytes() == lines
    assert content(path) == content(made)


def test_a_store_in_use_is_refused_and_untouched(path: Path) -> None:
    flip(path / "dense/c.1.0.0.0", path, Random(0))
    before = content(path)
    with locked(path), pytest.raises(CacheLocked, match="writes this store"):
        repair(path)
    assert content(path) == before


def test_another_teacher_is_refused_and_nothing_is_touched(path: Path, tmp_path: Path) -> None:
    flip(path / "dense/c.1.0.0.0", path, Random(0))
    before = content(path)
    other = write_clip(tmp_path / "clip", seed=1)
    with pytest.raises(CacheError, match=r"(?s)not the teacher .*weights.*--teacher"):
        repair(path, teacher=other)
    assert content(path) == before


def test_a_data_set_that_is_gone_is_asked_for_and_nothing_is_touched(
    made: Path, path: Path, tmp_path: Path
) -> None:
    flip(path / "dense/c.1.0.0.0", path, Random(0))
    before = content(path)
    with pytest.raises(CacheError, match=r"no longer there.*--root"):
        repair(path, root=tmp_path / "nowhere")
    assert content(path) == before
    (path / HISTORY).unlink()
    with pytest.raises(CacheError, match=r"--root and --teacher"):
        repair(path)
    assert content(path) == before


@pytest.mark.parametrize("names", [(GROUP,), (GROUP, SEAL), (INDEX, SEAL)])
def test_a_description_that_cannot_be_proved_is_not_written(
    path: Path, tiny_clip: str, tmp_path: Path, names: tuple[str, ...]
) -> None:
    """The history's root holds other images now."""
    draw_world(tmp_path / "other", images=9)
    for name in names:
        (path / name).unlink()
    lines = (path / HISTORY).read_text()
    settings = json.loads(lines.splitlines()[-1])
    settings["settings"]["config"]["text"]["templates"] = "coco15"
    (path / HISTORY).write_text(lines + json.dumps(settings) + "\n")
    before = content(path)
    with pytest.raises(CacheError, match=r"cannot be put back.*nothing was changed"):
        repair(path, root=tmp_path / "other")
    assert content(path) == before


def test_a_store_under_another_name_is_not_made_a_second_time(path: Path) -> None:
    renamed = path.rename(path.with_name("mine"))
    flip(renamed / "dense/c.1.0.0.0", renamed, Random(0))
    before = content(renamed)
    with pytest.raises(CacheError, match=f"rename the folder to {path.name}"):
        repair(renamed)
    assert content(renamed) == before
    assert not path.exists()


def test_changed_images_are_refused_and_sound_data_stays(
    made: Path, path: Path, tmp_path: Path
) -> None:
    world = tmp_path / "world"
    draw_world(world, images=10, seed=9)
    flip(path / "dense/c.1.0.0.0", path, Random(0))
    before = content(path)
    with pytest.raises(CacheError, match="images or their labels have changed"):
        repair(path, root=world)
    after = content(path)
    del before["dense/c.1.0.0.0"]
    assert {name: after[name] for name in before if name != SEAL} == {
        name: value for name, value in before.items() if name != SEAL
    }


def test_an_interrupted_repair_goes_on(
    made: Path, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for shard in range(3):
        delete(path / f"cls/c.{shard}.0.0", path, Random(0))
    calls = Counter[str]()
    cls = ClipTeacher.cls

    def stopped(self: ClipTeacher, images: Any) -> Any:
        calls["cls"] += 1
        if calls["cls"] == 3:
            raise KeyboardInterrupt
        return cls(self, images)

    with monkeypatch.context() as patch:
        patch.setattr(ClipTeacher, "cls", stopped)
        with pytest.raises(KeyboardInterrupt):
            repair(path)
    repaired = repair(path)
    assert repaired is not None
    assert content(path) == content(made)


def test_what_this_version_would_make_otherwise_is_refused_and_nothing_is_touched(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flip(path / "dense/c.1.0.0.0", path, Random(0))
    before = content(path)
    monkeypatch.setattr(
        "zsseg.stages.precompute.make.text_artifact.load_templates", lambda name: ("a {}",)
    )
    with pytest.raises(CacheError, match=r"text\.recipe\.prompts.*--update, then repair it"):
        repair(path)
    assert content(path) == before


def test_a_store_at_a_url_is_restored(tiny_clip: str, tmp_path: Path) -> None:
    cache = store_path(f"memory://{tmp_path.name}/cache")
    world = draw_world(tmp_path / "world", images=6)
    path = run(world, tiny_clip, cache).path
    whole = {file: storage(path / file).read() for file in storage(path).list_files()}
    for names in (("dense/c.1.0.0.0", "ledger/index/000000.json"), (GROUP, SEAL), (INDEX,)):
        for name in names:
            storage(path / name).write(whole[name][:-7])
        assert repair(path) is not None
        now = {file: storage(path / file).read() for file in storage(path).list_files()}
        assert {name: now[name] for name in whole if name not in NOT_CONTENT} == {
            name: whole[name] for name in whole if name not in NOT_CONTENT
        }


def test_a_store_that_is_half_set_aside_is_continued_not_repaired(path: Path) -> None:
    """Its zarr.json is not lost; no other data set or teacher would put it back."""
    (path / ".previous").mkdir()
    (path / "seal.json").unlink()
    (path / "zarr.json").rename(path / ".previous" / "zarr.json")
    before = content(path)
    with pytest.raises(CacheError, match=r"nothing to repair yet: an --update .* interrupted"):
        repair(path)
    assert content(path) == before
