"""Overlay and legend."""

import numpy as np
import pytest
from numpy.typing import NDArray

from zsseg.stages.evaluate.colours import safe_palette
from zsseg.stages.evaluate.overlay import overlay, with_legend


def palette(classes: int) -> NDArray[np.uint8]:
    """(256, 3) as many colours, then black."""
    return np.concatenate([safe_palette()[:classes], np.zeros((256 - classes, 3), np.uint8)])


def quarters(height: int = 40, width: int = 60) -> NDArray[np.uint8]:
    """Classes 0, 1, 2 and VOID in the four corners."""
    label_HW = np.zeros((height, width), dtype=np.uint8)
    label_HW[:, width // 2 :] = 1
    label_HW[height // 2 :, : width // 2] = 2
    label_HW[height // 2 :, width // 2 :] = 255
    return label_HW


def shows(picture_HW3: NDArray[np.uint8], colour_3: NDArray[np.uint8]) -> bool:
    return bool((picture_HW3 == colour_3).all(-1).any())


def test_overlay_by_hand() -> None:
    image_HW3 = np.full((40, 60, 3), 200, dtype=np.uint8)
    colours = palette(3)
    mixed_HW3 = overlay(image_HW3, quarters(), colours, alpha=0.25)
    np.testing.assert_array_equal(mixed_HW3[5, 5], np.rint(150 + 0.25 * colours[0]))
    np.testing.assert_array_equal(mixed_HW3[5, 50], np.rint(150 + 0.25 * colours[1]))
    # The two pixels on either side of a border have their class's full colour.
    np.testing.assert_array_equal(mixed_HW3[5, 29:31], colours[:2])
    np.testing.assert_array_equal(mixed_HW3[19:21, 5], colours[[0, 2]])
    np.testing.assert_array_equal(mixed_HW3[5, 28], mixed_HW3[5, 5])
    # Without a label the image is untouched, also along the border.
    np.testing.assert_array_equal(mixed_HW3[20:, 30:], 200)


@pytest.mark.parametrize("shade", [0, 255])
def test_legend_stands_below_the_picture(shade: int) -> None:
    picture_HW3 = np.full((40, 60, 3), shade, dtype=np.uint8)
    colours = palette(4)
    names = ["sky", "cardboard box", "ball", "absent"]
    whole = with_legend(picture_HW3, quarters(), colours, names)
    left = (whole.shape[1] - 60) // 2
    np.testing.assert_array_equal(whole[:40, left : left + 60], picture_HW3)
    panel = whole[40:]
    assert [shows(panel, colour) for colour in colours[:4]] == [True, True, True, False]
    # Dark letters on a light panel, whatever the picture.
    assert panel.min() < 60
    assert np.median(panel) > 200


def test_legend_lists_the_largest_class_first() -> None:
    label_HW = np.array([[1] * 9 + [0]] * 10, dtype=np.uint8)
    colours = palette(2)
    picture_HW3 = np.zeros((10, 10, 3), dtype=np.uint8)
    panel = with_legend(picture_HW3, label_HW, colours, ["rare", "common"])[10:]
    first = [np.argwhere((panel == colour).all(-1)).min(0).tolist() for colour in colours[:2]]
    assert first[1] < first[0]


def test_longer_names_make_a_wider_legend_up_to_a_limit() -> None:
    picture_HW3, label_HW = np.zeros((8, 8, 3), dtype=np.uint8), np.zeros((8, 8), dtype=np.uint8)
    widths = [
        with_legend(picture_HW3, label_HW, palette(1), ["m" * length]).shape[1]
        for length in (1, 20, 40, 400)
    ]
    assert widths[0] < widths[1] < widths[2]
    assert widths[3] < 1.1 * widths[2]


def test_legend_of_many_classes() -> None:
    label_HW = np.arange(255, dtype=np.uint8).repeat(400).reshape(255, 400)
    colours = palette(255)
    names = [f"class {i}" for i in range(255)]
    whole = with_legend(np.zeros((255, 400, 3), dtype=np.uint8), label_HW, colours, names)
    assert whole.shape[1] == 400
    shown = np.unique(whole[255:].reshape(-1, 3), axis=0)
    assert {tuple(c) for c in colours[:255].tolist()} <= {tuple(c) for c in shown.tolist()}


def test_picture_without_any_class_has_no_legend() -> None:
    picture_HW3 = np.full((9, 12, 3), 7, dtype=np.uint8)
    void_HW = np.full((9, 12), 255, dtype=np.uint8)
    np.testing.assert_array_equal(with_legend(picture_HW3, void_HW, palette(2), "ab"), picture_HW3)
