"""The run folder's record, its metrics, and the guards around both."""

import json
import logging
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import (  # type: ignore[import-untyped]
    EventAccumulator,
)

from zsseg.stages.cache.disk.hashing import hash_file
from zsseg.stages.data.spec import DatasetSpec
from zsseg.stages.errors import UserError
from zsseg.stages.train.run.metrics_log import MetricsLog, Throughput
from zsseg.stages.train.run.run_folder import (
    RunRecord,
    check_folder,
    git_revision,
    note_resumption,
    package_versions,
    read_record,
    read_text,
    write_record,
)
from zsseg.stages.train.run_config import RunConfig

TEXT_CD = torch.eye(2, 5)
CHECK = r',\s*"check": "\w+"'
CHECKOUT = Path(__file__).resolve().parents[2]


def record_of(**sections: dict[str, Any]) -> RunRecord:
    return RunRecord(
        experiment="tiny",
        config=RunConfig.model_validate(sections),
        dataset=DatasetSpec(
            name="two", layout="camvid", classes=("a", "b"), encoding={7: 0, 9: 1}, ignore=(255,)
        ),
        split="train",
        root=Path("/data"),
        teacher="ViT-B-16-quickgelu/openai",
        templates="single",
        store="/stores/two",
        store_fingerprint="ab",
        versions=package_versions(),
        revision=git_revision(),
    )


@pytest.mark.skipif(not (CHECKOUT / ".git").exists(), reason="not a git checkout")
def test_the_revision_of_a_checkout_is_found() -> None:
    command = ["git", "rev-parse", "HEAD"]
    done = subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True, check=True)
    revision = git_revision()
    assert revision is not None
    assert revision.removesuffix("-dirty") == done.stdout.strip()


def start(out: Path, record: RunRecord) -> None:
    """A run with a checkpoint."""
    write_record(out, record, TEXT_CD)
    (out / "checkpoints" / "step-000100").mkdir(parents=True)


def test_a_record_comes_back(tmp_path: Path) -> None:
    record = record_of(train={"steps": 3}, augmentation={"scale": (1.0, 1.5)})
    write_record(tmp_path / "run", record, TEXT_CD)
    read = read_record(tmp_path / "run")
    hashes = {"text_hash": read.text_hash, "check": read.check}
    assert read == record.model_copy(update=hashes)
    assert read.text_hash == hash_file(tmp_path / "run" / "text.safetensors")
    assert torch.equal(read_text(tmp_path / "run"), TEXT_CD)
    assert set(record.versions) >= {"torch", "segmentation_models_pytorch"}


def test_a_new_run_needs_an_empty_folder(tmp_path: Path) -> None:
    out = tmp_path / "run"
    check_folder(out, record_of(), resume=False)
    out.mkdir()
    check_folder(out, record_of(), resume=False)
    check_folder(out, record_of(), resume=True)
    start(out, record_of())
    with pytest.raises(UserError, match="--resume, or give another --out"):
        check_folder(out, record_of(), resume=False)
    assert check_folder(out, record_of(), resume=True)


def test_other_colours_are_the_same_run(tmp_path: Path) -> None:
    """Also for runs that were made before data sets had colours."""
    out, record = tmp_path / "run", record_of()
    start(out, record)
    for colours in ({"a": (1, 2, 3)}, {}):
        again = record.dataset.model_copy(update={"colours": colours})
        assert check_folder(out, record.model_copy(update={"dataset": again}), resume=True)


