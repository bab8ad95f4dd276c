"""The training of the small CLIP, and the weights that come with zsseg."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from zsseg.pipeline.demo.demo_commands import small_clip
from zsseg.stages.demo.captions import Window
from zsseg.stages.demo.scenes import CLASSES, SIZE
from zsseg.stages.demo.train_clip import (
    inside_shares,
    likeness,
    prominence,
    soft_cross_entropy,
    train_small_clip,
)
from zsseg.stages.precompute.teacher.clip_teacher import load_teacher
from zsseg.stages.precompute.teacher.teacher_files import resolve_teacher


def test_soft_cross_entropy_by_hand() -> None:
    logit_BT = torch.tensor([[0.0, np.log(3.0)], [1.0, 1.0]])
    target_BT = torch.tensor([[0.25, 0.75], [1.0, 0.0]])
    first = -(0.25 * np.log(1 / 4) + 0.75 * np.log(3 / 4))
    expected = (first + np.log(2)) / 2
    assert soft_cross_entropy(logit_BT, target_BT).item() == pytest.approx(expected, rel=1e-6)


def test_likeness_by_hand() -> None:
    """Two pictures of one thing share their captions; half a thing in common counts 1/4."""
    prominence_BC = torch.tensor([[1.0, 0, 0], [1.0, 0, 0], [0, 1.0, 0], [0.5, 0.5, 0]])
    same = np.array([[1, 1, 0, 0.25], [1, 1, 0, 0.25], [0, 0, 1, 0.25], [0.25, 0.25, 0.25, 1]])
    expected = same / same.sum(1, keepdims=True)
    np.testing.assert_allclose(likeness(prominence_BC).numpy(), expected, atol=1e-6)


def test_prominence_by_hand() -> None:
    share_BC = prominence([("dog", "sky"), ("road",)]).numpy()
    expected = np.zeros((2, len(CLASSES)))
    expected[0, CLASSES.index("dog")], expected[0, CLASSES.index("sky")] = 2 / 3, 1 / 3
    expected[1, CLASSES.index("road")] = 1
    np.testing.assert_allclose(share_BC, expected, atol=1e-6)


def test_shares_of_windows_are_counted_pixels() -> None:
    """Cells of 16 x 16 pixels; the slow way counts the window's pixels in each."""
    boxes = [(0, 0, 192, 128), (3, 5, 40, 62), (170, 100, 192, 128), (33, 17, 47, 31)]
    share_Bhw = inside_shares([Window(box, ()) for box in boxes], (8, 12)).numpy()
    for (x0, y0, x1, y1), share_hw in zip(boxes, share_Bhw, strict=True):
        inside_HW = np.zeros(SIZE)
        inside_HW[y0:y1, x0:x1] = 1
        count_hw = inside_HW.reshape(8, 16, 12, 16).sum((1, 3))
        np.testing.assert_allclose(share_hw, count_hw / count_hw.sum(), atol=1e-6)


def test_the_script_makes_a_teacher(tmp_path: Path) -> None:
    shutil.copy(small_clip() / "open_clip_config.json", tmp_path)
    train_small_clip(tmp_path, scenes=4, steps=2, batch=2, seed=0)
    teacher = load_teacher(resolve_teacher(f"local-dir:{tmp_path}"), device="cpu")
    assert teacher.text(["a photo of a dog."]).shape == (1, teacher.width)


def test_the_weights_are_small_and_know_the_names() -> None:
    folder = small_clip()
    weights = folder / "open_clip_model.safetensors"
    assert weights.stat().st_size <= 16_000_000
    assert "python -m zsseg.stages.demo.train_clip" in (folder / "README.md").read_text()
    config = json.loads((folder / "open_clip_config.json").read_text())
    teacher = load_teacher(resolve_teacher(f"local-dir:{folder}"), device="cpu")
    assert teacher.width == config["model_cfg"]["embed_dim"]
    text_CD = teacher.text([f"a photo of a {name}." for name in CLASSES])
    text_CD /= np.linalg.norm(text_CD, axis=1, keepdims=True)
    cosine_CC = text_CD @ text_CD.T
    assert (cosine_CC - 2 * np.eye(len(CLASSES))).max() < 0.95
