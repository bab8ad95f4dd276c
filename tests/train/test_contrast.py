"""Distillation by contrast against float64 loops and by hand: who is whose negative."""

from collections import deque

import numpy as np
import pytest
import torch
from helpers import reference
from helpers.contrast_scene import LN_1_E, TAU, WIDTH, global_of, random, rows, scene, slow_global
from helpers.reference import exact
from torch import Tensor

from zsseg.stages.train.losses.contrast import (
    Bank,
    empty_bank,
    enqueue,
    info_nce,
)

# --- the bank -----------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 1, 2, 5, 24])
def test_the_bank_is_a_queue_that_holds_at_least_the_step(size: int) -> None:
    bank = empty_bank(WIDTH, torch.device("cpu"))
    assert bank.token_MD.shape == (0, WIDTH)
    queue: deque[tuple[int, list[float]]] = deque(maxlen=max(size, 2))
    for step in range(4):
        token_BD, row_B = random(step, 2, WIDTH), rows(3 * step, 3 * step + 1)
        queue.extend(zip(row_B.tolist(), token_BD.tolist(), strict=True))
        bank = enqueue(bank, token_BD, row_B, size=size)
        assert bank.row_M.tolist() == [row for row, _ in queue]
        assert bank.token_MD.tolist() == [token for _, token in queue]


def test_a_larger_step_throws_all_older_tokens_out() -> None:
    bank = enqueue(empty_bank(WIDTH, torch.device("cpu")), random(0, 2, WIDTH), rows(0, 1), size=3)
    bank = enqueue(bank, random(1, 4, WIDTH), rows(2, 3, 4, 5), size=3)
    assert bank.row_M.tolist() == [2, 3, 4, 5]
    # The next step may be smaller: then the size holds again.
    assert enqueue(bank, random(2, 1, WIDTH), rows(6), size=3).row_M.tolist() == [4, 5, 6]


def test_a_bank_stays_as_it_was() -> None:
    first = random(0, 2, WIDTH).requires_grad_()
    old = enqueue(empty_bank(WIDTH, torch.device("cpu")), first, rows(0, 1), size=3)
    token_MD, row_M = old.token_MD.clone(), old.row_M.clone()
    assert not old.token_MD.requires_grad
    new = enqueue(old, random(1, 2, WIDTH), rows(2, 3), size=3)
    new.token_MD.zero_()
    new.row_M.zero_()
    with torch.no_grad():
        first.zero_()
    assert torch.equal(old.token_MD, token_MD)
    assert torch.equal(old.row_M, row_M)


def test_the_bank_is_float32() -> None:
    bank = empty_bank(WIDTH, torch.device("cpu"))
    bank = enqueue(bank, random(0, 2, WIDTH).half(), rows(0, 1), size=3)
    assert (bank.token_MD.dtype, bank.row_M.dtype) == (torch.float32, torch.int64)


# --- InfoNCE ------------------------------------------------------------------------------------


def test_info_nce_against_numpy() -> None:
    prototype_PD, token_MD = random(0, 4, WIDTH).requires_grad_(), random(1, 5, WIDTH)
    positive = [3, 0, 3, 4]
    candidate_PM = torch.from_numpy(np.random.default_rng(2).random((4, 5)) < 0.5)
    # The positive token is in the sum whether it is marked as a candidate or not.
    candidate_PM[0, 3], candidate_PM[1, 0] = True, False
    counts = [True, True, False, True]
    expected = []
    for p in (0, 1, 3):
        others = [exact(token_MD[m]) for m in range(5) if candidate_PM[p, m] and m != positive[p]]
        of_p = exact(prototype_PD[p])
        expected.append(reference.info_nce(of_p, exact(token_MD[positive[p]]), others, TAU))
    before = candidate_PM.clone()
    loss = info_nce(
        prototype_PD,
        token_MD,
        positive_P=torch.tensor(positive),
        candidate_PM=candidate_PM,
        counts_P=torch.tensor(counts),
        tau=TAU,
    )
    assert loss.item() == pytest.approx(np.mean(expected), rel=1e-5)
    (grad_PD,) = torch.autograd.grad(loss, prototype_PD)
    assert (grad_PD != 0).any(1).tolist() == counts
    assert torch.equal(candidate_PM, before)


