"""Selection and pseudo labels against plain loops over images, regions and pixels."""

import math

import numpy as np
import pytest
import torch

from zsseg.stages.train.losses.self_training import pseudo_labels, top_share


def keep_slowly(score_L: list[float], group_L: list[int], share: float) -> list[bool]:
    """One image: sort each group by (score falling, position rising), keep the first ones."""
    keep_L = [False] * len(score_L)
    for group in set(group_L) - {0}:
        members = [i for i, other in enumerate(group_L) if other == group]
        members.sort(key=lambda i: (-score_L[i], i))
        for i in members[: math.ceil(round(share * len(members), 9))]:
            keep_L[i] = True
    return keep_L


@pytest.mark.parametrize("share", [0.01, 0.3, 0.5, 0.75, 1.0])
@pytest.mark.parametrize("levels", [4, 100000])
def test_top_share_against_loops(share: float, levels: int) -> None:
    rng = np.random.default_rng(levels)
    score_BL = rng.integers(0, levels, (5, 60)).astype(np.float32)  # 4 levels: many ties
    group_BL = rng.choice([0, 1, 2, 7, 255], (5, 60), p=[0.3, 0.3, 0.2, 0.15, 0.05])
    group_BL[3] = 0
    group_BL[4] = 9
    keep_BL = top_share(torch.tensor(score_BL), torch.tensor(group_BL), share=share)
    for b in range(5):
        expected = keep_slowly(score_BL[b].tolist(), group_BL[b].tolist(), share)
        assert keep_BL[b].tolist() == expected
    assert not keep_BL[3].any()
    assert keep_BL[4].sum() == math.ceil(share * 60)


def test_top_share_by_hand() -> None:
    score_BL = torch.tensor([[0.5, 0.9, 0.1, 0.9, 0.3, 0.2]])
    group_BL = torch.tensor([[1, 1, 1, 2, 0, 2]])
    keep_BL = top_share(score_BL, group_BL, share=0.5)
    assert keep_BL.tolist() == [[True, True, False, True, False, False]]  # 2 of 3, 1 of 2


def test_a_share_of_whole_pixels_is_not_rounded_up() -> None:
    score_BL = torch.arange(100.0)[None]
    keep_BL = top_share(score_BL, torch.ones(1, 100, dtype=torch.int64), share=7 / 100)
    assert 7 / 100 * 100 > 7  # what makes the test one
    assert keep_BL.sum() == 7


@pytest.mark.parametrize("confidence", ["score", "margin"])
@pytest.mark.parametrize("method", ["st", "rst"])
def test_pseudo_labels_against_loops(method: str, confidence: str) -> None:
    rng = np.random.default_rng(5)
    logits_BChw = rng.normal(0, 1, (3, 6, 5, 7)).astype(np.float32)
    unlabelled_Bhw = rng.random((3, 5, 7)) < 0.6
    region_Bhw = rng.integers(0, 4, (3, 5, 7)).astype(np.uint8)
    unlabelled_Bhw[2] = False
    unseen = [1, 4, 5]
    expected_Bhw = np.full((3, 5, 7), 255)
    for b in range(3):
        group_L = [
            (int(region_Bhw[b, y, x]) if method == "rst" else 1) if unlabelled_Bhw[b, y, x] else 0
            for y in range(5)
            for x in range(7)
        ]
        ranked_L = [sorted(logits_BChw[b, unseen, y, x]) for y in range(5) for x in range(7)]
        best_L = [
            float(three[-1] - three[-2] if confidence == "margin" else three[-1])
            for three in ranked_L
        ]
        for i, kept in enumerate(keep_slowly(best_L, group_L, 0.4)):
            if kept:
                y, x = divmod(i, 7)
                expected_Bhw[b, y, x] = max(unseen, key=lambda c: logits_BChw[b, c, y, x])
    label_Bhw = pseudo_labels(
        torch.tensor(logits_BChw, requires_grad=True),
        unlabelled_Bhw=torch.tensor(unlabelled_Bhw),
        region_Bhw=torch.tensor(region_Bhw),
        unseen_ids=torch.tensor(unseen),
        share=0.4,
        method="st" if method == "st" else "rst",
        confidence="margin" if confidence == "margin" else "score",
    )
    assert label_Bhw.dtype == torch.int64
    assert not label_Bhw.requires_grad
    np.testing.assert_array_equal(label_Bhw.numpy(), expected_Bhw)
    # By their margin, the surest of each region happen to be of two classes only.
    by_margin_in_regions = (confidence, method) == ("margin", "rst")
    assert set(np.unique(expected_Bhw)) == {1, 5, 255} | (set() if by_margin_in_regions else {4})


