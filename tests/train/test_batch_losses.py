"""The losses of a batch: who takes part, which labels, at which resolution."""

from dataclasses import fields, replace
from typing import Any, Literal

import numpy as np
import pytest
import torch
from helpers import reference
from helpers.losses_of import losses_of
from helpers.reference import exact
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from zsseg.stages.data.geometry import View, crop_map
from zsseg.stages.data.spec import VOID, DatasetSpec
from zsseg.stages.train.batches.batch import Batch
from zsseg.stages.train.batches.known_classes import KnownClasses, make_classes
from zsseg.stages.train.losses.loss_inputs import filled_labels
from zsseg.stages.train.losses.objectives import attention_entropy
from zsseg.stages.train.losses.resample import nearest
from zsseg.stages.train.run_config import RunConfig

SPEC = DatasetSpec(
    name="five", layout="camvid", classes=("a", "b", "c", "d", "e"), unseen=("b", "e")
)
SEEN, UNSEEN = [0, 2, 3], [1, 4]
WIDTH, GRID, CROP = 6, (4, 5), (16, 20)


def config_of(**sections: dict[str, Any]) -> RunConfig:
    return RunConfig.model_validate({"student": {"logit_scale": 10.0}, **sections})


def classes() -> KnownClasses:
    text_CD = F.normalize(torch.randn(5, WIDTH, generator=torch.manual_seed(0)), dim=1)
    return make_classes(SPEC, text_CD, torch.device("cpu"), protocol="transductive")


def inputs(seed: int = 1) -> tuple[Tensor, Batch]:
    """A feature, and a batch of two crops: labels in blocks of 4 x 4 pixels, one crop is padded."""
    rng = np.random.default_rng(seed)
    feature = rng.normal(size=(2, WIDTH, *GRID)).astype(np.float32)
    label_Bhw = rng.choice([0, 2, 3, VOID, VOID], (2, *GRID)).astype(np.uint8)
    region_Bhw = np.where(label_Bhw == VOID, rng.integers(0, 3, label_Bhw.shape), 0)
    inside = np.ones((2, *CROP), bool)
    inside[1, 10:] = False
    label = np.kron(label_Bhw, np.ones((1, 4, 4), np.uint8))
    label[~inside] = VOID
    region = np.kron(region_Bhw.astype(np.uint8), np.ones((1, 4, 4), np.uint8))
    region[~inside] = 0
    batch = Batch(
        row_B=torch.arange(2),
        image_B3HW=torch.zeros(2, 3, *CROP),
        label_BHW=torch.from_numpy(label),
        inside_BHW=torch.from_numpy(inside),
        region_BHW=torch.from_numpy(region),
        token_BD=torch.from_numpy(rng.normal(size=(2, WIDTH)).astype(np.float32)),
    )
    return torch.from_numpy(feature).requires_grad_(), batch


def upsampled_scores(feature_BDhw: Tensor, text_CD: Tensor) -> NDArray[np.float64]:
    """10 x cosine on the grid, bilinear to pixels (half-pixel centres, clamped), in plain loops."""
    feature = feature_BDhw.detach().double().numpy()
    feature /= np.linalg.norm(feature, axis=1, keepdims=True)
    score_BChw = 10 * np.einsum("bdhw,cd->bchw", feature, text_CD.double().numpy())
    out = np.zeros((*score_BChw.shape[:2], *CROP))
    for i in range(CROP[0]):
        for j in range(CROP[1]):
            y = min(max((i + 0.5) / 4 - 0.5, 0), GRID[0] - 1)
            x = min(max((j + 0.5) / 4 - 0.5, 0), GRID[1] - 1)
            y0, x0 = int(y), int(x)
            y1, x1 = min(y0 + 1, GRID[0] - 1), min(x0 + 1, GRID[1] - 1)
            top = score_BChw[:, :, y0, x0] * (1 - x + x0) + score_BChw[:, :, y0, x1] * (x - x0)
            low = score_BChw[:, :, y1, x0] * (1 - x + x0) + score_BChw[:, :, y1, x1] * (x - x0)
            out[:, :, i, j] = top * (1 - y + y0) + low * (y - y0)
    return out


def mean_cross_entropy(
    score_BCHW: NDArray[np.float64], label_BHW: NDArray[np.integer], taking_part: list[int]
) -> float:
    """- log of the label's share in the softmax over the classes that take part, pixel by pixel."""
    costs = []
    for b, i, j in np.argwhere(label_BHW != VOID):
        score = score_BCHW[b, :, i, j]
        whole = sum(np.exp(score[c]) for c in taking_part)
        costs.append(-np.log(np.exp(score[label_BHW[b, i, j]]) / whole))
    return float(np.mean(costs))