def test_info_nce_by_hand() -> None:
    def loss_of(prototype: list[float], candidates: list[bool]) -> float:
        loss = info_nce(
            torch.tensor([prototype]),
            torch.tensor([[7.0, 0.0], [0.0, 2.0], [-3.0, 0.0]]),
            positive_P=torch.tensor([0]),
            candidate_PM=torch.tensor([candidates]),
            counts_P=torch.tensor([True]),
            tau=1.0,
        )
        return loss.item()

    assert loss_of([2.0, 0.0], [False, False, False]) == 0
    assert loss_of([2.0, 0.0], [True, True, False]) == pytest.approx(LN_1_E)
    assert loss_of([2.0, 0.0], [True, True, True]) == pytest.approx(
        np.log(1 + np.exp(-1) + np.exp(-2))
    )
    assert loss_of([-1.0, 0.0], [False, False, True]) == pytest.approx(np.log(1 + np.exp(2)))


def test_info_nce_of_nothing() -> None:
    # Prototypes of 0, as `masks_of` and `attention_pool` leave them where nothing is valid.
    prototype_PD = torch.zeros(2, WIDTH, requires_grad=True)
    loss = info_nce(
        prototype_PD,
        random(0, 2, WIDTH),
        positive_P=torch.arange(2),
        candidate_PM=torch.ones(2, 2, dtype=torch.bool),
        counts_P=torch.zeros(2, dtype=torch.bool),
        tau=0.01,
    )
    (grad_PD,) = torch.autograd.grad(loss, prototype_PD)
    assert loss.item() == 0
    assert (grad_PD == 0).all()


def test_info_nce_at_the_smallest_temperature_is_finite() -> None:
    prototype_PD = torch.tensor([[1.0, 0.0]], requires_grad=True)
    loss = info_nce(
        prototype_PD,
        torch.tensor([[-1.0, 0.0], [1.0, 0.0]]),
        positive_P=torch.tensor([0]),
        candidate_PM=torch.tensor([[True, True]]),
        counts_P=torch.tensor([True]),
        tau=0.001,
    )
    (grad_PD,) = torch.autograd.grad(loss, prototype_PD)
    assert loss.item() == pytest.approx(2000)
    assert torch.isfinite(grad_PD).all()


# --- L_g ----------------------------------------------------------------------------------------


def bank_of(*parts: tuple[Tensor, Tensor]) -> Bank:
    bank = empty_bank(WIDTH, torch.device("cpu"))
    for token_BD, row_B in parts:
        bank = enqueue(bank, token_BD, row_B, size=24)
    return bank


@pytest.mark.parametrize("normalise", [True, False])
@pytest.mark.parametrize("masked", [True, False])
def test_global_distillation_against_numpy(normalise: bool, masked: bool) -> None:
    feature_BDhw, token_BD, inside_Bhw = scene()
    old_BD, old_B, row_B = random(9, 4, WIDTH), rows(8, 9, 10, 11), rows(4, 5, 6)
    entries = [
        *zip(old_B.tolist(), old_BD, strict=True),
        *zip(row_B.tolist(), token_BD, strict=True),
    ]
    inside = inside_Bhw if masked else None
    expected = slow_global(
        feature_BDhw, token_BD, row_B, entries, normalise=normalise, inside_Bhw=inside
    )
    bank = bank_of((old_BD, old_B), (token_BD, row_B))
    loss = global_of(
        feature_BDhw, token_BD, row_B, bank, tau=TAU, normalise=normalise, inside_Bhw=inside
    )
    assert loss.item() == pytest.approx(expected, rel=1e-5)
    assert loss.dtype == torch.float32


def test_global_distillation_by_hand() -> None:
    # Features (3, 0) everywhere pool to (3, 0); tokens (1, 0) and (0, 1) of two images.
    feature_BDhw = torch.tensor([3.0, 0.0])[None, :, None, None].repeat(2, 1, 2, 2)
    token_BD = torch.eye(2)
    bank = enqueue(empty_bank(2, torch.device("cpu")), token_BD, rows(0, 1), size=24)
    loss = global_of(feature_BDhw, token_BD, rows(0, 1), bank, tau=1.0, normalise=False)
    # The first finds its token, ln(1 + 1/e), the second the other's, ln(1 + e).
    assert loss.item() == pytest.approx((LN_1_E + np.log(1 + np.e)) / 2)


