"""A store against its live teacher: what was written right passes, what was not is named."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.clip_store import CONFIG, load_once, make
from helpers.drawn_world import draw_world
from helpers.random_clip import write_clip
from numpy.typing import NDArray
from PIL import Image
from sklearn.metrics import adjusted_rand_score

from zsseg.stages.cache.format.manifest import HISTORY, read_manifest
from zsseg.stages.cache.verify import verify_store
from zsseg.stages.cache.writer import Writer
from zsseg.stages.errors import CacheError, UserError
from zsseg.stages.precompute.check.against_teacher import TeacherCheck, compare_with_teacher
from zsseg.stages.precompute.make.token_loss import token_cosines
from zsseg.stages.precompute.precompute_config import DenseConfig, PrecomputeConfig, ViewConfig

Arrays = dict[str, NDArray[Any]]


def compare(path: Path, **changes: Any) -> TeacherCheck:
    settings: dict[str, Any] = {
        "number": 16,
        "root": None,
        "teacher": None,
        "device": None,
        "progress": lambda done, total: None,
    }
    return compare_with_teacher(path, **(settings | changes))


@pytest.fixture(autouse=True)
def one_teacher(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zsseg.stages.precompute.teacher.clip_teacher.load_teacher", load_once)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, tiny_clip: str) -> tuple[Path, Path]:
    """A world of six images and its store, which no test changes."""
    place = tmp_path_factory.mktemp("made")
    world = draw_world(place / "world", images=6)
    return world, make(world, tiny_clip, place / "cache")


@pytest.fixture
def fresh(made: tuple[Path, Path], tmp_path: Path) -> tuple[Path, Path]:
    """Copies of both."""
    world, store = made
    shutil.copytree(world.parent, tmp_path / "world")
    return tmp_path / "world" / world.name, Path(shutil.copytree(store, tmp_path / store.name))


def rewrite(path: Path, artifact: str, change: Callable[[Arrays], None]) -> None:
    """Store other numbers in the first shard of an artifact, with receipts and a seal that fit."""
    manifest = read_manifest(path)
    index = [
        {"id": f"scene_{n:03d}", "image": f"images/train/scene_{n:03d}.png", "label": label}
        for n in range(manifest.rows)
        if (label := f"labels/train/scene_{n:03d}.png")
    ]
    with Writer.open(
        path,
        identity=manifest.identity,
        artifacts=manifest.artifacts,
        index=index,
        shard_rows=manifest.shard_rows,
        info=manifest.info,
    ) as writer:
        (what,) = (each for each in manifest.artifacts if each.name == artifact)
        arrays = {spec.name: writer.read(spec.name, 0).copy() for spec in what.arrays}
        receipt = writer.receipt(artifact, 0)
        assert receipt is not None
        change(arrays)
        fields = ("artifact", "fingerprint", "shard", "rows", "files")
        notes = {key: value for key, value in receipt.items() if key not in fields}
        writer.write(artifact, 0, arrays, notes=notes)
        writer.seal()
    assert verify_store(path, read_data=True) == []


def test_a_store_is_as_its_teacher_says(made: tuple[Path, Path]) -> None:
    seen: list[tuple[int, int]] = []
    found = compare(made[1], progress=lambda done, total: seen.append((done, total)))
    assert seen == [(done, 6) for done in range(1, 7)]
    assert found.images == 6
    assert found.left_out == {}
    assert [check.artifact for check in found.checks] == [
        "text",
        "cls",
        "dense",
        "regions",
        "local",
    ]
    for check in found.checks:
        assert check.passed
        assert check.below == ()
        assert check.compared == (4 if check.artifact == "text" else 6)
        assert check.worst <= check.mean <= 1 + 1e-9
        assert check.worst > 1 - 1e-6
    measures = {check.artifact: check.measure for check in found.checks}
    assert measures.pop("regions") == "adjusted Rand index"
    assert set(measures.values()) == {"cosine"}


def test_the_images_are_spread_over_the_data_set(made: tuple[Path, Path]) -> None:
    found = compare(made[1], number=2)
    assert found.images == 2
    assert found.checks[1].worst_at in ("scene_000", "scene_005")
    with pytest.raises(UserError, match="give 1 or more"):
        compare(made[1], number=0)


@pytest.mark.parametrize(
    "config",
    [
        CONFIG.model_copy(update={"dense": DenseConfig(size=(64, 96), format="int8")}),
        CONFIG.model_copy(update={"dense": DenseConfig(size=(64, 96), format="pca:5")}),
        CONFIG.model_copy(update={"dense": DenseConfig(size=(64, 96), format="none")}),
        CONFIG.model_copy(update={"views": ViewConfig(number=2)}),
        CONFIG.model_copy(update={"precision": "bf16"}),
    ],
    ids=["int8", "pca", "none", "views", "bf16"],
)
def test_stores_of_every_format_pass(
    tiny_clip: str, tmp_path: Path, config: PrecomputeConfig
) -> None:
    """Five components of 24 lose much, but the fresh tokens lose the same."""
    path = make(draw_world(tmp_path / "world", images=3), tiny_clip, tmp_path / "cache", config)
    found = compare(path)
    names = ["text", "cls", "dense", "regions", "local"]
    assert [check.artifact for check in found.checks] == [
        name for name in names if name != "dense" or config.dense.format != "none"
    ]
    assert all(check.passed and check.worst > 1 - 1e-5 for check in found.checks)
    least = {check.artifact: check.least for check in found.checks}
    assert least["text"] == 0.9999  # prompts are embedded in fp32 always
    assert least["cls"] == least["local"] == (0.9 if config.precision == "bf16" else 0.9999)


def noisy(name: str, row: int) -> Callable[[Arrays], None]:
    """A twentieth of noise on one row: a cosine of about 0.999."""

    def change(arrays: Arrays) -> None:
        values = arrays[name][row].astype(np.float64)
        values += 0.05 * values.std() * np.random.default_rng(0).normal(size=values.shape)
        arrays[name][row] = values.astype(arrays[name].dtype)

    return change


@pytest.mark.parametrize(
    ("artifact", "at"),
    [("cls", "scene_002"), ("dense", "scene_002"), ("local", "scene_002"), ("text", "box")],
)
def test_a_wrong_row_is_named(fresh: tuple[Path, Path], artifact: str, at: str) -> None:
    _, path = fresh
    before = {check.artifact: check for check in compare(path).checks}
    rewrite(path, artifact, noisy(artifact, 2))
    found = {check.artifact: check for check in compare(path).checks}
    wrong = found.pop(artifact)
    assert not wrong.passed
    assert wrong.below == (at,)
    assert wrong.worst_at == at
    assert wrong.worst < wrong.mean < before[artifact].mean
    # Regions are mined from the stored tokens, and may be others with them.
    assert all(check.passed for name, check in found.items() if name != "regions")


def test_the_figures_are_those_of_the_tokens(fresh: tuple[Path, Path]) -> None:
    _, path = fresh
    kept: Arrays = {}
    changed: Arrays = {}

    def change(arrays: Arrays) -> None:
        kept["cls"] = arrays["cls"].copy()
        noisy("cls", 1)(arrays)
        changed["cls"] = arrays["cls"]

    rewrite(path, "cls", change)
    (cls,) = (check for check in compare(path).checks if check.artifact == "cls")
    one, other = (a["cls"][:, 0].astype(np.float64) for a in (kept, changed))
    cosine_4 = (one * other).sum(1) / np.linalg.norm(one, axis=1) / np.linalg.norm(other, axis=1)
    assert cls.worst == pytest.approx(cosine_4.min(), abs=1e-6)
    assert cls.mean == pytest.approx((cosine_4.sum() + 2) / 6, abs=1e-6)


def test_other_regions_are_told_by_the_adjusted_rand_index(fresh: tuple[Path, Path]) -> None:
    _, path = fresh
    kept: Arrays = {}

    def change(arrays: Arrays) -> None:
        kept["regions"] = arrays["regions"].copy()
        arrays["regions"][:] = np.where(arrays["regions"] > 0, 1, 0)

    rewrite(path, "regions", change)
    (regions,) = (check for check in compare(path).checks if check.artifact == "regions")
    assert not regions.passed
    assert set(regions.below) <= {f"scene_{n:03d}" for n in range(4)}
    assert regions.worst_at in regions.below
    assert regions.mean < regions.least
    whole = adjusted_rand_score(kept["regions"][0].ravel() > 0, kept["regions"][0].ravel())
    assert regions.worst <= whole  # the labelled tokens, equal in both, do not count


def test_numbers_of_regions_alone_do_not_matter(fresh: tuple[Path, Path]) -> None:
    _, path = fresh

    def change(arrays: Arrays) -> None:
        region = arrays["regions"]
        swapped = np.where(region == 1, 2, np.where(region == 2, 1, region))
        arrays["regions"][:] = swapped

    rewrite(path, "regions", change)
    (regions,) = (check for check in compare(path).checks if check.artifact == "regions")
    assert regions.worst == 1


def test_tokens_of_other_masks_are_no_tokens(fresh: tuple[Path, Path]) -> None:
    _, path = fresh

    def change(arrays: Arrays) -> None:
        arrays["local_ids"][3, 0] += 1

    rewrite(path, "local", change)
    (local,) = (check for check in compare(path).checks if check.artifact == "local")
    assert (local.worst, local.worst_at, local.below) == (0.0, "scene_003", ("scene_003",))


def test_changed_images_are_named_and_not_compared(fresh: tuple[Path, Path]) -> None:
    world, path = fresh
    root = world.parent
    Image.new("RGB", (64, 48)).save(root / "images" / "train" / "scene_001.png")
    (root / "images" / "train" / "scene_004.png").unlink()
    Image.fromarray(np.zeros((48, 64), np.uint8)).save(root / "labels" / "train" / "scene_002.png")
    found = compare(path, root=root)
    assert found.images == 4
    assert {image: why.split(":")[0] for image, why in found.left_out.items()} == {
        "scene_001": "its file has changed since the store was made",
        "scene_004": "it is not in the data set any more",
        "scene_002": "its visible label has changed",
    }
    compared = {check.artifact: check.compared for check in found.checks}
    assert compared == {"text": 4, "cls": 4, "dense": 4, "regions": 3, "local": 3}
    assert all(check.passed for check in found.checks)


def test_another_teacher_is_refused(made: tuple[Path, Path], tmp_path: Path) -> None:
    other = write_clip(tmp_path / "clip", seed=1)
    with pytest.raises(CacheError, match="not the teacher"):
        compare(made[1], teacher=other)


def test_a_damaged_store_is_refused(fresh: tuple[Path, Path]) -> None:
    _, path = fresh
    (path / "cls" / "c.1.0.0").unlink()
    with pytest.raises(CacheError, match=r"cls/c\.1"):
        compare(path)


def test_no_history_asks_for_root_and_teacher(fresh: tuple[Path, Path], tiny_clip: str) -> None:
    world, path = fresh
    (path / HISTORY).unlink()
    with pytest.raises(CacheError, match="--root and --teacher"):
        compare(path)
    assert compare(path, root=world.parent, teacher=tiny_clip).images == 6


def test_cosines_of_tokens() -> None:
    rng = np.random.default_rng(0)
    one, other = rng.normal(size=(2, 5, 3, 4)).astype(np.float16)
    a, b = one.reshape(5, -1).astype(np.float64), other.reshape(5, -1).astype(np.float64)
    expected = [
        x @ y / np.linalg.norm(x) / np.linalg.norm(y) for x, y in zip(a.T, b.T, strict=True)
    ]
    np.testing.assert_allclose(token_cosines(one, other), expected, rtol=1e-12)
