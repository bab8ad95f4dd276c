"""The whole face on a few real street images, where they are beside the checkout."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.tiny_training import train_tiny_students

import zsseg
from zsseg.stages.data.images import read_image

SETTINGS = {
    "objectives.local_distillation": 0.5,
    "augmentation.short_side": None,
    "augmentation.crop": [96, 96],
    "train.steps": 2,
    "train.batch": 2,
    "train.workers": 0,
    "evaluate.short_side": None,
    "evaluate.mode": "whole",
}


@pytest.fixture
def street(shared_data: Path, tmp_path: Path) -> Path:
    """CamVid's layout with three images of `train` and two of `val`."""
    for split, count in (("train", 3), ("val", 2)):
        for image in sorted((shared_data / "camvid" / split).iterdir())[:: 400 // 4][:count]:
            for folder, suffix in ((split, image.suffix), (f"{split}annot", ".png")):
                into = tmp_path / "camvid" / folder
                into.mkdir(parents=True, exist_ok=True)
                name = image.with_suffix(suffix).name
                shutil.copy(shared_data / "camvid" / folder / name, into / name)
    return tmp_path / "camvid"


def test_from_images_to_predictions_of_any_names(
    street: Path, shared_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train_tiny_students(monkeypatch)
    teacher, cache = f"local-dir:{shared_data / 'camvid_clip'}", tmp_path / "data_cache"
    settings = {"local.max_masks": 4, "dense.size": [256, 320]}
    zsseg.precompute("camvid", teacher=teacher, root=street, cache=cache, set=settings)
    image = zsseg.open_store(cache)[2]
    assert image.cls is not None
    assert image.dense is not None
    assert image.regions is not None
    assert image.dense.shape[0] == len(image.cls) == 512
    assert image.regions.max() >= 1
    assert image.local
    model = zsseg.train(config="baseline", out=tmp_path / "run", cache=cache, set=SETTINGS)
    first, second = sorted((street / "val").iterdir())[:2]
    result = model.predict(
        first, classes=["road", "tram"], background=["anything else"], unsure=0.001
    )
    height, width = read_image(first).shape[:2]
    assert result.classes == ("road", "tram")
    assert result.labels.shape == result.confidence.shape == (height, width)
    assert set(np.unique(result.labels)) <= {0, 1, 255}
    assert len(result.colours) == 2
    assert result.overlay().size == (width, height)
    assert result.save(tmp_path / "out").labels.name == f"{first.stem}.png"
    many = model.predict([str(first), read_image(second), torch.zeros(40, 60, 3).byte()])
    assert [each.labels.shape for each in many] == [(height, width)] * 2 + [(40, 60)]
    assert model.embed(first).shape[0] == 512
    (scores,) = zsseg.evaluate(model, split="val")
    assert scores.images == 2
    again = zsseg.load(model.save_pretrained(tmp_path / "shared"))
    np.testing.assert_array_equal(again.predict(first).labels, model.predict(first).labels)
