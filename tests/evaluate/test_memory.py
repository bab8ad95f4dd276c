"""Images that are too large for the memory, or named too long: the others go on."""

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.colour_run import colour_run
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from zsseg.stages.errors import ResourceError
from zsseg.stages.evaluate import inference, memory, predictor
from zsseg.stages.evaluate.asked_names import with_text
from zsseg.stages.evaluate.evaluation import evaluate_run
from zsseg.stages.evaluate.memory import first_that_fits, smaller_settings
from zsseg.stages.evaluate.predict import predict_files
from zsseg.stages.evaluate.prediction_results import Predictions
from zsseg.stages.evaluate.predictor import Predictor
from zsseg.stages.evaluate.scorer import Scorer
from zsseg.stages.evaluate.trained_run import TrainedRun
from zsseg.stages.train.run_config import EvaluateConfig

WHOLE = EvaluateConfig(short_side=None, mode="whole", window=64, stride=48)
TOO_LITTLE: list[Exception] = [
    RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried"),
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB"),
    MemoryError(),
]


def settings(configs: Sequence[EvaluateConfig]) -> list[tuple[str, int | None]]:
    return [(each.mode, each.short_side) for each in configs]


def test_what_is_tried() -> None:
    whole_512 = [("whole", None), ("whole", 512)]
    assert settings(smaller_settings(WHOLE, ())) == [
        ("whole", None),
        ("slide", None),
        ("slide", 512),
    ]
    assert settings(smaller_settings(WHOLE, {"mode"})) == whole_512
    assert settings(smaller_settings(WHOLE, {"short_side"})) == [("whole", None), ("slide", None)]
    assert settings(smaller_settings(WHOLE, {"mode", "short_side"})) == [("whole", None)]
    assert settings(smaller_settings(EvaluateConfig(), ())) == [("slide", 512)]


@pytest.mark.parametrize("error", TOO_LITTLE)
def test_other_errors_are_not_taken_for_it(error: Exception) -> None:
    def make(config: EvaluateConfig) -> str:
        if config.mode == "whole":
            raise error
        return config.mode

    assert first_that_fits(make, WHOLE, fixed=())[0] == "slide"
    with pytest.raises(ResourceError, match=r"mode=whole.*short_side=null"):
        first_that_fits(make, WHOLE, fixed={"mode"})

    def wrong(config: EvaluateConfig) -> str:
        raise RuntimeError("shapes do not fit")

    with pytest.raises(RuntimeError, match="shapes"):
        first_that_fits(wrong, WHOLE, fixed=())


@pytest.fixture
def run(tiny_world: Path, tmp_path: Path) -> TrainedRun:
    return colour_run(tmp_path / "run", tiny_world, WHOLE)


@pytest.fixture(params=TOO_LITTLE, ids=["cpu", "gpu", "numpy"])
def at_most_200_columns(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whole images of 200 columns or more do not fit the memory, images of 600 never."""

    def scores(
        scorer: Scorer, image_3HW: NDArray[np.float32], *, config: EvaluateConfig, stride: int
    ) -> Tensor:
        columns = image_3HW.shape[2]
        if columns >= 600 or (columns >= 200 and config.mode == "whole"):
            raise request.param
        return inference.predict_scores(scorer, image_3HW, config=config, stride=stride)

    monkeypatch.setattr(memory, "predict_scores", scores)
    monkeypatch.setattr(predictor, "predict_scores", scores)


def photo(path: Path, width: int, height: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (width, height), (120, 180, 240)).save(path)


def predicted(run: TrainedRun, photos: Path, out: Path) -> Predictions:
    return predict_files(
        Predictor(run, with_text(run, run.spec.classes, [], run.text_CD)),
        [photos],
        out,
        progress=lambda done, total: None,
    )


@pytest.mark.usefixtures("at_most_200_columns")
def test_predict_goes_on(run: TrainedRun, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for name, width in (("a_huge", 640), ("b_large", 240), ("c_small", 96)):
        photo(tmp_path / "photos" / f"{name}.png", width, 64)
    found = predicted(run, tmp_path / "photos", tmp_path / "out")
    assert [path.stem for path in found.labels] == ["b_large", "c_small"]
    (failure,) = found.failures
    assert failure.path.stem == "a_huge"
    assert "a_huge.png: out of memory" in failure.reason
    assert "evaluate.short_side" in failure.reason
    assert "b_large.png: out of memory with evaluate.mode=whole" in caplog.text
    assert "predicted with evaluate.mode=slide" in caplog.text

    asked = replace(run, fixed=frozenset({"mode", "short_side"}))
    found = predicted(asked, tmp_path / "photos", tmp_path / "again")
    assert [path.stem for path in found.labels] == ["c_small"]


@pytest.mark.usefixtures("at_most_200_columns")
def test_evaluate_goes_on_and_counts(run: TrainedRun, tiny_world: Path) -> None:
    root = tiny_world.parent

    def score() -> tuple[int, int, object]:
        (result,) = evaluate_run(run, run.spec, root, "val", progress=lambda done, total: None)
        return result.images, result.left_out, result.settings.get("out_of_memory")

    assert score() == (3, 0, None)
    for name, width in (("large", 240), ("huge", 640)):
        photo(root / "images" / "val" / f"{name}.png", width, 64)
        Image.new("L", (width, 64), 1).save(root / "labels" / "val" / f"{name}.png")
    assert score() == (4, 1, {"changed": 1, "left_out": 1})
    for path in (root / "images" / "val").iterdir():
        if path.stem != "huge":
            path.unlink()
    with pytest.raises(ResourceError, match="none of 1 image fits"):
        score()


@pytest.mark.parametrize("letters", [225, 243, 250])
def test_a_name_that_is_too_long_for_its_overlay(
    run: TrainedRun, tmp_path: Path, letters: int
) -> None:
    long = "\u00e9" * (letters // 2)  # two bytes each
    for name in ("a", long, "z"):
        photo(tmp_path / "photos" / f"{name}.png", 64, 48)
    found = predicted(run, tmp_path / "photos", tmp_path / "out")
    assert {"a", "z"} <= {path.stem for path in found.labels}
    assert [failure.path.stem for failure in found.failures] in ([], [long])
    assert bool(found.failures) == (letters > 230)
    left = {path.name for path in (tmp_path / "out").iterdir() if path.name.startswith(long)}
    assert len(left) == (0 if found.failures else 2)


def test_files_that_are_no_images_are_counted(
    run: TrainedRun, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    photos = tmp_path / "photos"
    photo(photos / "a.png", 64, 48)
    for name in ("b.heic", "deep/c.HEIC", "notes.txt", "._a.png", ".DS_Store", "Thumbs.db"):
        (photos / name).parent.mkdir(exist_ok=True)
        (photos / name).write_bytes(b"x")
    with caplog.at_level(logging.WARNING):
        found = predicted(run, photos, tmp_path / "out")
    assert (len(found.labels), len(found.failures)) == (1, 0)
    assert "3 files are left out" in caplog.text
    assert "2 .heic" in caplog.text
    assert "1 .txt" in caplog.text
