"""Class scores of whole images and of sliding windows."""

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from zsseg.stages.evaluate import inference
from zsseg.stages.evaluate.inference import (
    calibrated,
    predict_scores,
    prepared,
    window_starts,
    working_size,
)
from zsseg.stages.evaluate.scorer import class_scorer
from zsseg.stages.train.batches.imagenet import normalise
from zsseg.stages.train.run_config import EvaluateConfig
from zsseg.stages.train.students.student import Student, class_logits


@pytest.fixture
def student() -> Student:
    """Stride 4; its feature depends on the whole window, so every window's scores differ."""
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.InstanceNorm2d(8), nn.Conv2d(8, 8, 2, stride=2)
    )
    return Student(network, channels=8, width=6, multiple=8).eval()


@pytest.fixture
def text_CD() -> Tensor:
    return nn.functional.normalize(torch.randn(5, 6, generator=torch.Generator().manual_seed(1)))


@pytest.fixture
def image_HW3() -> NDArray[np.uint8]:
    return np.random.default_rng(2).integers(0, 256, (72, 100, 3)).astype(np.uint8)


def predicted(
    student: Student, text_CD: Tensor, image_HW3: NDArray[np.uint8], config: EvaluateConfig
) -> Tensor:
    image_3HW = prepared(image_HW3, config=config, stride=4)
    return predict_scores(class_scorer(student, text_CD), image_3HW, config=config, stride=4)


def test_whole_image_by_hand(
    student: Student, text_CD: Tensor, image_HW3: NDArray[np.uint8]
) -> None:
    config = EvaluateConfig(short_side=None, mode="whole")
    score_Chw = predicted(student, text_CD, image_HW3, config)
    pixels = (image_HW3 / 255.0 - (0.485, 0.456, 0.406)) / (0.229, 0.224, 0.225)
    image_13HW = torch.from_numpy(pixels).permute(2, 0, 1)[None].float()
    with torch.no_grad():
        feature_Dhw = student(image_13HW)[0]
    expected = torch.zeros(5, 18, 25)
    for c in range(5):
        for y in range(18):
            for x in range(25):
                feature_D = feature_Dhw[:, y, x]
                expected[c, y, x] = feature_D @ text_CD[c] / feature_D.norm()
    torch.testing.assert_close(score_Chw, expected, atol=1e-5, rtol=0)


def test_one_window_equals_the_whole_image(
    student: Student, text_CD: Tensor, image_HW3: NDArray[np.uint8]
) -> None:
    whole = EvaluateConfig(short_side=48, mode="whole")
    slide = EvaluateConfig(short_side=48, mode="slide", window=512, stride=426)
    torch.testing.assert_close(
        predicted(student, text_CD, image_HW3, slide),
        predicted(student, text_CD, image_HW3, whole),
    )


@pytest.mark.parametrize(("pixels", "batches"), [(1, [1] * 12), (5 * 32**2, [5, 5, 2])])
def test_windows_are_averaged(
    pixels: int,
    batches: list[int],
    student: Student,
    text_CD: Tensor,
    image_HW3: NDArray[np.uint8],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(inference, "CPU_PIXELS", pixels)
    seen: list[int] = []
    handle = student.register_forward_pre_hook(lambda _, given: seen.append(len(given[0])))
    # 33 and 26 are no multiples of the stride 4: 8 and 6 cells.
    config = EvaluateConfig(short_side=None, mode="slide", window=33, stride=26)
    score_Chw = predicted(student, text_CD, image_HW3, config)
    handle.remove()
    assert seen == batches

    image_13HW = torch.from_numpy(normalise(image_HW3))[None]
    values: dict[tuple[int, int], list[Tensor]] = {}
    for top in (0, 6, 10):  # 18 cells
        for left in (0, 6, 12, 17):  # 25 cells
            window = image_13HW[:, :, 4 * top : 4 * top + 32, 4 * left : 4 * left + 32]
            with torch.no_grad():
                part_Chw = class_logits(student(window), text_CD, 1.0)[0]
            for y in range(8):
                for x in range(8):
                    values.setdefault((top + y, left + x), []).append(part_Chw[:, y, x])
    assert {len(parts) for parts in values.values()} >= {1, 2, 4}
    expected = torch.empty(5, 18, 25)
    for (y, x), parts in values.items():
        expected[:, y, x] = torch.stack(parts).mean(0)
    torch.testing.assert_close(score_Chw, expected)


@pytest.mark.parametrize("length", range(1, 40))
def test_windows_stand_where_mmsegmentation_puts_them(length: int) -> None:
    window, step = 8, 5
    expected = []
    for index in range(max(length - window + step - 1, 0) // step + 1):
        end = min(index * step + window, length)
        expected.append(max(end - window, 0))
    assert window_starts(length, window, step) == expected


def test_calibration_lowers_seen_classes_only(
    student: Student, text_CD: Tensor, image_HW3: NDArray[np.uint8]
) -> None:
    config = EvaluateConfig(short_side=64, window=32, stride=32, calibration=0.25)
    score_Chw = predicted(student, text_CD, image_HW3, config)
    before_Chw = score_Chw.clone()
    lowered_Chw = calibrated(score_Chw, 0.125, seen_ids=(0, 2))
    expected = torch.tensor([0.125, 0, 0.125, 0, 0])[:, None, None].expand_as(score_Chw)
    torch.testing.assert_close(score_Chw - lowered_Chw, expected)
    assert torch.equal(score_Chw, before_Chw)
    assert torch.equal(calibrated(score_Chw, 0.0, seen_ids=(0, 2)), score_Chw)


@pytest.mark.parametrize(
    ("size", "short_side", "expected"),
    [
        ((360, 480), 512, (512, 684)),
        ((480, 360), 512, (684, 512)),
        ((361, 479), None, (360, 480)),
        ((1, 1), None, (4, 4)),
        ((100, 1000), 512, (204, 2048)),  # the long side ends at 4 x 512
    ],
)
def test_working_size(
    size: tuple[int, int], short_side: int | None, expected: tuple[int, int]
) -> None:
    assert working_size(size, short_side=short_side, stride=4) == expected
