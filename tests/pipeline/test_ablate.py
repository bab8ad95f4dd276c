"""`zsseg ablate`: its shipped tables, and its runs from the first step to the written table."""

import csv
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from filelock import FileLock
from helpers.drawn_world import draw_world
from helpers.random_clip import write_clip
from helpers.zsseg_command import called

from zsseg.pipeline.ablate import runs, shared_work
from zsseg.pipeline.ablate.run_state import state_of
from zsseg.pipeline.ablate.table_plan import (
    AblationRequest,
    PlannedRow,
    plan,
    read_table,
    table_name,
    table_stem,
    unique_runs,
)
from zsseg.pipeline.named_stores import stored_spec, training_store
from zsseg.stages.cache.reader import Store
from zsseg.stages.errors import NonFiniteError, UserError
from zsseg.stages.train import loop
from zsseg.stages.train.batches.training_data import TrainingData
from zsseg.stages.train.run_config import RunConfig
from zsseg.stages.yaml_files import builtin_names

FIXTURES = Path(__file__).parents[1] / "fixtures"
PAPER_1 = ("II", "III", "IV", "V")
EXPERIMENT = {
    "student": {"encoder": "tu-resnet10t", "weights": "none"},
    "objectives": {"sdd": 1.0},
    "self_training": {"method": "rst"},
    "augmentation": {"short_side": None, "scale": [0.8, 1.5], "crop": [32, 32]},
    "train": {
        "steps": 4,
        "batch": 2,
        "workers": 0,
        "warmup_steps": 0,
        "log_every": 1,
        "checkpoint_every": 2,
        "device": "cpu",
    },
    "evaluate": {"short_side": None, "mode": "whole"},
}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a world, an experiment, and stores of two teachers."""
    here = tmp_path_factory.mktemp("ablate")
    description = draw_world(here / "world", images=4)
    draw_world(here / "world", split="val", images=2, seed=1)
    for seed, cache in enumerate(("cache", "other")):
        teacher = write_clip(here / f"clip-{seed}", seed=seed)
        data = ("--dataset", description, "--root", here / "world", "--teacher", teacher)
        options = ("--cache", here / cache, "--set", "dense.size=[64, 64]", "-q")
        called("precompute", *data, *options)
    (here / "tiny.yaml").write_text(yaml.safe_dump(EXPERIMENT))
    return here


def words(place: Path, out: Path, table: str, *more: object, cache: str = "cache") -> list[str]:
    data = ("--cache", place / cache, "--config", place / "tiny.yaml")
    return [*map(str, ("ablate", table, *data, "--out", out, *more))]


def ablate(place: Path, out: Path, table: str, *more: object, cache: str = "cache") -> int:
    """Run `zsseg ablate` quietly in this process; its exit code. Errors are raised."""
    return called(*words(place, out, table, *more, cache=cache), "-q")


def rows_of(
    table: str, experiment: object, out: Path = Path("out"), **more: Any
) -> list[PlannedRow]:
    request = AblationRequest(experiment=str(experiment), out=out, **{"seeds": 1} | more)
    return plan(read_table(table), request)


def checkpoints(out: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in out.rglob("*.safetensors")}


@pytest.mark.parametrize(
    ("table", "experiment"),
    [
        *((table, base) for table in PAPER_1 for base in ("sdd_rst", "camvid_sdd_rst")),
        *((table, "demo_sdd_rst") for table in PAPER_1),
        *(("c2s", base) for base in ("c2s", "camvid_c2s", "demo_c2s")),
    ],
)
def test_rows_are_what_their_names_say(table: str, experiment: str) -> None:
    rows = rows_of(table, experiment)
    if table in PAPER_1:
        assert len({row.runs[0].folder for row in rows}) == len(rows)
    for row in rows:
        config, name = row.runs[0].config, row.row.name
        if table in ("II", "III"):
            assert (config.objectives.sdd > 0) == ("SDD" in name)
            method = "rst" if "RST" in name else "st" if "ST" in name else "none"
            assert config.self_training.method == method
        elif table == "IV":
            assert f"K = {config.self_training.top_percent:g}" == name
        elif table == "V":
            taus = (config.objectives.sdd_tau_f, config.objectives.sdd_tau_c)
            assert name == ", ".join(f"{tau:.2f}".removeprefix("0") for tau in taus)
            assert config.self_training.method == "rst"
        else:
            assert (config.objectives.nel > 0) == (name != "B")
            assert config.latent.enabled == ("latent" in name or "all" in name)


def test_every_shipped_table_is_tested_and_reads_the_papers_figures() -> None:
    assert builtin_names("ablations") == sorted([*PAPER_1, "c2s"])
    figures = [row.paper for row in read_table("IV").rows]
    assert [(each.hIoU, each.sIoU, each.uIoU) for each in figures if each] == [
        (57.6, 53.0, 63.2),
        (60.4, 53.4, 69.5),
        (41.2, 53.3, 33.6),
    ]
    assert all(row.paper is None for row in read_table("c2s").rows)


def test_names_of_tables() -> None:
    assert [table_name(each) for each in ("ii", "4", "V", "C2S")] == ["II", "IV", "V", "c2s"]
    with pytest.raises(UserError, match="no table 'VI'; there are II, III, IV, V, c2s"):
        table_name("VI")


def test_a_table_replaces_only_its_own_kind() -> None:
    table = read_table("II")

    def stem(experiment: str, **changed: Any) -> str:
        request = AblationRequest(experiment=experiment, seeds=3, out=Path("out"), **changed)
        return table_stem("II", table, request)

    assert stem("sdd_rst") == "table-II"
    changed: list[dict[str, Any]] = [
        {"split": "test"},
        {"calibration": 0.02},
        {"settings": ("train.steps=1",)},
        {"settings": ("train.steps=2",)},
    ]
    stems = [stem("a/b.yaml", **each) for each in changed]
    assert stems[:2] == ["table-II-b-test", "table-II-b-gamma0.02"]
    assert len({*stems, "table-II-b"}) == 5


def test_rows_that_mean_the_same_are_one_run() -> None:
    def folder(table: str, name: str, **more: Any) -> Path:
        rows = rows_of(table, "sdd_rst", **more)
        return next(row.runs[0].folder for row in rows if row.row.name == name)

    assert folder("II", "B + SDD + RST") == folder("V", ".07, .01")
    assert folder("III", "B + RST") == folder("IV", "K = 75")
    assert folder("II", "B") != folder("II", "B + SDD")
    assert folder("II", "B") == folder("II", "B", calibration=0.1)
    same = ("train.workers=0", "train.device=cpu", "evaluate.mode=whole")
    assert folder("II", "B") == folder("II", "B", settings=same)
    assert folder("II", "B") != folder("II", "B", settings=("train.steps=5",))


def test_folders_are_named_as_they_were_by_earlier_versions() -> None:
    """Those that zsseg 0.1 gave to every row of every table on top of every experiment that has
    the settings it had then: a recipe that changed, as the demo's did, has other runs."""
    named = json.loads((FIXTURES / "ablation_folders.json").read_text())
    for table, experiments in named.items():
        for experiment, folders in experiments.items():
            rows = rows_of(table, experiment, seeds=2)
            found = {row.row.name: {run.folder.parent.name for run in row.runs} for row in rows}
            assert found == {name: {folder} for name, folder in folders.items()}, experiment


