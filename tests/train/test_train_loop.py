"""Stage two end to end, with a small student and a store without a teacher."""

import json
import logging
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.random_store import WIDTH
from helpers.tiny_training import (
    World,
    config_of,
    make_world,
    metrics_of,
    run,
    weights_of,
)
from PIL import Image
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from zsseg.stages.errors import UserError
from zsseg.stages.train.loop import TrainProgress, train
from zsseg.stages.train.losses.batch_losses import Scalars, batch_losses
from zsseg.stages.train.losses.loss_inputs import LossInputs
from zsseg.stages.train.run import checkpoint
from zsseg.stages.train.run.run_folder import read_record
from zsseg.stages.train.state import State, load_state, new_state, save_state
from zsseg.stages.train.step import label_source


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return make_world(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="module")
def whole(world: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an uninterrupted run."""
    out = tmp_path_factory.mktemp("runs") / "whole"
    run(world, out, config_of())
    return out


def bytes_of(out: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}


def equal(left: dict[str, Tensor], right: dict[str, Tensor]) -> bool:
    assert left.keys() == right.keys()
    return all(torch.equal(left[name], right[name]) for name in left)


def test_a_whole_run(world: World, tmp_path: Path) -> None:
    store, spec, root = world
    seen: list[TrainProgress] = []
    out = tmp_path / "run"
    result = train(
        config_of(train={"log_every": 2, "clip_norm": 1.0}),
        world,
        out=out,
        resume=False,
        experiment="tiny",
        progress=seen.append,
    )
    assert [(each.step, each.steps, bool(each.metrics)) for each in seen] == [
        (1, 4, False),
        (2, 4, True),
        (3, 4, True),
        (4, 4, True),
    ]
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [2, 4]
    assert "pseudo_label_share" not in lines[0]
    assert 0 < lines[1]["pseudo_label_share"] <= 1
    for line in lines:
        parts = line["cross_entropy"] + 0.5 * line["focal"] + line["sdd"]
        assert line["loss"] == pytest.approx(parts, rel=1e-5)
        assert line["grad_norm"] > 0
        assert line["images_per_second"] > 0
        assert 0 <= line["data_wait"] <= 1
        assert 0 < line["attention_entropy"] <= 1 + 1e-6
    assert lines[1]["learning_rate"] == pytest.approx(1e-3 / 4)
    assert result.metrics == {k: v for k, v in lines[1].items() if k != "step"}
    assert result.checkpoint == out / "checkpoints" / "step-000004"
    record = read_record(out)
    assert (record.dataset, record.teacher, record.templates, record.split, record.root) == (
        spec,
        "local-dir:nowhere",
        "single",
        "train",
        root,
    )
    assert record.store_fingerprint == store.fingerprint
    assert list((out / "tensorboard").iterdir())
    student, step, _ = checkpoint.load_student(out)
    assert step == 4
    assert not student.training
    assert student(torch.zeros(1, 3, 64, 32)).shape == (1, WIDTH, 16, 8)


def test_losses_do_not_depend_on_workers(world: World, whole: Path, tmp_path: Path) -> None:
    run(world, tmp_path / "run", config_of(train={"workers": 2}))
    assert metrics_of(tmp_path / "run") == metrics_of(whole)
    assert equal(weights_of(tmp_path / "run"), weights_of(whole))


def test_resumed_is_uninterrupted_bit_for_bit(world: World, whole: Path, tmp_path: Path) -> None:
    student, _, _ = checkpoint.load_student(whole)
    assert any(isinstance(each, torch.nn.Dropout2d) for each in student.modules())
    with pytest.raises(ConnectionError):
        run(world, tmp_path / "run", config_of(), stop_at=3)
    torch.rand(5)  # whatever the process did meanwhile
    record = (tmp_path / "run" / "run.json").read_bytes()
    run(world, tmp_path / "run", config_of(train={"workers": 1}), resume=True)
    assert metrics_of(tmp_path / "run") == metrics_of(whole)
    assert equal(weights_of(tmp_path / "run"), weights_of(whole))
    assert (tmp_path / "run" / "run.json").read_bytes() == record
    (line,) = (tmp_path / "run" / "resumed.jsonl").read_text().splitlines()
    assert json.loads(line)["step"] == 2


def test_a_finished_run_is_left_as_it_is(world: World, whole: Path) -> None:
    before = bytes_of(whole)
    config = config_of(train={"workers": 1}, evaluate={"mode": "whole"})
    result = run(world, whole, config, resume=True)
    assert (result.steps, result.metrics) == (4, {})
    assert result.checkpoint == whole / "checkpoints" / "step-000004"
    assert bytes_of(whole) == before


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision(
    world: World, whole: Path, tmp_path: Path, precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The student's layers run in it; losses stay in float32 and close to those of fp32."""
    kinds = []

    def watched(inputs: LossInputs) -> tuple[Scalars, Scalars]:
        losses, diagnostics = batch_losses(inputs)
        kinds.append((inputs.feature_BDhw.dtype, {loss.dtype for loss in losses.values()}))
        return losses, diagnostics

    monkeypatch.setattr("zsseg.stages.train.step.batch_losses", watched)
    with pytest.raises(ConnectionError):
        run(world, tmp_path / "run", config_of(train={"precision": precision}), stop_at=2)
    half = {"bf16": torch.bfloat16, "fp16": torch.float16}[precision]
    assert kinds == [(half, {torch.float32})] * 2
    first, expected = metrics_of(tmp_path / "run")[0], metrics_of(whole)[0]
    assert first["cross_entropy"] == pytest.approx(expected["cross_entropy"], rel=0.1)
    scale = checkpoint.load_training(tmp_path / "run" / "checkpoints" / "step-000002")["scaler"]
    assert bool(scale) == (precision == "fp16")


@pytest.mark.parametrize(("before", "after"), [("bf16", "fp16"), ("fp16", "bf16")])
def test_a_checkpoint_of_another_precision_goes_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, before: str, after: str
) -> None:
    kinds = {"bf16": torch.bfloat16, "fp16": torch.float16}
    cpu, config = torch.device("cpu"), config_of()

    def state(kind: str) -> State:
        return new_state(config, width=4, device=cpu, precision=kinds[kind], weights=True)

    folder = save_state(tmp_path, 1, state(before))
    with caplog.at_level(logging.WARNING):
        load_state(folder, state(before))
        assert not caplog.records
        load_state(folder, state(after))
    (record,) = caplog.records
    assert f"trained in {kinds[before]} and now continues in {kinds[after]}" in record.getMessage()


