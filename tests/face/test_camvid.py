"""The whole face on a few real street images, where they are beside the checkout."""

import shutil
from pathlib import Path

import pytest
import torch
from helpers.face_block import QUICK, lay_out, run_block

import zsseg
from zsseg.stages.data.images import read_image


@pytest.fixture
def street(shared_data: Path, tmp_path: Path) -> Path:
    """CamVid's layout with four images of `train` and two of `val`."""
    for split, count in (("train", 4), ("val", 2)):
        for image in sorted((shared_data / "camvid" / split).iterdir())[::90][:count]:
            for folder, suffix in ((split, image.suffix), (f"{split}annot", ".png")):
                into = tmp_path / "camvid" / folder
                into.mkdir(parents=True, exist_ok=True)
                name = image.with_suffix(suffix).name
                shutil.copy(shared_data / "camvid" / folder / name, into / name)
    return tmp_path / "camvid"


def test_from_images_to_predictions_of_any_names(
    street: Path, shared_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    teacher, cache = f"local-dir:{shared_data / 'camvid_clip'}", tmp_path / "made"
    settings = {"local.max_masks": 4, "dense.size": [256, 320]}
    store = zsseg.precompute("camvid", teacher=teacher, root=street, cache=cache, set=settings)
    image = zsseg.open_store(cache)[2]
    assert image.dense is not None
    assert image.regions is not None
    assert image.dense.shape[0] == 512
    assert image.regions.max() >= 1
    model = zsseg.train(config="baseline", out=tmp_path / "run", cache=cache, set=QUICK)
    first, second = sorted((street / "val").iterdir())[:2]
    many = model.predict([str(first), read_image(second), torch.zeros(40, 60, 3).byte()])
    height, width = read_image(first).shape[:2]
    assert [each.labels.shape for each in many] == [(height, width)] * 2 + [(40, 60)]
    lay_out(tmp_path, run=model.run.path, store=Path(str(store.path)), image=first)
    run_block(tmp_path, monkeypatch, dataset="camvid", root=street, teacher=teacher)
