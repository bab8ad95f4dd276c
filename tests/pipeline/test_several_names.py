"""Classes of several names, every one of which is kept: from the store to predictions."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from helpers.drawn_world import draw_world
from helpers.tiny_training import train_tiny_students
from helpers.zsseg_command import zsseg
from safetensors.numpy import load_file

from zsseg.stages.cache.catalogue import choose_store
from zsseg.stages.cache.reader import Store

RECIPE = """\
objectives: {sdd: 0.5, local_distillation: 0.5, dense: 0.5, dense_stride: 8, token: pooled}
latent: {enabled: true, heads: 2, layers: 1, tie: 1.0}
self_training: {method: rst, source: teacher, start: 0.5}
augmentation: {short_side: 48, crop: [32, 32]}
train: {steps: 2, batch: 2, workers: 0, device: cpu, checkpoint_every: 1}
evaluate: {short_side: 48, mode: whole}
"""


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory, tiny_clip: str) -> Iterator[Path]:
    """A folder with a data set, its store with all names, and a run."""
    folder = tmp_path_factory.mktemp("several")
    world = draw_world(folder / "world", images=3)
    draw_world(folder / "world", split="val", images=1, seed=1)
    names = "{box: [crate, cardboard box], ball: [ball, sphere, orb]}"
    world.write_text(world.read_text().replace("{box: cardboard box}", names))
    (folder / "recipe.yaml").write_text(RECIPE)
    words = ("--dataset", world, "--root", world.parent, "--cache", folder / "cache", "-q")
    sets = ("dense.size=[64,96]", "text.templates=single", "text.synonyms=max", "device=cpu")
    given = [word for each in (*sets, "pixel_names.enabled=true") for word in ("--set", each)]
    with pytest.MonkeyPatch.context() as patch:
        train_tiny_students(patch)
        assert zsseg("precompute", *words, "--teacher", tiny_clip, *given) == 0
        config = ("--config", folder / "recipe.yaml", "--out", folder / "run", "-q")
        assert zsseg("train", "--cache", folder / "cache", *config) == 0
        yield folder


def test_the_store_keeps_every_name_and_agrees_with_its_teacher(
    work: Path, tiny_clip: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = choose_store(work / "cache")
    store = Store.open(path)
    text_CSD = store.read_all("text")
    assert text_CSD.shape[:2] == (4, 3)
    assert store.recipes["text"]["synonyms"] == "max"
    assert zsseg("cache", "verify", path, "--read-data", "--against-teacher", 1) == 0
    assert zsseg("cache", "gap", path, "--images", 1, "-q") == 0
    assert zsseg("evaluate", "--teacher-alone", "--cache", path, "--split", "train") == 0
    assert "map of names" in capsys.readouterr().out


def test_the_student_is_scored_and_predicts_with_any_names(work: Path) -> None:
    run, image = work / "run", work / "world/images/val/scene_000.png"
    assert load_file(run / "text.safetensors")["text"].shape[:2] == (4, 3)
    assert zsseg("evaluate", "--run", run, "--split", "val", "-q") == 0
    out = ("--run", run, "-q", "--out")
    assert zsseg("predict", image, *out, work / "own") == 0
    assert zsseg("predict", image, *out, work / "new", "--classes", "sky, cat|dog, ball") == 0
    (kept,) = (run / "text_cache").iterdir()
    assert load_file(kept)["text_D"].shape[0] == 2
    # As a class beside the best of both names, one of them would be another name for it.
    assert zsseg("predict", image, *out, work / "again", "--classes", "cat|dog, dog") != 0
    other = work / "world/other.yaml"
    text = (work / "world/world.yaml").read_text()
    other.write_text(text.replace("ball, sphere, orb", "ball, marble"))
    words = ("--dataset", other, "--root", work / "world", "--split", "val", "-q")
    assert zsseg("evaluate", "--run", run, *words) == 0


def test_mean_and_max_are_two_stores(work: Path, tiny_clip: str) -> None:
    world = work / "world/world.yaml"
    words = ("--dataset", world, "--root", world.parent, "--cache", work / "cache", "-q")
    sets = ("--set", "dense.size=[64,96]", "--set", "text.templates=single", "--set", "device=cpu")
    before = Store.open(choose_store(work / "cache")).read_all("text")
    assert zsseg("precompute", *words, "--teacher", tiny_clip, *sets) != 0
    assert zsseg("precompute", *words, "--teacher", tiny_clip, *sets, "--update") == 0
    text_CD = Store.open(choose_store(work / "cache")).read_all("text")
    mean_D = before[3].mean(0)
    np.testing.assert_allclose(text_CD[3], mean_D / np.linalg.norm(mean_D), atol=1e-5)
    np.testing.assert_allclose(text_CD[0], before[0, 0], atol=1e-6)