@pytest.mark.parametrize(
    ("unseen_logits", "taking_part"), [("suppressed", SEEN), ("competing", [0, 1, 2, 3, 4])]
)
def test_cross_entropy_before_self_training(unseen_logits: str, taking_part: list[int]) -> None:
    feature, batch = inputs()
    config = config_of(objectives={"unseen_logits": unseen_logits})
    losses, diagnostics = losses_of(feature, batch, classes(), config)
    score = upsampled_scores(feature, classes().text_CD)
    expected = mean_cross_entropy(score, batch.label_BHW.numpy(), taking_part)
    assert losses.keys() == {"cross_entropy"}
    assert diagnostics == {}
    assert losses["cross_entropy"].item() == pytest.approx(expected, rel=1e-5)


def test_suppressed_classes_learn_nothing_and_push_nothing() -> None:
    feature, batch = inputs()
    made = classes()
    made.text_CD.requires_grad_()
    for unseen_logits, pushed in (("suppressed", False), ("competing", True)):
        config = config_of(objectives={"focal": 1.0, "unseen_logits": unseen_logits})
        losses, _ = losses_of(feature, batch, made, config)
        (gradient_CD,) = torch.autograd.grad(sum(losses.values(), torch.zeros(())), made.text_CD)
        assert (gradient_CD[SEEN] != 0).any(1).all()
        assert bool((gradient_CD[UNSEEN] != 0).any()) == pushed


def slow_pseudo_labels(
    score_BChw: NDArray[np.float64],
    batch: Batch,
    regions: bool,
    share: float,
) -> NDArray[np.int64]:
    """Algorithm 1 of paper 1 in plain loops, at pixels."""
    label_BHW, inside_BHW = batch.label_BHW.numpy(), batch.inside_BHW.numpy()
    assert batch.region_BHW is not None
    full = label_BHW.astype(np.int64)
    for b in range(2):
        groups: dict[int, list[tuple[float, int, int]]] = {}
        for i in range(GRID[0]):
            for j in range(GRID[1]):
                y, x = 4 * i + 2, 4 * j + 2
                group = int(batch.region_BHW[b, y, x]) if regions else 1
                if label_BHW[b, y, x] == VOID and inside_BHW[b, y, x] and group:
                    confidence = max(score_BChw[b, c, i, j] for c in UNSEEN)
                    groups.setdefault(group, []).append((confidence, i, j))
        for members in groups.values():
            members.sort(reverse=True)
            for _, i, j in members[: int(np.ceil(len(members) * share))]:
                choice = max(UNSEEN, key=lambda c: score_BChw[b, c, i, j])
                cell = np.s_[b, 4 * i : 4 * i + 4, 4 * j : 4 * j + 4]
                free = (label_BHW[cell] == VOID) & inside_BHW[cell]
                full[cell][free] = choice
    return full


@pytest.mark.parametrize("method", ["st", "rst"])
def test_self_training_fills_unlabelled_pixels_only(method: str) -> None:
    feature, batch = inputs(seed=4)
    config = config_of(self_training={"method": method, "top_percent": 50.0})
    normal = F.normalize(feature.detach().double(), dim=1)
    score = torch.einsum("bdhw,cd->bchw", normal, classes().text_CD.double()) * 10
    full = filled_labels(score.float(), batch, classes(), config)
    expected = slow_pseudo_labels(score.numpy(), batch, method == "rst", 0.5)
    assert (full.numpy() == expected).all()
    free = (batch.label_BHW == VOID) & batch.inside_BHW
    share = float((full[free] != VOID).float().mean())
    assert 0.1 < share < 0.9
    losses, diagnostics = losses_of(feature, batch, classes(), config, source="student")
    assert float(diagnostics["pseudo_label_share"]) == pytest.approx(share)
    reference = mean_cross_entropy(
        upsampled_scores(feature, classes().text_CD), expected, [0, 1, 2, 3, 4]
    )
    assert losses["cross_entropy"].item() == pytest.approx(reference, rel=1e-5)


def test_st_needs_no_regions() -> None:
    feature, batch = inputs()
    config = config_of(self_training={"method": "st"})
    with_regions, _ = losses_of(feature, batch, classes(), config, source="student")
    batch = replace(batch, region_BHW=None)
    without, _ = losses_of(feature, batch, classes(), config, source="student")
    assert torch.equal(with_regions["cross_entropy"], without["cross_entropy"])


def test_sdd_sees_what_is_inside_the_image() -> None:
    feature, batch = inputs()
    config = config_of(objectives={"cross_entropy": 0.0, "sdd": 1.0})
    losses, _ = losses_of(feature, batch, classes(), config)
    assert losses.keys() == {"sdd"}
    (gradient,) = torch.autograd.grad(losses["sdd"], feature)
    # Row 2 of the grid has its centre at pixel 10, where the second image has ended.
    assert (gradient[0] != 0).any(0).all()
    assert (gradient[1, :, :2] != 0).any(0).all()
    assert (gradient[1, :, 2:] == 0).all()


