"""The code that `import zsseg` was asked to run, line for line."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import zsseg
from zsseg.stages.data.images import read_image

QUICK: dict[str, Any] = {
    "student.architecture": "fpn",
    "student.encoder": "tu-mobilenetv3_small_050",
    "student.weights": "none",
    "augmentation.short_side": None,
    "augmentation.crop": [96, 96],
    "train.steps": 2,
    "train.batch": 2,
    "train.workers": 0,
    "train.warmup_steps": 0,
    "evaluate.short_side": None,
    "evaluate.mode": "whole",
}
"""Settings of a training of seconds."""


def lay_out(folder: Path, *, run: Path, store: Path, image: Path) -> None:
    """Bring a run, a store and an image to where the code expects them."""
    shutil.copytree(run, folder / "runs" / "first")
    shutil.copytree(store, folder / "data_cache" / "STORE")
    shutil.copy(image, folder / "street.jpg")


def run_block(
    folder: Path, patch: pytest.MonkeyPatch, *, dataset: str | Path, root: Path, teacher: str
) -> None:
    """Run the code in a folder that was laid out, and hold what it gives."""
    shown: list[Any] = []
    patch.chdir(folder)
    patch.setattr("PIL.Image.Image.show", lambda picture: shown.append(picture.size))

    model = zsseg.load("runs/first")  # str, Path, folder made by save_pretrained
    for form in (Path("runs/first"), model.save_pretrained("shared")):
        np.testing.assert_array_equal(
            zsseg.load(form).predict("street.jpg").labels, model.predict("street.jpg").labels
        )
    result = model.predict(
        "street.jpg", classes=["road", "tram"], background=["anything else"], unsure=0.1
    )
    height, width = read_image(Path("street.jpg")).shape[:2]
    assert result.labels.shape == result.confidence.shape == (height, width)
    assert set(np.unique(result.labels)) <= {0, 1, 255}
    assert (result.labels[result.confidence < 0.1] == 255).all()
    assert result.classes == ("road", "tram")
    assert result.scores.shape[0] == len(result.colours) == 2
    result.overlay().show()
    result.save("out/")
    assert shown == [(width, height)]
    assert sorted(each.name for each in Path("out").iterdir()) == [
        "street.png", "street_overlay.png"
    ]  # fmt: skip

    small_HW3 = read_image(Path("street.jpg"))[: height // 2]
    many = model.predict(["street.jpg", small_HW3])
    assert [each.labels.shape for each in many] == [(height, width), (height // 2, width)]
    feature_Dhw = model.embed("street.jpg")

    store = zsseg.open_store("data_cache/STORE")
    store[3].show()
    assert len(shown) == 2
    dense, cls, local = store[3].dense, store[3].cls, store[3].local
    assert dense is not None
    assert cls is not None
    assert local
    assert store[3].regions is not None
    assert len(dense) == len(cls) == len(feature_Dhw) == store.text.shape[1]

    made = zsseg.precompute(
        dataset=dataset,
        root=root,
        teacher=teacher,
        cache="new_cache",
        limit=4,
        set={"dense.size": [128, 192], "local.max_masks": 2, "text.templates": "single"},
    )
    assert (made.images, made.failed) == (4, {})
    trained = zsseg.train(cache="new_cache", config="best", set=QUICK)
    assert trained.run.path == Path("runs/best")
    (scores,) = zsseg.evaluate(trained, root=root, limit=2)
    assert scores.images == 2
    assert 0 <= scores.scores.hiou <= 1
