"""The marks of settings, and that everything that asks about a setting follows its mark."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.changed_settings import changed, other_value, setting_names
from helpers.colour_run import record
from pydantic import BaseModel
from safetensors.torch import save_file

from zsseg.pipeline.ablate.table_plan import AblationRequest, AblationTable, plan
from zsseg.pipeline.compare.comparison import compare_runs
from zsseg.stages.data.spec import load_spec
from zsseg.stages.errors import UserError
from zsseg.stages.evaluate.metrics import scores
from zsseg.stages.evaluate.result import EvaluationResult, save_result
from zsseg.stages.precompute.plan.store_command import store_command
from zsseg.stages.precompute.precompute_config import PrecomputeConfig
from zsseg.stages.setting_marks import InReplay, marked, selection
from zsseg.stages.train.capture import Capture, replay
from zsseg.stages.train.run.run_folder import check_folder, write_record
from zsseg.stages.train.run_config import RunConfig

CAMVID = load_spec("camvid")
CONFIG = RunConfig()

NO_RESULT = {
    RunConfig: {
        *("student.checkpointing", "train.accumulate", "train.channels_last", "train.compile"),
        *("train.device", "train.workers", "train.log_every", "train.checkpoint_every"),
        *("train.memory_forecast", "validation.pictures"),
        *(f"evaluate.{name}" for name in type(CONFIG.evaluate).model_fields),
    },
    PrecomputeConfig: {"batch", "device", "megapixels", "shards_at_once"},
}
"""Settings that no result depends on; every other one, whatever is added, is without a mark."""

FIXED = {
    *("student.architecture", "student.encoder"),
    *("latent.enabled", "latent.layers", "latent.heads"),
}
NOTHING = {
    "student.weights",
    *("objectives.token", "objectives.dense_stride", "self_training.ema_decay"),
    *("train.batch", "train.sync_batch_norm", "train.learning_rate", "train.head_multiplier"),
    *("train.weight_decay", "train.power", "train.warmup_steps", "train.clip_norm"),
    *("train.workers", "train.log_every", "train.checkpoint_every", "train.memory_forecast"),
    *(f"augmentation.{name}" for name in type(CONFIG.augmentation).model_fields),
    *(f"validation.{name}" for name in type(CONFIG.validation).model_fields),
    *(f"evaluate.{name}" for name in type(CONFIG.evaluate).model_fields),
}


def in_replay(name: str) -> InReplay:
    return "fixed" if name in FIXED else "nothing" if name in NOTHING else "counts"


def holds(names: list[str], name: str) -> bool:
    """Is a setting, or its section, among the names?"""
    return name in names or name.partition(".")[0] in names


@pytest.mark.parametrize("model", [RunConfig, PrecomputeConfig])
def test_every_setting_has_the_mark_that_is_true_of_it(model: type[BaseModel]) -> None:
    names = list(setting_names(model))
    assert NO_RESULT[model] <= set(names)
    for name in names:
        assert holds(marked(model, result=False), name) == (name in NO_RESULT[model]), name
        assert holds(marked(model, result=True), name) != (name in NO_RESULT[model]), name
    if model is RunConfig:
        assert {*FIXED, *NOTHING} <= set(names)
        for name in names:
            kinds = [kind for kind in KINDS if holds(marked(model, replay=kind), name)]
            assert kinds == [in_replay(name)], name


KINDS: tuple[InReplay, ...] = ("counts", "nothing", "fixed")


def test_names_select_sections_and_fields() -> None:
    assert selection(["train.seed", "evaluate", "train.steps"]) == {
        "train": {"seed", "steps"},
        "evaluate": True,
    }


def ablation_tells_apart(name: str, place: Path) -> bool:
    """Has a run with another value a folder of its own?"""
    values = {"title": "", "source": "", "base": "", "rows": [{"name": "row", "paper": None}]}
    table = AblationTable.model_validate(values, strict=False)

    def folder(*settings: str) -> Path:
        (place / "empty.yaml").touch()
        empty, out = str(place / "empty.yaml"), place / "out"
        request = AblationRequest(experiment=empty, settings=settings, seeds=1, out=out)
        (row,) = plan(table, request)
        return row.runs[0].folder

    return folder() != folder(f"{name}={json.dumps(other_value(CONFIG, name))}")


def mean_tells_apart(name: str, place: Path) -> bool:
    """Is the mean over seeds not taken where a run has another value?"""
    one = CONFIG.model_copy(update={"train": CONFIG.train.model_copy(update={"seed": 7})})
    confusion_CC = np.eye(len(CAMVID.classes), dtype=np.int64)
    for number, config in enumerate((one, changed(CONFIG, name))):
        run = place / str(number)
        write_record(run, record(CAMVID, config), torch.zeros(len(CAMVID.classes), 2))
        result = EvaluationResult(
            subject="student",
            source="run",
            dataset=CAMVID.name,
            split="val",
            classes=CAMVID.classes,
            unseen=CAMVID.unseen,
            images=1,
            left_out=0,
            trained_on=0,
            settings={},
            variant=(),
            scores=scores(confusion_CC, CAMVID.unseen_ids),
            confusion_CC=confusion_CC,
        )
        save_result(run, result)
    return not compare_runs([place / "0", place / "1"], "val", mean=True).means


def resume_refuses(name: str, place: Path) -> bool:
    """Can a run not go on with another value?"""
    write_record(place, record(CAMVID, CONFIG), torch.zeros(len(CAMVID.classes), 2))
    (place / "checkpoints" / "step-000100").mkdir(parents=True)
    try:
        check_folder(place, record(CAMVID, changed(CONFIG, name)), resume=True)
    except UserError as error:
        return f"config.{name}" in str(error)
    return False


@pytest.mark.parametrize("reader", [ablation_tells_apart, mean_tells_apart, resume_refuses])
def test_runs_are_told_apart_by_what_results_depend_on(
    reader: Callable[[str, Path], bool], tmp_path: Path
) -> None:
    for name in setting_names(RunConfig):
        if name == "train.seed" and reader is not resume_refuses:
            continue  # it is what their runs differ in
        if name.startswith("validation.") and reader is ablation_tells_apart:
            continue  # runs of tables are of equal length, and scored at their end
        place = tmp_path / name
        place.mkdir()
        assert reader(name, place) == (name not in NO_RESULT[RunConfig]), name


def test_a_replay_takes_what_counts_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Taken(Exception):
        pass

    def taken(_: object) -> None:
        raise Taken

    monkeypatch.setattr("zsseg.stages.train.capture.choose_device", taken)
    write_record(tmp_path, record(CAMVID, CONFIG), torch.zeros(len(CAMVID.classes), 2))
    (tmp_path / "checkpoints" / "step-000100").mkdir(parents=True)
    file = tmp_path / "non_finite" / "step-000100.json"
    file.parent.mkdir()
    save_file({"row_B": torch.zeros(1)}, file.with_suffix(".safetensors"))
    written = Capture(
        step=100, images=("a",), losses={}, checkpoint="step-000100", parts=1, config=CONFIG
    )
    file.write_text(written.model_dump_json())
    for name in setting_names(RunConfig):
        with pytest.raises((Taken, UserError)) as caught:
            replay(file, changed(CONFIG, name))
        text = str(caught.value)
        known = {"another student": "fixed", "change nothing": "nothing"}
        answer = next((kind for words, kind in known.items() if words in text), "counts")
        assert answer == in_replay(name), name
        assert answer == "counts" or f"{name}: the run had" in text.replace("[0]", "")


def test_the_card_of_a_store_has_what_the_store_depends_on() -> None:
    config = PrecomputeConfig()
    for name in setting_names(PrecomputeConfig):
        command = store_command(CAMVID, "train", None, changed(config, name))
        assert (f"--set '{name}=" in command) == (name not in NO_RESULT[PrecomputeConfig]), name