def test_attention_entropy() -> None:
    feature, batch = inputs()
    token_BD, inside_Bhw = batch.token_BD, nearest(batch.inside_BHW, GRID)
    assert token_BD is not None
    even = attention_entropy(torch.ones_like(feature), token_BD, inside_Bhw, normalise=True)
    assert float(even) == pytest.approx(1.0, abs=1e-5)
    peak = torch.zeros_like(feature)
    peak[:, :, 0, 0] = 1000 * token_BD
    single = attention_entropy(peak, token_BD, inside_Bhw, normalise=False)
    assert float(single) == pytest.approx(0.0, abs=1e-5)


def test_nearest_is_the_rule_of_the_views() -> None:
    rng = np.random.default_rng(0)
    for old, new in (((16, 20), (4, 5)), ((4, 5), (16, 20)), ((7, 9), (3, 4)), ((3, 4), (7, 9))):
        map_HW = rng.integers(0, 255, old).astype(np.uint8)
        expected = crop_map(map_HW, View(0, 0, 1, 1), new, 0)
        assert (nearest(torch.from_numpy(map_HW)[None], new)[0].numpy() == expected).all()


def test_both_label_losses_share_one_softmax_over_the_pixels() -> None:
    exponentials = 0

    class Count(TorchDispatchMode):
        def __torch_dispatch__(
            self, func: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            nonlocal exponentials
            result = func(*args, **(kwargs or {}))
            if func in (torch.ops.aten.exp.default, torch.ops.aten.exp_.default):
                exponentials += result.numel()
            return result

    feature, batch = inputs()
    config = config_of(objectives={"focal": 1.0})
    with Count():  # type: ignore[no-untyped-call]
        losses, _ = losses_of(feature, batch, classes(), config)
    assert losses.keys() == {"cross_entropy", "focal"}
    assert exponentials == batch.label_BHW.numel() * len(SEEN)


def grid_scores(feature_BDyx: Tensor) -> NDArray[np.float64]:
    """10 x cosine to every class, made on the map's grid and brought to the feature's."""
    feature = exact(feature_BDyx)
    text_CD = exact(classes().text_CD)
    score_BCyx = np.zeros((2, 5, *feature.shape[2:]))
    for b, y, x in np.ndindex(2, *feature.shape[2:]):
        vector_D = feature[b, :, y, x]
        length = max(float(np.linalg.norm(vector_D)), 1e-6)
        score_BCyx[b, :, y, x] = 10 * text_CD @ vector_D / length
    maps = [[reference.bilinear(score_yx, GRID) for score_yx in of_b] for of_b in score_BCyx]
    return np.array(maps)


@pytest.mark.parametrize("source", ["teacher", "ema"])
@pytest.mark.parametrize("method", ["st", "rst"])
def test_another_names_the_pixels_and_the_student_learns_the_names(
    source: Literal["teacher", "ema"], method: str
) -> None:
    feature, batch = inputs(seed=4)
    rng = np.random.default_rng(8)
    # The teacher's tokens are coarser than the feature; outside the image they are 0.
    size = (2, 3) if source == "teacher" else GRID
    other = torch.from_numpy(rng.normal(size=(2, WIDTH, *size)).astype(np.float32))
    if source == "teacher":
        other[1, :, 1] = 0
        other = F.normalize(other, dim=1)
        batch = replace(batch, dense_BDyx=other)
    config = config_of(
        self_training={"method": method, "source": source, "top_percent": 50.0},
        objectives={"dense_stride": 4},
    )
    other.requires_grad_()
    losses, diagnostics = losses_of(
        feature,
        batch,
        classes(),
        config,
        source=source,
        average_BDhw=other if source == "ema" else None,
    )
    named = slow_pseudo_labels(grid_scores(other), batch, method == "rst", 0.5)
    own = slow_pseudo_labels(grid_scores(feature), batch, method == "rst", 0.5)
    assert (named != own).any()
    score = upsampled_scores(feature, classes().text_CD)
    expected = mean_cross_entropy(score, named, [0, 1, 2, 3, 4])
    assert losses["cross_entropy"].item() == pytest.approx(expected, rel=1e-5)
    free = (batch.label_BHW == VOID) & batch.inside_BHW
    share = (named[free.numpy()] != VOID).mean()
    assert float(diagnostics["pseudo_label_share"]) == pytest.approx(share)
    gradients = torch.autograd.grad(losses["cross_entropy"], (feature, other), allow_unused=True)
    assert gradients[0] is not None
    assert gradients[1] is None


def test_inductive_training_holds_nothing_of_an_unseen_class() -> None:
    text_CD = classes().text_CD
    known = make_classes(SPEC, text_CD, torch.device("cpu"), protocol="inductive")
    assert torch.equal(known.text_CD, text_CD[SEEN])
    assert known.seen_S.tolist() == [0, 1, 2]
    assert known.unseen_U.tolist() == []
    assert known.seen_index.tolist() == [0, VOID, 1, 2] + 252 * [VOID]
    # Another embedding of the unseen classes changes nothing at all.
    other_CD = text_CD.clone()
    other_CD[UNSEEN] = 1e3
    other = make_classes(SPEC, other_CD, torch.device("cpu"), protocol="inductive")
    for field in fields(known):
        assert torch.equal(getattr(known, field.name), getattr(other, field.name))


def test_inductive_losses_are_over_the_seen_classes() -> None:
    feature, batch = inputs()
    assert batch.token_BD is not None
    objectives = {"sdd": 1.0, "sdd_tau_f": 0.3, "sdd_tau_c": 0.2, "nel": 1.0}
    config = RunConfig.model_validate(
        {"protocol": "inductive", "student": {"logit_scale": 10.0}, "objectives": objectives}
    )
    text_CD = classes().text_CD
    known = make_classes(SPEC, text_CD, torch.device("cpu"), protocol="inductive")
    losses, _ = losses_of(feature, batch, known, config)
    score = upsampled_scores(feature, text_CD)
    label = batch.label_BHW.numpy()
    expected = mean_cross_entropy(score, label, SEEN)
    assert losses["cross_entropy"].item() == pytest.approx(expected, rel=1e-5)
    by_class = [{c: score[b, c] for c in SEEN} for b in range(2)]
    assert losses["nel"].item() == pytest.approx(
        reference.nel(by_class, label.astype(np.int64)), rel=1e-5
    )
    # Paper 1, Eq. 1 and 2, with the seen classes alone. The second image ends at pixel 10: of its
    # rows of the grid, with centres 2, 6, 10 and 14, two are inside.
    costs = []
    for b in range(2):
        inside = np.ones(GRID, bool)
        inside[(4, 2)[b] :] = False
        token_D = exact(batch.token_BD[b])
        pooled_D = reference.global_prototype(exact(feature[b]), token_D, inside, True)
        seen_SD = exact(text_CD[SEEN])
        student_S = reference.softmax(seen_SD @ reference.unit(pooled_D) / 0.3)
        teacher_S = reference.softmax(seen_SD @ reference.unit(token_D) / 0.2)
        costs.append(np.sum(student_S * np.log(student_S / teacher_S)))
    assert losses["sdd"].item() == pytest.approx(np.mean(costs), rel=1e-4)


@pytest.mark.parametrize("pixels", ["all", "unlabelled"])
def test_dense_distillation_looks_at_these_pixels(pixels: str) -> None:
    feature, batch = inputs()
    rng = np.random.default_rng(3)
    dense = torch.from_numpy(rng.normal(size=(2, WIDTH, 2, 5)).astype(np.float32))
    config = config_of(objectives={"cross_entropy": 0.0, "dense": 1.0, "dense_pixels": pixels})
    batch = replace(batch, dense_BDyx=dense)
    losses, _ = losses_of(feature, batch, classes(), config)
    total = weights = 0.0
    for b, y, x in np.ndindex(2, 2, 5):  # cells of 8 x 4 pixels, 2 x 1 positions
        cell = np.s_[b, 8 * y : 8 * y + 8, 4 * x : 4 * x + 4]
        counts = batch.inside_BHW[cell].numpy()
        if pixels == "unlabelled":
            counts = counts & (batch.label_BHW[cell].numpy() == VOID)
        mean_D = exact(feature[b, :, 2 * y : 2 * y + 2, x]).mean(1)
        cosine = reference.unit(mean_D) @ reference.unit(exact(dense[b, :, y, x]))
        total += float(counts.mean() * (1 - cosine))
        weights += float(counts.mean())
    assert losses.keys() == {"dense"}
    assert losses["dense"].item() == pytest.approx(total / weights, rel=1e-5)
    # Of the second image the cells are inside by 1 and 2/8.
    assert weights == 10 + 5 + 5 * 2 / 8 if pixels == "all" else 0 < weights < 10


def test_unlabelled_pixels_may_be_none() -> None:
    feature, batch = inputs()
    objectives = {"cross_entropy": 0.0, "dense": 1.0, "dense_pixels": "unlabelled"}
    labelled = torch.zeros_like(batch.label_BHW)
    batch = replace(batch, label_BHW=labelled, dense_BDyx=torch.ones(2, WIDTH, 2, 5))
    losses, _ = losses_of(feature, batch, classes(), config_of(objectives=objectives))
    (gradient,) = torch.autograd.grad(losses["dense"], feature)
    assert losses["dense"].item() == 0
    assert (gradient == 0).all()