@pytest.mark.parametrize("where", ["an earlier epoch", "another crop of the step"])
def test_a_token_of_the_same_image_is_no_negative(where: str) -> None:
    feature_BDhw, token_BD, _ = scene()
    row_B = rows(4, 5, 4) if where == "another crop of the step" else rows(4, 5, 6)
    token_BD = torch.cat([token_BD[:2], token_BD[:1]]) if row_B[2] == 4 else token_BD
    old_BD, old_B = torch.cat([token_BD[:1], random(9, 1, WIDTH)]), rows(4, 9)
    expected = slow_global(
        feature_BDhw,
        token_BD,
        row_B,
        [*zip([4, 9], old_BD, strict=True), *zip(row_B.tolist(), token_BD, strict=True)],
        normalise=True,
    )
    bank = bank_of((old_BD, old_B), (token_BD, row_B))
    loss = global_of(feature_BDhw, token_BD, row_B, bank, tau=TAU, normalise=True)
    assert loss.item() == pytest.approx(expected, rel=1e-5)
    # The first image alone: as if the older token, and the other crop's, were not there.
    first = (feature_BDhw[:1], token_BD[:1], row_B[:1])
    alone = bank_of((old_BD, old_B), first[1:])
    less = bank_of((old_BD[1:], old_B[1:]), first[1:])
    kept = global_of(*first, alone, tau=TAU, normalise=True)
    assert kept.item() == global_of(*first, less, tau=TAU, normalise=True).item()
    assert kept > 0


def test_one_image_with_an_empty_bank_costs_nothing() -> None:
    feature_BDhw, token_BD, _ = scene(batch=1)
    bank = enqueue(empty_bank(WIDTH, torch.device("cpu")), token_BD, rows(4), size=24)
    loss = global_of(feature_BDhw, token_BD, rows(4), bank, tau=TAU, normalise=True)
    (grad,) = torch.autograd.grad(loss, feature_BDhw)
    assert loss.item() == 0
    assert (grad == 0).all()


def test_padding_does_not_move_global_distillation() -> None:
    feature_BDhw, token_BD, _ = scene()
    bank = bank_of((token_BD, rows(4, 5, 6)))
    padded = torch.cat([feature_BDhw, torch.full((3, WIDTH, 2, 4), 1e3)], dim=2)
    inside_Bhw = torch.zeros(3, 5, 4, dtype=torch.bool)
    inside_Bhw[:, :3] = True
    plain, masked = (
        global_of(each, token_BD, rows(4, 5, 6), bank, tau=TAU, normalise=False, inside_Bhw=inside)
        for each, inside in ((feature_BDhw, None), (padded, inside_Bhw))
    )
    torch.testing.assert_close(masked, plain)


def test_an_image_wholly_outside_does_not_count_but_its_token_does() -> None:
    feature_BDhw, token_BD, inside_Bhw = scene()
    row_B, bank = rows(4, 5, 6), bank_of((token_BD, rows(4, 5, 6)))
    entries = [*zip(row_B.tolist(), token_BD, strict=True)]
    inside_Bhw[1] = False
    expected = slow_global(
        feature_BDhw, token_BD, row_B, entries, normalise=True, inside_Bhw=inside_Bhw
    )
    for inside, value in ((inside_Bhw, expected), (torch.zeros_like(inside_Bhw), 0.0)):
        loss = global_of(
            feature_BDhw, token_BD, row_B, bank, tau=TAU, normalise=True, inside_Bhw=inside
        )
        (grad,) = torch.autograd.grad(loss, feature_BDhw)
        assert loss.item() == pytest.approx(value, rel=1e-5)
        assert torch.isfinite(grad).all()
        assert (grad != 0).flatten(1).any(1).tolist() == inside.flatten(1).any(1).tolist()
    assert expected > 0


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16])
def test_global_distillation_in_half_precision_stays_close(kind: torch.dtype) -> None:
    rng = torch.Generator().manual_seed(0)
    feature_BDhw = 40 * torch.randn(2, 16, 128, 128, generator=rng) + 20
    token_BD = torch.randn(2, 16, generator=rng)
    bank = enqueue(empty_bank(16, torch.device("cpu")), token_BD, rows(0, 1), size=24)
    whole = global_of(feature_BDhw, token_BD, rows(0, 1), bank, tau=TAU, normalise=True)
    for context in (torch.autocast("cpu", kind), torch.autocast("cpu", enabled=False)):
        with context:
            half = global_of(
                feature_BDhw.to(kind), token_BD, rows(0, 1), bank, tau=TAU, normalise=True
            )
        assert half.dtype == torch.float32
        torch.testing.assert_close(half, whole, rtol=0.02, atol=0)