def test_what_changes_no_result_shares_a_folder_unless_an_earlier_version_made_one(
    tmp_path: Path,
) -> None:
    lean = ["student.checkpointing=true", "train.accumulate=2", "train.compile=true"]

    def folders(*settings: str) -> list[Path]:
        rows = rows_of("II", "sdd_rst", tmp_path, settings=settings, seeds=2)
        return [run.folder for run in unique_runs(rows)]

    plain = folders()
    assert folders(*lean) == plain
    # Named by zsseg 0.1 for B + SDD and these settings.
    earlier = tmp_path / "sdd_rst-4e60dd8b"
    (earlier / "seed-0").mkdir(parents=True)
    found = [run.parent for run in folders(*lean)]
    assert found.count(earlier) == 2
    assert folders() == plain


def test_a_base_that_would_make_a_row_another_one_is_refused() -> None:
    with pytest.raises(UserError, match=r"row 'B \+ SDD' on top of st: objectives.sdd is off"):
        rows_of("II", "st")
    rows = rows_of("II", "st", settings=("objectives.sdd=0.5",))
    assert [row.runs[0].config.objectives.sdd for row in rows] == [0.0, 0.5, 0.5]
    with pytest.raises(UserError, match=r"every row of .* sets self_training.top_percent itself"):
        rows_of("IV", "rst", settings=("self_training.top_percent=60",))
    with pytest.raises(UserError, match="--seeds"):
        rows_of("IV", "rst", settings=("train.seed=6",))


