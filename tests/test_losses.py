"""The losses of a batch: who takes part, which labels, at which resolution."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from stages.data.geometry import View, crop_map
from stages.data.spec import VOID, DatasetSpec
from stages.train.batches import Batch
from stages.train.classes import Classes, make_classes
from stages.train.config import RunConfig
from stages.train.losses import (
    attention_entropy,
    batch_losses,
    nearest,
    with_pseudo_labels,
)

SPEC = DatasetSpec(
    name="five", layout="camvid", classes=("a", "b", "c", "d", "e"), unseen=("b", "e")
)
SEEN, UNSEEN = [0, 2, 3], [1, 4]
WIDTH, GRID, CROP = 6, (4, 5), (16, 20)


def config_of(**sections: dict[str, Any]) -> RunConfig:
    return RunConfig.model_validate({"student": {"logit_scale": 10.0}, **sections})


def classes() -> Classes:
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
    losses, diagnostics = batch_losses(feature, batch, classes(), config, source=None)
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
        losses, _ = batch_losses(feature, batch, made, config, source=None)
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
    full, share = with_pseudo_labels(score.float(), batch, classes(), config)
    expected = slow_pseudo_labels(score.numpy(), batch, method == "rst", 0.5)
    assert (full.numpy() == expected).all()
    free = (batch.label_BHW == VOID) & batch.inside_BHW
    assert float(share) == pytest.approx(float((full[free] != VOID).float().mean()))
    assert 0.1 < float(share) < 0.9
    losses, diagnostics = batch_losses(feature, batch, classes(), config, source="student")
    assert float(diagnostics["pseudo_label_share"]) == float(share)
    reference = mean_cross_entropy(
        upsampled_scores(feature, classes().text_CD), expected, [0, 1, 2, 3, 4]
    )
    assert losses["cross_entropy"].item() == pytest.approx(reference, rel=1e-5)


def test_st_needs_no_regions() -> None:
    feature, batch = inputs()
    config = config_of(self_training={"method": "st"})
    with_regions, _ = batch_losses(feature, batch, classes(), config, source="student")
    batch = replace(batch, region_BHW=None)
    without, _ = batch_losses(feature, batch, classes(), config, source="student")
    assert torch.equal(with_regions["cross_entropy"], without["cross_entropy"])


def test_sdd_sees_what_is_inside_the_image() -> None:
    feature, batch = inputs()
    config = config_of(objectives={"cross_entropy": 0.0, "sdd": 1.0})
    losses, _ = batch_losses(feature, batch, classes(), config, source=None)
    assert losses.keys() == {"sdd"}
    (gradient,) = torch.autograd.grad(losses["sdd"], feature)
    # Row 2 of the grid has its centre at pixel 10, where the second image has ended.
    assert (gradient[0] != 0).any(0).all()
    assert (gradient[1, :, :2] != 0).any(0).all()
    assert (gradient[1, :, 2:] == 0).all()


def test_attention_entropy() -> None:
    feature, batch = inputs()
    even = attention_entropy(torch.ones_like(feature), batch, normalise=True)
    assert float(even) == pytest.approx(1.0, abs=1e-5)
    assert batch.token_BD is not None
    peak = torch.zeros_like(feature)
    peak[:, :, 0, 0] = 1000 * batch.token_BD
    assert float(attention_entropy(peak, batch, normalise=False)) == pytest.approx(0.0, abs=1e-5)


def test_nearest_is_the_rule_of_the_views() -> None:
    rng = np.random.default_rng(0)
    for old, new in (((16, 20), (4, 5)), ((4, 5), (16, 20)), ((7, 9), (3, 4)), ((3, 4), (7, 9))):
        map_HW = rng.integers(0, 255, old).astype(np.uint8)
        expected = crop_map(map_HW, View(0, 0, 1, 1), new, 0)
        assert (nearest(torch.from_numpy(map_HW)[None], new)[0].numpy() == expected).all()


def test_both_label_losses_share_one_softmax_over_the_pixels() -> None:
    calls = 0

    class Count(TorchDispatchMode):
        def __torch_dispatch__(
            self, func: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            nonlocal calls
            calls += "log_softmax" in str(func)
            return func(*args, **(kwargs or {}))

    feature, batch = inputs()
    config = config_of(objectives={"focal": 1.0})
    with Count():  # type: ignore[no-untyped-call]
        losses, _ = batch_losses(feature, batch, classes(), config, source=None)
    assert losses.keys() == {"cross_entropy", "focal"}
    assert calls == 1
