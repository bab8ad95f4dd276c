"""The benchmarks measure what they say: ratios, replayed forward passes, and how a run is told."""

import json
import logging
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.clip_store import CONFIG as FOUR
from helpers.drawn_world import draw_world
from PIL import Image

from benchmarks import dense_settings, online, run, scale, stage_one, step
from benchmarks.ratio import Ratio, timed_in_turn
from zsseg.stages.data.spec import VOID, load_spec
from zsseg.stages.precompute.teacher.clip_teacher import load_teacher
from zsseg.stages.precompute.teacher.teacher_files import resolve_teacher
from zsseg.stages.train.batches.batch import Batch
from zsseg.stages.train.batches.imagenet import normalise

CONFIG = FOUR.model_copy(update={"shard_images": 2})


def test_a_ratio_is_the_median_of_its_rounds_not_the_ratio_of_medians() -> None:
    ratio = Ratio("a / b", (1.0, 4.0, 9.0), (1.0, 2.0, 9.0), target="at most 2")
    assert ratio.median == 1
    assert str(ratio) == "a / b: 1.000  [at most 2]  (1.000 to 2.000; 4.000 s / 2.000 s)"
    assert ratio.as_json()["most"] == 2


def test_the_first_round_only_warms_up_and_both_sides_alternate() -> None:
    done: list[str] = []
    ratio = timed_in_turn("a / b", lambda: done.append("a"), lambda: done.append("b"))
    assert "".join(done) == "ab" * 6
    assert len(ratio.first) == len(ratio.second) == 5


@pytest.fixture(autouse=True)
def logging_as_before() -> Iterator[None]:
    """The command quietens the process, which other tests share."""
    level = logging.getLogger().level
    yield
    logging.getLogger().setLevel(level)


@pytest.fixture
def subject(tmp_path: Path, tiny_clip: str) -> stage_one.Subject:
    world = draw_world(tmp_path / "world", images=5)
    return stage_one.Subject(load_spec(str(world)), world.parent, tiny_clip, tmp_path)


def test_the_forwards_that_are_replayed_are_all_those_of_the_run(
    subject: stage_one.Subject,
) -> None:
    with stage_one.recorded_forwards() as forwards:
        result = subject.precompute(CONFIG, cache="store")
    with torch.inference_mode():
        tokens = [made for forward in forwards if isinstance(made := forward(), torch.Tensor)]
    assert len(tokens) == len(forwards)
    dense = [len(each) for each in tokens if each.ndim == 4]
    assert sum(dense) == result.forwards["dense"] == 5
    assert sum(len(each) for each in tokens) == sum(result.forwards.values())
    assert result.forwards["local"] > 5
    before = len(forwards)
    subject.precompute(CONFIG, limit=2, cache="other")
    assert len(forwards) == before, "still recorded afterwards"


def test_overhead_is_that_of_one_run_over_its_forwards(subject: stage_one.Subject) -> None:
    clock, processor = stage_one.measured_overhead(subject, CONFIG, 5, "5 images")
    # Not that the run takes longer: beside other processes bare passes of many threads may.
    for ratio in (clock, processor):
        assert ratio.first > (0.0,)
        assert ratio.second > (0.0,)
    assert "at most 1.15" in str(clock)


def test_many_images_finds_a_store_complete_without_torch(tmp_path: Path) -> None:
    scale.write_teacher(tmp_path / "clip")
    scale.write_world(tmp_path / "world", 3)
    (tmp_path / "world" / "clip").symlink_to(tmp_path / "clip")
    with pytest.raises(AssertionError):
        scale.recognise(tmp_path / "world", 3)  # it had to be made
    assert "torch" in sys.modules
    assert scale._done("recognise", tmp_path / "world", 3) == ""
    assert scale.peak("self") > 2**20


