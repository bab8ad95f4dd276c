"""Cosines of a folded last layer against those of the feature itself."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zsseg.stages.evaluate.scorer import class_scorer
from zsseg.stages.train.students.student import Student


def student_of(channels: int, width: int) -> Student:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, channels, 4, stride=4), nn.GELU())
    student = Student(network, channels=channels, width=width, multiple=8).eval()
    assert student.projection.bias is not None
    nn.init.normal_(student.projection.bias)
    return student


def text_of(classes: int, width: int) -> Tensor:
    rng = torch.Generator().manual_seed(1)
    return F.normalize(torch.randn(classes, width, generator=rng), dim=1)


@pytest.mark.parametrize(
    ("channels", "width", "classes", "folds"),
    [
        (16, 48, 9, True),
        (16, 48, 1, True),
        (16, 17, 9, True),
        (64, 8, 9, False),
        (16, 16, 9, False),  # the same work
        (16, 18, 1000, True),
        (64, 16, 1000, False),
    ],
)
def test_cosines_are_those_of_the_feature(
    channels: int, width: int, classes: int, folds: bool
) -> None:
    student, text_CD = student_of(channels, width), text_of(classes, width)
    image_B3HW = torch.randn(2, 3, 20, 36)  # 20 is no multiple of 8: padded, and cut off
    scorer = class_scorer(student, text_CD)
    assert (scorer.folded is not None) == folds
    with torch.no_grad():
        feature_BDhw = student(image_B3HW)
    expected = torch.einsum("cd,bdhw->bchw", text_CD.double(), F.normalize(feature_BDhw.double()))
    found = scorer(image_B3HW)
    assert found.shape == (2, classes, 5, 9)
    torch.testing.assert_close(found.double(), expected, rtol=0, atol=2e-6)


def test_in_float64_folding_costs_nothing() -> None:
    student, text_CD = student_of(16, 48).double(), text_of(9, 48).double()
    image_B3HW = torch.randn(1, 3, 16, 16, dtype=torch.float64)
    scorer = class_scorer(student, text_CD)
    assert scorer.folded is not None
    with torch.no_grad():
        feature_BDhw = student(image_B3HW)
    expected = torch.einsum("cd,bdhw->bchw", text_CD, F.normalize(feature_BDhw))
    torch.testing.assert_close(scorer(image_B3HW), expected, rtol=0, atol=1e-13)


def test_lengths_matter_where_scores_are_interpolated() -> None:
    """Why the norm stays: between a long and a short feature the class would be another."""
    feature_12hw = torch.tensor([[10.0, 0.0], [0.0, 1.0]])[None, :, None]
    product_12hw = feature_12hw  # of text embeddings along the axes
    cosine_12hw = F.normalize(feature_12hw, dim=1)
    by_product, by_cosine = (
        F.interpolate(score_12hw, (1, 8), mode="bilinear").argmax(1).tolist()
        for score_12hw in (product_12hw, cosine_12hw)
    )
    assert by_cosine == [[[0, 0, 0, 0, 1, 1, 1, 1]]]
    assert by_product == [[[0, 0, 0, 0, 0, 0, 1, 1]]]


def test_a_feature_of_nothing_has_no_class() -> None:
    student = student_of(16, 48)
    nn.init.zeros_(student.projection.weight)
    assert student.projection.bias is not None
    nn.init.zeros_(student.projection.bias)
    score = class_scorer(student, text_of(9, 48))(torch.randn(1, 3, 16, 16))
    assert (score == 0).all()