@pytest.mark.parametrize("resume", [False, True])
def test_a_run_without_a_checkpoint_counts_as_none(tmp_path: Path, resume: bool) -> None:
    out = tmp_path / "run"
    write_record(out, record_of(train={"steps": 7}), TEXT_CD)
    with MetricsLog(out, start_step=0) as log:
        log.write(1, {"loss": 1.0})
    note_resumption(out, 0, record_of())
    (out / "checkpoints" / "step-000004.partial").mkdir(parents=True)
    (out / "notes.txt").write_text("learning rate too high")
    assert not check_folder(out, record_of(train={"steps": 8}), resume=resume)
    write_record(out, record_of(train={"steps": 8}), TEXT_CD)
    assert read_record(out).config.train.steps == 8
    assert {path.name for path in out.rglob("*")} == {
        "metrics.previous.jsonl",
        "run.json",
        "text.safetensors",
        "checkpoints",
        "notes.txt",
    }


@pytest.mark.parametrize(
    "left", ["text.safetensors.partial", "text.safetensors", ".lock", ".writer.json"]
)
def test_a_run_killed_before_its_record_counts_as_none(tmp_path: Path, left: str) -> None:
    (tmp_path / left).write_bytes(b"half")
    assert not check_folder(tmp_path, record_of(), resume=False)
    write_record(tmp_path, record_of(), TEXT_CD)
    assert torch.equal(read_text(tmp_path), TEXT_CD)


def test_resumptions_are_noted_one_by_one(tmp_path: Path) -> None:
    write_record(tmp_path, record_of(), TEXT_CD)
    before = (tmp_path / "run.json").read_bytes()
    for step, revision in ((5, "abc"), (9, None)):
        record = record_of().model_copy(update={"revision": revision, "versions": {"torch": "3"}})
        note_resumption(tmp_path, step, record)
    lines = [json.loads(line) for line in (tmp_path / "resumed.jsonl").read_text().splitlines()]
    assert lines == [
        {"step": 5, "versions": {"torch": "3"}, "revision": "abc", "processes": 1, "changed": []},
        {"step": 9, "versions": {"torch": "3"}, "revision": None, "processes": 1, "changed": []},
    ]
    assert (tmp_path / "run.json").read_bytes() == before


@pytest.mark.parametrize("resume", [False, True])
def test_other_files_are_never_written_over(tmp_path: Path, resume: bool) -> None:
    (tmp_path / "thesis.tex").write_text("x")
    with pytest.raises(UserError, match="exists and is no run"):
        check_folder(tmp_path, record_of(), resume=resume)
    with pytest.raises(UserError, match="exists and is no run"):
        check_folder(tmp_path / "thesis.tex", record_of(), resume=resume)


def test_resuming_with_other_settings_names_them(tmp_path: Path) -> None:
    start(tmp_path, record_of(train={"steps": 100}))
    changed = record_of(train={"steps": 200}, objectives={"sdd": 1.0})
    with pytest.raises(UserError) as caught:
        check_folder(tmp_path, changed, resume=True)
    assert "config.train.steps: stored 100, asked 200" in str(caught.value)
    assert "config.objectives.sdd: stored 0.0, asked 1.0" in str(caught.value)
    other_store = record_of(train={"steps": 100}).model_copy(update={"store_fingerprint": "cd"})
    with pytest.raises(UserError, match='store_fingerprint: stored "ab", asked "cd"'):
        check_folder(tmp_path, other_store, resume=True)


def test_settings_that_follow_from_the_machine_may_change(tmp_path: Path) -> None:
    start(tmp_path, record_of())
    free = {"workers": 7, "log_every": 3, "checkpoint_every": 5, "device": "cpu"}
    lean = {"accumulate": 4, "compile": True, "channels_last": False}
    changed = record_of(
        train=free | lean, student={"checkpointing": True}, evaluate={"mode": "whole"}
    )
    assert check_folder(tmp_path, changed, resume=True)
    note_resumption(tmp_path, 100, changed)
    noted = json.loads((tmp_path / "resumed.jsonl").read_text())["changed"]
    assert len(noted) == 9
    assert noted[-1] == "train.workers: started with 2, now 7"