def test_every_measure_has_a_name_and_is_told_to_be_quick(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[bool] = []

    def overhead(*, quick: bool) -> list[Ratio]:
        told.append(quick)
        return [Ratio("a / b", (2.0,), (1.0,))]

    overhead.__module__ = "benchmarks.stage_one"
    assert {"stage_one.mining", "scale.many_images", "step.cached_over_supervised"} <= set(
        run.named(quick=True)
    )
    monkeypatch.setattr(run, "SIZED", (overhead,))
    monkeypatch.setattr(run, "OTHERS", ())
    said: list[str] = []
    found = run.measured(run.named(quick=True), show=said.append)
    assert told == [True]
    assert found["stage_one.overhead"]["ratios"][0]["median"] == 2
    assert "a / b: 2.000" in "".join(said)


def test_results_are_written_with_the_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def half() -> Ratio:
        return Ratio("half", (1.0,), (2.0,))

    file = tmp_path / "results.json"
    monkeypatch.setattr(run, "SIZED", ())
    monkeypatch.setattr(run, "OTHERS", (half,))
    monkeypatch.setattr(sys, "argv", ["run", "--only", "half", "--json", str(file)])
    run.main()
    kept: dict[str, Any] = json.loads(file.read_text())
    assert kept["machine"]["cores"] >= 1
    assert kept["machine"]["versions"]["torch"]
    (found,) = kept["results"].values()
    assert found["ratios"][0]["median"] == 0.5
    monkeypatch.setattr(sys, "argv", ["run", "--only", "nothing"])
    with pytest.raises(SystemExit):
        run.main()
    assert "none is called so" in capsys.readouterr().err


def test_clip_in_the_loop_sees_the_pixels_that_the_student_sees(
    tiny_clip: str,
) -> None:
    image_BHW3 = np.random.default_rng(0).integers(0, 256, (2, *step.SIZE, 3), dtype=np.uint8)
    label_BHW = np.zeros((2, *step.SIZE), np.uint8)
    label_BHW[:, :, 256:] = VOID
    batch = Batch(
        row_B=torch.arange(2),
        image_B3HW=torch.from_numpy(np.stack([normalise(each) for each in image_BHW3])),
        label_BHW=torch.from_numpy(label_BHW),
        inside_BHW=torch.ones(2, *step.SIZE, dtype=torch.bool),
        region_BHW=None,
        token_BD=None,
    )
    teacher = load_teacher(resolve_teacher(tiny_clip), device="cpu")
    seen = online.seen(teacher, batch)
    assert seen.token_BD is not None
    assert seen.region_BHW is not None
    np.testing.assert_array_equal(seen.token_BD, teacher.cls(list(image_BHW3)))
    assert seen.region_BHW.shape == label_BHW.shape
    assert not seen.region_BHW[:, :, :256].any()
    assert seen.region_BHW[:, :, 256:].any()


def test_dense_settings_are_told_apart_by_seen_classes_alone(
    tiny_clip: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """What the labels say of the unseen class changes nothing; what they say of others does."""
    world = draw_world(tmp_path / "world", split="val", images=2)
    tried = ('{"size": [32, 64]}', '{"size": [32, 64], "flip": true, "scales": [1.0, 2.0]}')
    options = ["--dataset", str(world), "--root", str(world.parent), "--split", "val"]
    words = ["bench", tiny_clip, *options, "--templates", "single", "--try", *tried]
    monkeypatch.setattr(sys, "argv", words)

    def told() -> str:
        dense_settings.main()
        return capsys.readouterr().out

    before = told()
    assert [line.split(", ")[-2:] for line in before.splitlines()] == [
        ["1 passes", "2 images"],
        ["4 passes", "2 images"],
    ]
    for unseen, others, same in ((255, 2, True), (3, 1, False)):
        for file in (world.parent / "labels" / "val").iterdir():
            label_HW = np.array(Image.open(file))
            label_HW[label_HW == 3] = unseen
            label_HW[label_HW == 2] = others
            Image.fromarray(label_HW).save(file)
        assert (told() == before) == same
