"""`zsseg tune`: chooses by classes that are hidden in turn, and never looks at unseen labels."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from helpers.clip_store import BALL, label_of, pixels
from helpers.drawn_world import draw_world
from helpers.random_clip import write_clip
from helpers.tiny_training import train_tiny_students
from helpers.zsseg_command import called
from PIL import Image

from zsseg.pipeline.ablate.orders import Statistic
from zsseg.pipeline.tune import trials
from zsseg.pipeline.tune.candidates import TuneRequest, candidates, config_of, tried_values
from zsseg.pipeline.tune.choice import choose
from zsseg.pipeline.tune.folds import HeldOut, hidden_groups, hold_out, make_folds
from zsseg.stages.cache.catalogue import find_stores
from zsseg.stages.cache.disk.json_files import newest, read_json_lines
from zsseg.stages.data.samples import Sample
from zsseg.stages.data.spec import DatasetSpec, FolderPatterns
from zsseg.stages.errors import DatasetError, UserError
from zsseg.stages.evaluate.hidden_classes import hidden_scores
from zsseg.stages.train import loop

EXPERIMENT: dict[str, Any] = {
    "student": {"encoder": "tu-resnet10t", "weights": "none"},
    "objectives": {"sdd": 1.0, "local_distillation": 0.5},
    "self_training": {"method": "rst"},
    "augmentation": {"short_side": None, "scale": [0.8, 1.5], "crop": [32, 32]},
    "train": {
        "steps": 40,
        "batch": 2,
        "workers": 0,
        "warmup_steps": 20,
        "log_every": 1,
        "device": "cpu",
        "learning_rate": 1e-3,
    },
    "evaluate": {"short_side": None, "mode": "whole"},
}
OPTIONS = (
    *("tune", "--cache", "cache", "--root", "world", "--config", "tiny.yaml", "--out", "out"),
    *("--try", "evaluate.calibration=0,0.5", "--try", "objectives.sdd=0.5,1"),
    *("--steps", "2", "--folds", "2", "--hold-out", "0.34", "-q"),
)


@pytest.fixture(scope="module")
def tuned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a world, its store, and what `zsseg tune` made of it."""
    here = tmp_path_factory.mktemp("tune")
    description = draw_world(here / "world", images=6)
    teacher = write_clip(here / "clip")
    data = ("--dataset", description, "--root", here / "world", "--teacher", teacher)
    sizes = ("--set", "dense.size=[64, 64]", "--set", "shard_images=4")
    names = ("--set", "pixel_names.enabled=true")
    called("precompute", *data, "--cache", here / "cache", *sizes, *names, "-q")
    (here / "tiny.yaml").write_text(yaml.safe_dump(EXPERIMENT))
    tune(here)
    return here


def tune(here: Path, *more: str, code: int = 0) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(here)
        train_tiny_students(patch)
        assert called(*OPTIONS, *more) == code


def written(here: Path) -> dict[str, bytes]:
    """What `zsseg tune` wrote but for runs and stores: the results and the counts of pixels."""
    out = here / "out"
    found = [*out.glob("*.*"), *out.rglob("*.scores/*")]
    return {path.relative_to(out).as_posix(): path.read_bytes() for path in found}