def test_regions_give_quiet_classes_their_share() -> None:
    # The right half is a region whose scores are all lower than those of the left half.
    logits_BChw = torch.zeros(1, 3, 2, 4)
    logits_BChw[0, 1, :, :2] = torch.tensor([[9.0, 8.0], [7.0, 6.0]])
    logits_BChw[0, 2, :, 2:] = torch.tensor([[4.0, 3.0], [2.0, 1.0]])
    logits_BChw[0, 0] = 50.0  # a seen class never becomes a pseudo label
    labels = {}
    for method in ("st", "rst"):
        labels[method] = pseudo_labels(
            logits_BChw,
            unlabelled_Bhw=torch.ones(1, 2, 4, dtype=torch.bool),
            region_Bhw=torch.tensor([[[1, 1, 2, 2], [1, 1, 2, 2]]], dtype=torch.uint8),
            unseen_ids=torch.tensor([1, 2]),
            share=0.5,
            method="st" if method == "st" else "rst",
        ).tolist()
    assert labels["st"] == [[[1, 1, 255, 255], [1, 1, 255, 255]]]
    assert labels["rst"] == [[[1, 1, 2, 2], [255, 255, 255, 255]]]


def test_the_margin_over_a_single_class_is_its_score() -> None:
    labels = [
        pseudo_labels(
            torch.arange(8.0).view(1, 2, 2, 2),
            unlabelled_Bhw=torch.ones(1, 2, 2, dtype=torch.bool),
            region_Bhw=torch.ones(1, 2, 2, dtype=torch.uint8),
            unseen_ids=torch.tensor([1]),
            share=0.5,
            method="st",
            confidence=confidence,
        ).tolist()
        for confidence in ("score", "margin")
    ]
    assert labels == [[[[255, 255], [1, 1]]]] * 2


def test_without_unseen_classes_there_are_no_pseudo_labels() -> None:
    label_Bhw = pseudo_labels(
        torch.zeros(1, 3, 2, 2),
        unlabelled_Bhw=torch.ones(1, 2, 2, dtype=torch.bool),
        region_Bhw=torch.ones(1, 2, 2, dtype=torch.uint8),
        unseen_ids=torch.tensor([], dtype=torch.int64),
        share=0.5,
        method="rst",
    )
    assert label_Bhw.tolist() == [[[255, 255], [255, 255]]]


def test_nothing_is_asked_back_from_the_device() -> None:
    # A meta tensor has a shape and no numbers: what needs one on the host fails.
    with torch.device("meta"):
        unlabelled_Bhw = torch.ones(2, 6, 6, dtype=torch.bool)
        label_Bhw = pseudo_labels(
            torch.rand(2, 4, 6, 6),
            unlabelled_Bhw=unlabelled_Bhw,
            region_Bhw=torch.ones(2, 6, 6, dtype=torch.uint8),
            unseen_ids=torch.tensor([2, 3]),
            share=0.5,
            method="rst",
        )
        assert label_Bhw.shape == (2, 6, 6)
        with pytest.raises((RuntimeError, NotImplementedError)):
            unlabelled_Bhw.nonzero()
