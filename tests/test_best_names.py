"""Classes of several names, the best of which counts: each consumer against loops over names."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zsseg.stages.data.spec import VOID
from zsseg.stages.evaluate.scorer import class_scorer
from zsseg.stages.precompute.make.names_artifact import NAME, Naming, name_arrays
from zsseg.stages.precompute.make.token_loss import compare
from zsseg.stages.precompute.precompute_config import PixelNamesConfig
from zsseg.stages.train.losses.latent import text_tie
from zsseg.stages.train.losses.objectives import sdd
from zsseg.stages.train.students.student import Student, class_logits

WIDTH = 8
NAMES = (1, 3, 2)
"""Names of each class."""


@pytest.fixture
def names() -> list[Tensor]:
    """(names, D) unit embeddings of each class."""
    generator = torch.Generator().manual_seed(0)
    return [F.normalize(torch.randn(n, WIDTH, generator=generator), dim=1) for n in NAMES]


@pytest.fixture
def text_CSD(names: list[Tensor]) -> Tensor:
    return torch.stack([torch.cat([n, n[:1].expand(3 - len(n), -1)]) for n in names])


def best(names: list[Tensor], vector_D: Tensor) -> Tensor:
    """(C,) float64 the highest cosine of a vector and a name of each class."""
    unit_D = vector_D.double() / vector_D.double().norm()
    return torch.stack([max(row_D.double() @ unit_D for row_D in each) for each in names])


def test_logits_and_their_gradient(names: list[Tensor], text_CSD: Tensor) -> None:
    feature_BDhw = torch.randn(2, WIDTH, 3, 4, requires_grad=True)
    logits_BChw = class_logits(feature_BDhw, text_CSD, 10.0)
    expected = torch.stack(
        [
            torch.stack([10 * best(names, vector_D) for vector_D in image_DL.T], dim=1)
            for image_DL in feature_BDhw.flatten(2)
        ]
    ).view(2, len(NAMES), 3, 4)
    torch.testing.assert_close(logits_BChw, expected.float())
    weight = torch.randn_like(logits_BChw)
    (gradient,) = torch.autograd.grad((weight * logits_BChw).sum(), feature_BDhw)
    (wanted,) = torch.autograd.grad((weight * expected).sum(), feature_BDhw)
    torch.testing.assert_close(gradient, wanted.float(), atol=1e-5, rtol=1e-4)


def test_sdd_and_the_tie_of_latent_classes(names: list[Tensor], text_CSD: Tensor) -> None:
    feature_BDhw, token_BD = torch.randn(2, WIDTH, 1, 1), torch.randn(2, WIDTH)
    # Of one position the pooled feature is that position.
    loss = 0.0
    for feature_D, token_D in zip(feature_BDhw[:, :, 0, 0], token_BD, strict=True):
        student_C = (best(names, feature_D) / 0.1).softmax(0)
        teacher_C = (best(names, token_D) / 0.05).softmax(0)
        loss += float((student_C * (student_C / teacher_C).log()).sum()) / 2
    found = sdd(feature_BDhw, token_BD, text_CSD, tau_f=0.1, tau_c=0.05, normalise=False)
    assert float(found) == pytest.approx(loss, rel=1e-4)

    answer_BKD, index_BK = torch.randn(1, 2, WIDTH), torch.tensor([[2, VOID]])
    chance_C = (5 * best(names, answer_BKD[0, 0])).sigmoid()
    right_C = torch.tensor([0.0, 0.0, 1.0])
    wanted = -(right_C * chance_C.log() + (1 - right_C) * (1 - chance_C).log()).mean()
    assert float(text_tie(answer_BKD, index_BK, text_CSD, scale=5.0)) == pytest.approx(
        float(wanted), rel=1e-4
    )


@pytest.mark.parametrize(("channels", "width", "folds"), [(16, 48, True), (64, 8, False)])
def test_the_scorer_of_a_student(channels: int, width: int, folds: bool) -> None:
    torch.manual_seed(0)
    network = nn.Conv2d(3, channels, 4, stride=4)
    student = Student(network, channels=channels, width=width, multiple=4).eval()
    names = [F.normalize(torch.randn(n, width), dim=1) for n in NAMES]
    text_CSD = torch.stack([torch.cat([n, n[:1].expand(3 - len(n), -1)]) for n in names])
    scorer = class_scorer(student, text_CSD)
    assert (scorer.folded is not None) == folds
    image_B3HW = torch.randn(1, 3, 8, 12)
    with torch.no_grad():
        feature_DL = student(image_B3HW)[0].flatten(1)
    expected = torch.stack([best(names, each_D) for each_D in feature_DL.T], dim=1)
    found = scorer(image_B3HW)[0].flatten(1)
    torch.testing.assert_close(found, expected.float(), atol=1e-5, rtol=1e-4)


def test_the_map_of_names_and_compared_tokens(names: list[Tensor], text_CSD: Tensor) -> None:
    dense_Dhw = torch.randn(WIDTH, 4, 5).numpy()
    naming = Naming(text_CSD.numpy(), (), (4, 5), PixelNamesConfig(refinement="none"))
    image_HW3 = np.zeros((4, 5, 3), np.uint8)
    map_4yx = name_arrays(dense_Dhw, image_HW3, naming, torch.device("cpu"))[NAME]
    vectors = torch.from_numpy(dense_Dhw).flatten(1).T
    order = [best(names, each_D).argsort(descending=True)[:2].tolist() for each_D in vectors]
    assert map_4yx[:2].reshape(2, -1).T.tolist() == order

    other_Dhw = dense_Dhw + 0.5 * np.random.default_rng(0).normal(size=dense_Dhw.shape)
    others = torch.from_numpy(other_Dhw).flatten(1).T
    same = [best(names, b).argmax() == a[0] for a, b in zip(order, others, strict=True)]
    assert compare(dense_Dhw, other_Dhw, text_CSD.numpy())[1] == sum(map(int, same))