def test_from_nothing_to_the_table_and_again(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert ablate(place, out, "III", "--seeds", 2, "--calibration", 0.05) == 0
    printed = capsys.readouterr().out
    stem = out / "table-III-tiny-gamma0.05"
    text = stem.with_name(f"{stem.name}.md").read_text()
    assert text in printed
    for expected in ("B + RST", "2 of 2", " ± ", "60.4", "gamma 0.05", "tiny-world", "Command"):
        assert expected in text
    values = json.loads(stem.with_name(f"{stem.name}.json").read_text())
    assert [row["name"] for row in values["rows"]] == ["B + ST", "B + RST"]
    gammas = values["rows"][0]["scores"]
    assert [each["gamma"] for each in gammas] == [0.0, 0.05]
    assert len(gammas[0]["hIoU"]["seeds"]) == 2
    assert [pair["gamma"] for pair in values["orderings"]] == [0.0, 0.05]
    with stem.with_name(f"{stem.name}.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert [line["row"] for line in lines] == ["B + ST", "B + ST", "B + RST", "B + RST"]
    assert lines[0]["hIoU paper"] == "58.20"

    before = checkpoints(out)
    assert len(before) == 2 * 2 * (2 + 1)  # two checkpoints are kept, and the text embeddings
    assert ablate(place, out, "III", "--seeds", 2, "--calibration", 0.05) == 0
    assert checkpoints(out) == before
    # Another gamma is scored, not trained; K = 75 of Table IV is trained already.
    assert ablate(place, out, "4", "--seeds", 2) == 0
    after = checkpoints(out)
    assert {path: after[path] for path in before} == before
    assert len(after) == len(before) * 2
    assert (
        json.loads((out / "table-IV-tiny.json").read_text())["rows"][1]["folders"]
        == (values["rows"][1]["folders"])
    )


def test_a_dry_run_tells_what_is_shared_and_changes_nothing(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ablate(place, tmp_path / "out", "IV", "--seeds", 2, "--dry-run") == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 6
    assert [line.split("/")[-1] for line in lines[:3]] == [
        "seed-0  to do  K = 50",
        "seed-0  to do  K = 75; also III B + RST",
        "seed-0  to do  K = 90",
    ]
    assert not (tmp_path / "out").exists()


def stopped_at(step: int) -> Callable[..., loop.TrainResult]:
    """Training that a person interrupts after a step."""

    def train(config: RunConfig, data: TrainingData, **more: Any) -> loop.TrainResult:
        def progress(now: loop.TrainProgress) -> None:
            if now.step == step:
                raise KeyboardInterrupt

        return loop.train(config, data, **more | {"progress": progress})

    return train


def test_a_half_trained_run_goes_on(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = rows_of("III", place / "tiny.yaml", tmp_path)
    monkeypatch.setattr(runs, "train", stopped_at(2))
    with pytest.raises(KeyboardInterrupt):
        train_and_score(place, rows)
    first = rows[0].runs[0]
    assert state_of(first, "val") == "at step 2 of 4"
    monkeypatch.setattr(runs, "train", loop.train)
    assert train_and_score(place, rows) == {}
    (resumed,) = (first.folder / "resumed.jsonl").read_text().splitlines()
    assert json.loads(resumed)["step"] == 2
    assert [state_of(row.runs[0], "val") for row in rows] == ["finished", "finished"]


def train_and_score(place: Path, rows: list[PlannedRow]) -> dict[Path, str]:
    """Work on the rows, without a table."""
    store = Store.open(training_store(place / "cache"))
    spec = stored_spec(store)
    inputs = runs.RunInputs(store, spec, place / "world", "val", "tiny")
    return runs.work_on(rows, inputs, after_run=lambda failures: None, quiet=True)


def test_scores_that_are_missing_are_made_without_training(place: Path, tmp_path: Path) -> None:
    assert ablate(place, tmp_path, "III", "--seeds", 1) == 0
    before = checkpoints(tmp_path)
    (result, *_) = tmp_path.rglob("evaluation-val.json")
    result.unlink()
    assert ablate(place, tmp_path, "III", "--seeds", 1, "--dry-run") == 0
    assert ablate(place, tmp_path, "III", "--seeds", 1) == 0
    assert result.is_file()
    assert checkpoints(tmp_path) == before


def test_another_store_is_refused_before_anything_is_done(place: Path, tmp_path: Path) -> None:
    assert ablate(place, tmp_path, "III", "--seeds", 1) == 0
    with pytest.raises(UserError, match=r"another store than .*\n  store_fingerprint: stored"):
        ablate(place, tmp_path, "IV", "--seeds", 1, cache="other")
    assert not (tmp_path / "table-IV-tiny.md").exists()


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--split", "nights"), "no split 'nights'"),
        (("--split", "train"), "the same images would be used for training and scoring"),
        (("--root", "nowhere"), "nowhere: there is no such folder"),
    ],
)
def test_what_cannot_be_scored_is_not_trained(
    place: Path, tmp_path: Path, more: tuple[str, str], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        ablate(place, tmp_path / "out", "III", "--seeds", 1, *more)
    assert not (tmp_path / "out").exists()


def test_a_failed_row_is_told_and_the_others_go_on(
    place: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def train(config: RunConfig, data: TrainingData, **more: Any) -> loop.TrainResult:
        if config.self_training.method == "st":
            raise NonFiniteError("step 3: cross_entropy nan")
        return loop.train(config, data, **more)

    monkeypatch.setattr(runs, "train", train)
    assert ablate(place, tmp_path, "III", "--seeds", 1) == 3
    text = (tmp_path / "table-III-tiny.md").read_text()
    assert "- B + ST, seed 0: failed. step 3: cross_entropy nan" in text
    failed, good = (line for line in text.splitlines() if line.startswith("| B + "))
    assert failed.split("|")[2:6] == [" 0 of 1 ", " failed ", " failed ", " failed "]
    assert "1 of 1" in good
    assert "step 3: cross_entropy nan" in capsys.readouterr().err


def test_a_run_in_work_elsewhere_is_left_for_later_and_waited_for(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = rows_of("III", place / "tiny.yaml", tmp_path)
    first, second = (row.runs[0] for row in rows)
    lock = FileLock(first.folder.with_name("seed-0.lock"), thread_local=False)
    first.folder.parent.mkdir()
    lock.acquire()
    assert state_of(first, "val") == "in work by another process"
    slept: list[float] = []

    def sleep(seconds: float) -> None:
        assert state_of(second, "val") == "finished"
        assert not first.folder.exists()
        slept.append(seconds)
        lock.release()

    monkeypatch.setattr(shared_work, "time", SimpleNamespace(sleep=sleep))
    assert train_and_score(place, rows) == {}
    assert len(slept) == 1
    assert state_of(first, "val") == "finished"


def test_two_processes_share_the_work(place: Path, tmp_path: Path) -> None:
    arguments = words(place, tmp_path, "III", "--seeds", 2)
    command = [sys.executable, "-c", "from zsseg.pipeline.cli.main import main; main()", *arguments]
    both = [
        subprocess.Popen(
            command,
            env=os.environ | {"OMP_NUM_THREADS": "1"},  # threads of both would wait for each other
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    shown = [process.communicate(timeout=200) for process in both]
    assert [process.returncode for process in both] == [0, 0], shown
    assert shown[0][0] == shown[1][0]
    assert shown[0][0].count("2 of 2") == 2
    for run in unique_runs(rows_of("III", place / "tiny.yaml", tmp_path, seeds=2)):
        assert state_of(run, "val") == "finished"
        assert not (run.folder / "resumed.jsonl").exists()
        steps = (run.folder / "metrics.jsonl").read_text().splitlines()
        assert [json.loads(line)["step"] for line in steps] == [1, 2, 3, 4]