def test_a_record_of_before_the_package_was_one_goes_on(tmp_path: Path) -> None:
    """zsseg 0.1 imported `stages`; its runs of the demo name a file beside `stages.demo`."""
    file = "clip/open_clip_model.safetensors"
    now = record_of(student={"weights": f"package:zsseg.stages.demo/{file}"})
    start(tmp_path, now)
    path = tmp_path / "run.json"
    then = path.read_text().replace("package:zsseg.stages.demo/", "package:stages.demo/")
    path.write_text(re.sub(CHECK, "", then))
    assert read_record(tmp_path).config == now.config
    assert check_folder(tmp_path, now, resume=True)
    mine = record_of(student={"weights": "package:stages.mine/weights.pth"})
    assert mine.config.student.weights == "package:stages.mine/weights.pth"


def test_a_missing_or_damaged_record_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"run\.json: the file is missing"):
        read_record(tmp_path)
    with pytest.raises(UserError, match=r"text\.safetensors: missing or damaged"):
        read_text(tmp_path)
    write_record(tmp_path, record_of(), TEXT_CD)
    for name in ("run.json", "text.safetensors"):
        content = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(content[: len(content) // 2])
        with pytest.raises(UserError, match=rf"{name}: (missing or )?damaged"):
            read_record(tmp_path) if name == "run.json" else read_text(tmp_path)
        (tmp_path / name).write_bytes(content)


def test_a_flipped_digit_in_the_record_is_noticed(tmp_path: Path) -> None:
    """It is valid, and means a run of other settings. Runs of zsseg 0.1 have no checksum."""
    write_record(tmp_path, record_of(train={"steps": 300}), TEXT_CD)
    path = tmp_path / "run.json"
    flipped = path.read_text().replace('"steps": 300', '"steps": 100')
    path.write_text(flipped)
    with pytest.raises(UserError, match=r"run\.json: damaged: it does not fit its own checksum"):
        read_record(tmp_path)
    path.write_text(re.sub(CHECK, "", flipped))
    assert read_record(tmp_path).config.train.steps == 100


def told(run: Path) -> str | None:
    """What is said of a record that cannot be read; None for one that can."""
    try:
        read_record(run)
    except UserError as error:
        return str(error)
    return None


def test_no_flipped_bit_of_a_record_is_read(tmp_path: Path) -> None:
    write_record(tmp_path, record_of(), TEXT_CD)
    path = tmp_path / "run.json"
    content, whole = path.read_bytes(), read_record(tmp_path)
    for place in {*range(0, len(content), 31), content.index(b"check"), len(content) - 8}:
        path.write_bytes(content[:place] + bytes([content[place] ^ 4]) + content[place + 1 :])
        if (message := told(tmp_path)) is None:
            assert read_record(tmp_path) == whole  # a blank that is another one
        else:
            assert "run.json: damaged" in message


def test_a_record_of_other_settings_than_were_written_is_noticed(tmp_path: Path) -> None:
    start(tmp_path, record_of())
    path, record = tmp_path / "run.json", read_record(tmp_path)
    path.write_bytes(path.read_bytes().replace(b'"steps": 80000', b'"steps": 80001'))
    with pytest.raises(UserError, match=r"run\.json: damaged.*delete its entry `check`"):
        read_text(tmp_path)
    with pytest.raises(UserError, match=r"run\.json: damaged"):
        check_folder(tmp_path, record, resume=True)
    values = json.loads(path.read_bytes())
    del values["check"]
    path.write_text(json.dumps(values))
    assert read_record(tmp_path).config.train.steps == 80001


@pytest.mark.parametrize("text", ["[" * 100_000, "[]", "3", '{"check": NaN}', "\xff", ""])
def test_what_is_no_record_is_one_message(tmp_path: Path, text: str) -> None:
    (tmp_path / "run.json").write_text(text, encoding="latin-1")
    with pytest.raises(UserError, match=r"run\.json: damaged"):
        read_record(tmp_path)


def test_a_planted_link_is_not_written_through(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("mine")
    run = tmp_path / "run"
    start(run, record_of())
    (run / "resumed.jsonl").symlink_to(victim)
    with pytest.raises(OSError, match="resumed"):
        note_resumption(run, 100, record_of())
    assert victim.read_text() == "mine"


@pytest.mark.parametrize("text_hash", [True, False])
def test_a_flipped_bit_in_the_text_is_noticed(tmp_path: Path, text_hash: bool) -> None:
    """Runs of zsseg 0.1 have no hash and stay readable."""
    write_record(tmp_path, record_of(), TEXT_CD)
    if not text_hash:
        record = read_record(tmp_path).model_copy(update={"check": None})
        (tmp_path / "run.json").write_text(record.model_dump_json(exclude={"text_hash"}))
    path = tmp_path / "text.safetensors"
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)
    if text_hash:
        with pytest.raises(UserError, match=r"text\.safetensors: damaged"):
            read_text(tmp_path)
    else:
        assert not torch.equal(read_text(tmp_path), TEXT_CD)


def test_a_scored_run_without_checkpoints_is_not_begun_anew(tmp_path: Path) -> None:
    write_record(tmp_path, record_of(), TEXT_CD)
    (tmp_path / "evaluation-val.json").write_text("{}")
    for resume in (True, False):
        with pytest.raises(UserError, match=r"checkpoints are gone.*evaluation-val\.json"):
            check_folder(tmp_path, record_of(), resume=resume)


def test_the_log_of_a_run_without_checkpoints_is_kept(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_record(tmp_path, record_of(), TEXT_CD)
    (tmp_path / "metrics.jsonl").write_text('{"step": 500, "loss": 1.0}\n')
    assert not check_folder(tmp_path, record_of(), resume=True)
    write_record(tmp_path, record_of(), TEXT_CD)
    assert "500" in (tmp_path / "metrics.previous.jsonl").read_text()
    assert "its log is kept" in caplog.text


def test_metrics_go_to_both_places(tmp_path: Path) -> None:
    with MetricsLog(tmp_path, start_step=0) as log:
        log.write(10, {"loss": 2.5})
        log.write(20, {"loss": 1.5, "sdd": 0.25})
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert lines == [{"step": 10, "loss": 2.5}, {"step": 20, "loss": 1.5, "sdd": 0.25}]
    board = EventAccumulator(str(tmp_path / "tensorboard"))
    board.Reload()
    assert [(e.step, e.value) for e in board.Scalars("loss")] == [(10, 2.5), (20, 1.5)]


def test_a_resumed_log_drops_what_is_done_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with MetricsLog(tmp_path, start_step=0) as log:
        for step in (10, 20, 30):
            log.write(step, {"loss": float(step)})
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(path.read_bytes() + b'\xff\xfe\n{"step": 40, "lo')
    with caplog.at_level(logging.WARNING), MetricsLog(tmp_path, start_step=20) as log:
        log.write(30, {"loss": 3.0})
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [(line["step"], line["loss"]) for line in lines] == [(10, 10.0), (20, 20.0), (30, 3.0)]
    assert "cut short" in caplog.text


def test_throughput_counts_since_the_last_report(monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter([0.0, 1.0, 2.0, 4.0, 5.0, 5.0, 6.0])
    monkeypatch.setattr("zsseg.stages.train.run.metrics_log.time.perf_counter", lambda: next(times))
    throughput = Throughput(3_000_000)  # at 0
    with throughput.waiting(8):  # 1 to 2
        pass
    # reported at 4, and the next window starts at 4
    assert throughput.report() == {
        "images_per_second": 2.0,
        "data_wait": 0.25,
        "cache_mb_per_second": 6.0,
    }
    with throughput.waiting(2):  # 5 to 5
        pass
    assert throughput.report() == {
        "images_per_second": 1.0,
        "data_wait": 0.0,
        "cache_mb_per_second": 3.0,
    }