def result(here: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((here / "out" / "tune.json").read_text())
    return found


def test_what_it_writes(tuned: Path) -> None:
    found = result(tuned)
    assert found["never_looked_at"] == ["ball"]
    assert found["images"] == {"trained": 4, "scored": 2}
    hidden = [fold["hidden"] for fold in found["folds"]]
    assert len({name for group in hidden for name in group}) == 2
    assert not any("ball" in group for group in hidden)
    assert [each["set"] for each in found["candidates"]] == [
        ["evaluate.calibration=0", "objectives.sdd=0.5"],
        ["evaluate.calibration=0", "objectives.sdd=1"],
        ["evaluate.calibration=0.5", "objectives.sdd=0.5"],
        ["evaluate.calibration=0.5", "objectives.sdd=1"],
    ]
    means = [each["scores"]["hIoU"]["mean"] for each in found["candidates"]]
    best = found["candidates"][int(np.argmax(means))]
    assert found["picked"] == {"config": "tiny.yaml", "set": best["set"]}
    text = (tuned / "out" / "tune.md").read_text()
    assert "(picked)" in text
    assert f"zsseg train --config tiny.yaml --set {best['set'][0]}" in text


def test_the_picked_experiment_is_the_base_with_what_was_picked(tuned: Path) -> None:
    picked = yaml.safe_load((tuned / "out" / "picked.yaml").read_text())
    values = dict(each.split("=") for each in result(tuned)["picked"]["set"])
    assert picked["evaluate"]["calibration"] == float(values["evaluate.calibration"])
    assert picked["objectives"]["sdd"] == float(values["objectives.sdd"])
    assert picked["train"]["steps"] == EXPERIMENT["train"]["steps"], "not those of brief trainings"


def test_settings_of_evaluation_are_tried_on_one_training(tuned: Path) -> None:
    runs = [path.parent for path in (tuned / "out").rglob("run.json")]
    assert len(runs) == 4  # two folds, two values of sdd
    for run in runs:
        assert len(list(run.with_name("seed-0.scores").iterdir())) == 2
        record = json.loads((run / "run.json").read_text())
        assert record["config"]["train"]["steps"] == 2
        assert record["config"]["train"]["warmup_steps"] == 1
        assert len(record["dataset"]["unseen"]) == 2


def test_stores_of_folds_cost_no_dense_pass(tuned: Path) -> None:
    stores = find_stores(Path(tuned / "out" / "stores"))
    assert len(stores) == 2
    for store in stores:
        assert store.images == 4
        forwards = newest(read_json_lines(store.path / "history.jsonl"), "forwards")
        assert set(forwards) <= {"local"}


def test_unseen_labels_change_nothing_and_a_killed_run_goes_on(
    tuned: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their pixels are noise here, and the second training was interrupted."""
    here = tmp_path / "other"
    here.mkdir()
    for name in ("world", "cache", "clip"):
        shutil.copytree(tuned / name, here / name)
    shutil.copy(tuned / "tiny.yaml", here)
    rng = np.random.default_rng(0)
    for number in range(6):
        label_HW = pixels(label_of(here / "world" / "world.yaml", number))
        hidden_HW = np.isin(label_HW, (BALL, 255))
        noise_HW = rng.choice(np.array([BALL, 255], np.uint8), label_HW.shape)
        assert (noise_HW != label_HW)[hidden_HW].any()
        changed_HW = np.where(hidden_HW, noise_HW, label_HW)
        Image.fromarray(changed_HW).save(label_of(here / "world" / "world.yaml", number))
    done: list[Path] = []

    def train(*given: Any, out: Path, **more: Any) -> loop.TrainResult:
        if len(done) == 1:
            raise KeyboardInterrupt
        done.append(out)
        return loop.train(*given, out=out, **more)

    monkeypatch.setattr(trials, "train", train)
    tune(here, code=130)
    assert result(here)["picked"] is None
    assert result(here)["to_do"] == 3
    assert not (here / "out" / "picked.yaml").exists()
    monkeypatch.undo()
    first = here / done[0] / "metrics.jsonl"
    before = first.stat().st_mtime_ns
    tune(here)
    assert first.stat().st_mtime_ns == before, "what ended is not done again"
    assert written(here) == written(tuned)


def test_a_dry_run_counts_the_trainings_and_writes_nothing(
    tuned: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tune(tuned, "--dry-run", "--out", str(tmp_path / "none"), "--seeds", "3")
    said = capsys.readouterr().out
    assert "12 trainings, 24 steps in all; each scored on 2 images" in said
    assert said.count("to do") == 12
    assert not (tmp_path / "none").exists()
    tune(tuned, "--dry-run")
    assert capsys.readouterr().out.count("finished") == 4


def spec_of(classes: int, unseen: int) -> DatasetSpec:
    names = tuple(f"c{i}" for i in range(classes))
    return DatasetSpec(
        name="many", classes=names, unseen=names[classes - unseen :], patterns=FolderPatterns()
    )


def test_groups_are_disjoint_and_mix_frequent_and_rare_classes() -> None:
    spec = spec_of(11, 3)
    shown = {i: 1000 - 100 * i for i in range(8)}
    groups = hidden_groups(spec, shown, folds=3)
    assert groups == [("c0", "c4"), ("c1", "c5"), ("c2", "c6")]
    assert hidden_groups(spec, {0: 5, 3: 9}, folds=2) == [("c3",), ("c0",)]


@pytest.mark.parametrize(
    ("spec", "given", "message"),
    [
        (spec_of(4, 0), [], "no class is unseen"),
        (spec_of(4, 4), [], "no class is seen"),
        (spec_of(4, 3), [], "only one class is seen"),
        (spec_of(11, 3), ["c9"], "not a seen class: c9"),
        (spec_of(11, 3), ["c0, c5"], "shows c5"),
        (spec_of(5, 2), ["c0, c1, c2"], "all seen classes"),
        (spec_of(11, 3), [","], "names no class"),
    ],
)
def test_what_cannot_be_hidden(spec: DatasetSpec, given: Sequence[str], message: str) -> None:
    held_out = HeldOut(3, (), {0: 10, 1: 10, 2: 10})
    with pytest.raises(UserError, match=message):
        make_folds(spec, held_out, folds=2, given=given)


def test_more_folds_than_classes_are_refused() -> None:
    with pytest.raises(UserError, match=r"--folds 4: .* show 3 of 8 seen classes"):
        hidden_groups(spec_of(11, 3), {0: 1, 1: 1, 2: 1}, folds=4)


def test_what_cannot_be_held_out(tmp_path: Path) -> None:
    sample = Sample("a", tmp_path / "a.png", None)
    with pytest.raises(UserError, match="leaves none of 2 images"):
        hold_out(spec_of(3, 1), [sample] * 2, [True] * 2, share=1.0)
    with pytest.raises(DatasetError, match="nothing to score with"):
        hold_out(spec_of(3, 1), [sample] * 2, [True] * 2, share=0.5)


def test_values_are_read_as_a_list() -> None:
    assert tried_values("a.b=0,1e-5, 2") == ["a.b=0", "a.b=1e-05", "a.b=2"]
    assert tried_values("a.b=[1, 2],[3, 4],null,true") == [
        *("a.b=[1, 2]", "a.b=[3, 4]", "a.b=null", "a.b=true")
    ]
    assert tried_values("a.b=none,st") == ["a.b=none", "a.b=st"]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"experiments": ()}, "--config is missing"),
        ({}, "nothing to choose from"),
        ({"tries": ("train.steps",)}, "write it as section.field=value,value"),
        ({"tries": ("train.steps=3",)}, "one value is no choice"),
        ({"tries": ("train.seed=0,1",)}, "--seeds"),
        ({"tries": ("train.steps=3,4",), "steps": 5}, "Leave --steps out"),
        ({"tries": ("objectives.sdd=0,1", "objectives.sdd=2,3")}, "given twice"),
        ({"tries": ("objectives.sdd=0,1",), "settings": ("objectives.sdd=1",)}, "given twice"),
        ({"tries": ("objectives.sd=0,1",)}, "did you mean 'sdd'"),
        ({"tries": ("objectives.sdd=[0,1",)}, "not valid YAML"),
    ],
)
def test_what_cannot_be_tried(more: dict[str, Any], message: str) -> None:
    given: dict[str, Any] = {"experiments": ("sdd_rst",), "seeds": 1, "out": Path("out")} | more
    with pytest.raises(UserError, match=message):
        candidates(TuneRequest(**given))


def test_experiments_can_be_compared() -> None:
    request = TuneRequest(experiments=("sdd_rst", "best"), steps=300, seeds=1, out=Path("out"))
    found = candidates(request)
    assert [each.name for each in found] == ["sdd_rst", "best"]
    assert {config_of(each, request, seed=0).train.steps for each in found} == {300}


def test_the_choice_by_hand() -> None:
    def both(one: float, other: float) -> tuple[Statistic, Statistic]:
        return Statistic((one - 1, one + 1), (0, 1)), Statistic((other - 1, other + 1), (0, 1))

    choice = choose({"a": both(30, 40), "b": both(33, 38), "c": (Statistic(()), Statistic((99,)))})
    assert choice is not None
    assert choice.picked == "b"
    assert choice.means == {"a": 35, "b": 35.5}
    first, second = choice.folds
    assert (first.best, first.lost, first.of_others, first.lost_of_others) == ("b", 0, "a", 3)
    assert (second.best, second.lost, second.of_others, second.lost_of_others) == ("a", 2, "b", 2)
    assert second.spread == pytest.approx(2.0)  # each 1 ± sqrt(2): sqrt(2 + 2)
    assert choice.agreeing == 2
    assert choose({"c": (Statistic(()), Statistic((99,)))}) is None


def test_of_equal_candidates_the_first_is_picked_and_one_seed_has_no_spread() -> None:
    choice = choose({"a": (Statistic((10.0,)),), "b": (Statistic((10.0,)),)})
    assert choice is not None
    assert choice.picked == "a"
    (fold,) = choice.folds
    assert (fold.spread, fold.of_others, fold.agrees) == (None, None, True)


def test_scores_count_neither_labels_nor_means_of_unseen_classes() -> None:
    """Class 3 is really unseen: what is taken for it is an error, but it has no IoU of its own."""
    confusion_CC = np.array([[6, 2, 0, 2], [0, 5, 0, 0], [0, 1, 3, 0], [0, 0, 0, 0]])
    found = hidden_scores(confusion_CC, shown=(0, 1), hidden=(2,))
    assert found.siou == pytest.approx((6 / 10 + 5 / 8) / 2)
    assert found.uiou == pytest.approx(3 / 4)
    assert found.hiou == pytest.approx(2 * found.siou * 0.75 / (found.siou + 0.75))