def test_resume_of_nothing_starts(world: World, tmp_path: Path) -> None:
    assert run(world, tmp_path / "new", config_of(train={"steps": 1}), resume=True).steps == 1


def test_a_run_is_not_written_over(world: World, whole: Path) -> None:
    with pytest.raises(UserError, match="holds a run already"):
        run(world, whole, config_of())


def test_resume_with_other_settings_is_refused(world: World, whole: Path) -> None:
    with pytest.raises(UserError, match=r"config\.train\.batch: stored 2, asked 3"):
        run(world, whole, config_of(train={"batch": 3}), resume=True)


def test_a_failed_start_leaves_no_run(world: World, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nonsense"):
        run(world, tmp_path / "run", config_of(student={"architecture": "nonsense"}))
    assert not (tmp_path / "run").exists()


def test_a_crop_that_does_not_fit_the_student_leaves_no_run(world: World, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"augmentation\.crop: \[32, 34\].*multiples of 4"):
        run(world, tmp_path / "run", config_of(augmentation={"crop": (32, 34)}))
    assert not (tmp_path / "run").exists()


def test_a_run_that_failed_at_once_does_not_block_its_folder(
    world: World, whole: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    with pytest.raises(ConnectionError):
        run(world, out, config_of(train={"batch": 3}), stop_at=1)
    assert (out / "run.json").exists()
    run(world, out, config_of())
    assert metrics_of(out) == metrics_of(whole)
    assert len(list((out / "tensorboard").iterdir())) == 1
    assert read_record(out).config == config_of()


def test_a_batch_of_one_value_is_explained(world: World, tmp_path: Path) -> None:
    """deeplabv3plus normalises the mean of the whole map: one value per crop."""
    config = config_of(
        student={"architecture": "deeplabv3plus", "encoder": "resnet18"}, train={"batch": 1}
    )
    with pytest.raises(UserError, match=r"1 crop \(train\.batch 1\).*train\.batch=2"):
        run(world, tmp_path / "run", config)


def test_unseen_labels_do_not_reach_the_losses(whole: Path, tmp_path: Path) -> None:
    world = make_world(tmp_path)
    store, _, root = world
    rng, changed = np.random.default_rng(0), 0
    for entry in store.index:
        label_HW = np.array(Image.open(root / entry["label"]))
        hidden_HW = (label_HW == 3) | (label_HW == 255)
        changed += hidden_HW.sum()
        label_HW[hidden_HW] = rng.choice([3, 255], hidden_HW.sum())
        Image.fromarray(label_HW).save(root / entry["label"])
    assert changed > 1000
    run(world, tmp_path / "run", config_of())
    assert metrics_of(tmp_path / "run") == metrics_of(whole)


def test_a_visible_label_does(whole: Path, tmp_path: Path) -> None:
    """The test above can fail."""
    world = make_world(tmp_path)
    store, _, root = world
    for entry in store.index:
        label_HW = np.array(Image.open(root / entry["label"]))
        label_HW[label_HW == 0] = 1
        Image.fromarray(label_HW).save(root / entry["label"])
    with pytest.raises(ConnectionError):
        run(world, tmp_path / "run", config_of(), stop_at=1)
    first, expected = metrics_of(tmp_path / "run")[0], metrics_of(whole)[0]
    assert first["cross_entropy"] != expected["cross_entropy"]


@pytest.mark.parametrize(
    ("settings", "sources"),
    [
        ({"method": "none", "start": 0.0}, [None] * 4),
        ({"method": "st", "start": 0.5}, [None, None, "student", "student"]),
        ({"method": "rst", "start": 0.6}, [None, None, None, "student"]),
        ({"method": "rst", "start": 0.0, "source": "ema"}, ["ema"] * 4),
        (
            {"method": "st", "start": 0.25, "teacher_until": 0.5, "source": "ema"},
            [None, "teacher", "ema", "ema"],
        ),
        ({"method": "rst", "start": 0.5, "source": "teacher"}, [None, None, "teacher", "teacher"]),
    ],
)
def test_who_names_pixels_when(settings: dict[str, Any], sources: list[str | None]) -> None:
    config = config_of(self_training=settings)
    assert [label_source(config, step) for step in range(4)] == sources


def test_the_d_channels_are_never_upsampled(world: World, tmp_path: Path) -> None:
    largest = 0

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(
            self, func: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            nonlocal largest
            out = func(*args, **(kwargs or {}))
            for tensor in tree_leaves(out):
                if isinstance(tensor, Tensor) and tensor.ndim == 4 and tensor.shape[1] == WIDTH:
                    largest = max(largest, tensor.shape[2] * tensor.shape[3])
            return out

    with Watch():  # type: ignore[no-untyped-call]
        run(world, tmp_path / "run", config_of(train={"steps": 2}))
    assert largest == 8 * 8  # the feature itself, at stride 4


def test_training_never_imports_open_clip(world: World, tmp_path: Path) -> None:
    store, _, root = world
    code = f"""
import sys
from pathlib import Path
from zsseg.stages.cache.reader import Store
from zsseg.stages.data.spec import load_spec
from zsseg.stages.train.run_config import RunConfig
from zsseg.stages.train.batches.training_data import TrainingData
from zsseg.stages.train.losses.batch_losses import batch_losses
from zsseg.stages.train.loop import train
config = RunConfig.model_validate_json({config_of(train={"steps": 1}).model_dump_json()!r})
data = TrainingData(Store.open(Path({str(store.path)!r})),
                    load_spec({str(root / "world.yaml")!r}), Path({str(root)!r}))
train(config, data, out=Path({str(tmp_path / "run")!r}), resume=False, experiment="",
      progress=lambda _: None)
assert "torch" in sys.modules
assert not {{"open_clip", "dask", "sklearn", "cuml"}} & sys.modules.keys(), "stage one was loaded"
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "run" / "checkpoints" / "step-000001").is_dir()
