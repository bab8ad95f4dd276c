"""Latent classes against float64 numpy: decoder, labels and tie."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers.reference import Array, exact, softmax, unit
from helpers.small_decoder import HEADS, WIDTH, decoder, random
from torch import Tensor, nn
from torch.nn import functional as F

from zsseg.stages.data.spec import VOID
from zsseg.stages.errors import UserError
from zsseg.stages.train.losses.latent import (
    LatentDecoder,
    latent_embeddings,
    text_tie,
    with_latent_classes,
)
from zsseg.stages.train.losses.pseudo_mask import CropMasks
from zsseg.stages.train.method_config import LatentConfig

SLOTS = 5
ID_BK = torch.tensor([[0, 1001, 2, 1003, -1], [3, 1002, -1, -1, -1], [0, 2, 1001, 1002, 1004]])
VISIBLE_BK = torch.tensor([[1, 1, 0, 1, 0], [1, 0, 0, 0, 0], [1, 1, 0, 1, 1]]).bool()
"""The first image shows two of its latent regions, the second none, the third two of three."""


def scene() -> tuple[CropMasks, Tensor, Tensor]:
    """CropMasks, global tokens and local tokens; prototypes are 0 where a mask is not visible."""
    prototype_BKD = random(1, 3, SLOTS, WIDTH) * VISIBLE_BK[:, :, None]
    masks = CropMasks(ID_BK, prototype_BKD.requires_grad_(), VISIBLE_BK)
    return masks, random(2, 3, WIDTH), random(3, 3, SLOTS, WIDTH)


def answers(
    made: nn.Module,
    masks: CropMasks,
    token_BD: Tensor,
    local_BKD: Tensor,
    *,
    all_masks: bool = False,
) -> Tensor:
    return latent_embeddings(made, masks, token_BD, local_BKD, all_masks=all_masks)


# --- the decoder --------------------------------------------------------------------------------


def attend(weights: dict[str, Array], name: str, query_ND: Array, key_MD: Array) -> Array:
    """Multi-head attention; keys are the values too."""
    into, bias = weights[f"{name}.in_proj_weight"], weights[f"{name}.in_proj_bias"]
    q, k, v = (
        each @ into[i * WIDTH : (i + 1) * WIDTH].T + bias[i * WIDTH : (i + 1) * WIDTH]
        for i, each in enumerate((query_ND, key_MD, key_MD))
    )
    size, out = WIDTH // HEADS, np.zeros_like(q)
    for head in range(HEADS):
        part = np.s_[head * size : (head + 1) * size]
        for n in range(len(q)):
            out[n, part] = softmax(k[:, part] @ q[n, part] / np.sqrt(size)) @ v[:, part]
    last = weights[f"{name}.out_proj.weight"].T
    return np.asarray(out @ last + weights[f"{name}.out_proj.bias"])


def normed(weights: dict[str, Array], name: str, x_ND: Array) -> Array:
    mean, variance = x_ND.mean(1, keepdims=True), x_ND.var(1, keepdims=True)
    scaled = (x_ND - mean) / np.sqrt(variance + 1e-5)
    return np.asarray(scaled * weights[f"{name}.weight"] + weights[f"{name}.bias"])


def decode_slowly(made: LatentDecoder, query_ND: Array, key_MD: Array) -> Array:
    """A transformer decoder (Vaswani et al.) over the queries and keys of one image."""
    weights = {name: exact(value) for name, value in made.state_dict().items()}
    x_ND, key_MD = (
        np.array([np.sqrt(WIDTH) * unit(each) for each in rows]) for rows in (query_ND, key_MD)
    )
    for i in range(2):
        layer = f"layers.layers.{i}"
        x_ND = normed(
            weights, f"{layer}.norm1", x_ND + attend(weights, f"{layer}.self_attn", x_ND, x_ND)
        )
        x_ND = normed(
            weights,
            f"{layer}.norm2",
            x_ND + attend(weights, f"{layer}.multihead_attn", x_ND, key_MD),
        )
        hidden = x_ND @ weights[f"{layer}.linear1.weight"].T + weights[f"{layer}.linear1.bias"]
        moved = (
            np.maximum(hidden, 0) @ weights[f"{layer}.linear2.weight"].T
            + weights[f"{layer}.linear2.bias"]
        )
        x_ND = normed(weights, f"{layer}.norm3", x_ND + moved)
    return x_ND


@pytest.mark.parametrize("all_masks", [False, True])
def test_the_decoder_against_numpy(all_masks: bool) -> None:
    made, (masks, token_BD, local_BKD) = decoder(), scene()
    answer_BKD = answers(made, masks, token_BD, local_BKD, all_masks=all_masks)
    asked_BK = VISIBLE_BK & (all_masks | (ID_BK >= 1000))
    for b in range(3):
        if not asked_BK[b].any():
            continue
        query_ND = exact(masks.prototype_BKD[b][asked_BK[b]])
        key_MD = np.concatenate([exact(token_BD[b])[None], exact(local_BKD[b][VISIBLE_BK[b]])])
        expected_ND = decode_slowly(made, query_ND, key_MD)
        np.testing.assert_allclose(exact(answer_BKD[b][asked_BK[b]]), expected_ND, rtol=1e-4)
    assert asked_BK.any(1).tolist() == [True, all_masks, True]


def test_an_image_without_a_latent_region_is_finite() -> None:
    made, (masks, token_BD, local_BKD) = decoder(), scene()
    for visible_BK in (VISIBLE_BK[1:2], VISIBLE_BK[1:2] & False):
        prototype_BKD = masks.prototype_BKD.detach()[1:2] * visible_BK[:, :, None]
        each = CropMasks(ID_BK[1:2], prototype_BKD.requires_grad_(), visible_BK)
        for all_masks in (False, True):
            answer_BKD = answers(made, each, token_BD[1:2], local_BKD[1:2], all_masks=all_masks)
            # What the losses do with such answers: they leave them out.
            total = torch.where(each.latent_BK[:, :, None], answer_BKD, 0.0).sum()
            gradients = torch.autograd.grad(total, [*made.parameters(), prototype_BKD])
            assert torch.isfinite(answer_BKD).all()
            assert all((gradient == 0).all() for gradient in gradients)


def test_an_image_does_not_depend_on_the_others() -> None:
    made, (masks, token_BD, local_BKD) = decoder(), scene()
    whole_BKD = answers(made, masks, token_BD, local_BKD)
    for b in (0, 2):
        part = np.s_[b : b + 1]
        alone = CropMasks(ID_BK[part], masks.prototype_BKD[part], VISIBLE_BK[part])
        alone_BKD = answers(made, alone, token_BD[part], local_BKD[part])
        asked_K = masks.latent_BK[b]
        torch.testing.assert_close(alone_BKD[0][asked_K], whole_BKD[b][asked_K])
    (grad_BKD,) = torch.autograd.grad(whole_BKD[0][masks.latent_BK[0]].sum(), masks.prototype_BKD)
    assert torch.equal((grad_BKD != 0).any(2)[0], masks.latent_BK[0])
    assert (grad_BKD[1:] == 0).all()


def test_what_is_not_there_is_not_seen() -> None:
    made, (masks, token_BD, local_BKD) = decoder(), scene()
    asked_BK = masks.latent_BK
    answer_BKD = answers(made, masks, token_BD, local_BKD)[asked_BK]
    # Other numbers in the slots of masks that are not visible, and as queries of seen classes.
    prototype_BKD = torch.where(asked_BK[:, :, None], masks.prototype_BKD, 9 * random(5, 3, 5, 8))
    other_BKD = torch.where(VISIBLE_BK[:, :, None], local_BKD, 9 * random(6, 3, 5, 8))
    changed = replace(masks, prototype_BKD=prototype_BKD)
    torch.testing.assert_close(answers(made, changed, token_BD, other_BKD)[asked_BK], answer_BKD)
    # More empty slots.
    wider = CropMasks(
        F.pad(ID_BK, (0, 2), value=-1),
        F.pad(masks.prototype_BKD, (0, 0, 0, 2), value=3.0),
        F.pad(VISIBLE_BK, (0, 2)),
    )
    padded_BKD = F.pad(local_BKD, (0, 0, 0, 2), value=7.0)
    wider_BKD = answers(made, wider, token_BD, padded_BKD)[:, :SLOTS]
    torch.testing.assert_close(wider_BKD[asked_BK], answer_BKD)
    # But what is there is: the global token, and the local tokens of visible classes.
    for b, k in ((0, 0), (2, 3)):
        other_BKD = local_BKD.clone()
        other_BKD[b, k] += random(7, WIDTH)
        assert (answers(made, masks, token_BD, other_BKD)[asked_BK] - answer_BKD).abs().max() > 1e-3
    other = answers(made, masks, random(8, 3, WIDTH), local_BKD)[asked_BK]
    assert (other - answer_BKD).abs().amax(1).min() > 1e-3


def test_the_length_of_a_prototype_does_not_matter() -> None:
    made, (masks, token_BD, local_BKD) = decoder(), scene()
    longer = replace(masks, prototype_BKD=50 * masks.prototype_BKD)
    latent_BK = masks.latent_BK
    torch.testing.assert_close(
        answers(made, longer, 3 * token_BD, 0.1 * local_BKD)[latent_BK],
        answers(made, masks, token_BD, local_BKD)[latent_BK],
    )


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16])
def test_half_precision_answers_stay_close(kind: torch.dtype) -> None:
    made, (masks, token_BD, local_BKD) = decoder(), scene()
    whole_BKD = answers(made, masks, token_BD, local_BKD)
    with torch.autocast("cpu", kind):
        half_BKD = answers(made, masks, token_BD, local_BKD)
    assert half_BKD.dtype == torch.float32
    assert torch.isfinite(half_BKD).all()
    latent_BK = masks.latent_BK
    torch.testing.assert_close(half_BKD[latent_BK], whole_BKD[latent_BK], rtol=0, atol=0.05)


def test_heads_divide_the_width() -> None:
    with pytest.raises(UserError, match=r"latent\.heads: .* 8 .* 3 heads"):
        LatentDecoder(WIDTH, LatentConfig(heads=3))


# --- labels -------------------------------------------------------------------------------------


@pytest.mark.parametrize("first", [4, VOID - SLOTS])
def test_labels_of_latent_classes_against_a_loop(first: int) -> None:
    rng = np.random.default_rng(0)
    label_BHW = torch.from_numpy(rng.choice([0, 2, 3, VOID, VOID], (3, 7, 9)))
    region_BHW = torch.from_numpy(rng.choice([0, 1, 2, 3, 4, 255], (3, 7, 9)).astype(np.uint8))
    masks, _, _ = scene()
    before = label_BHW.clone()
    made_BHW = with_latent_classes(label_BHW, region_BHW, masks, first=first)
    assert made_BHW.dtype == torch.int64
    assert torch.equal(label_BHW, before)
    changed = set()
    for b, i, j in np.ndindex(3, 7, 9):
        label, region = int(label_BHW[b, i, j]), int(region_BHW[b, i, j])
        expected = label
        for k in range(SLOTS):
            mask = int(ID_BK[b, k])
            if label == VOID and region and VISIBLE_BK[b, k] and mask == 1000 + region:
                expected = first + k
        assert made_BHW[b, i, j] == expected
        changed |= {(b, expected)} if expected != label else set()
    assert changed == {(b, first + k) for b, k in ((0, 1), (0, 3), (2, 3), (2, 4))}


def test_classes_and_slots_have_to_fit_below_void() -> None:
    masks, _, _ = scene()
    with pytest.raises(AssertionError):
        with_latent_classes(
            torch.zeros(3, 1, 1), torch.zeros(3, 1, 1), masks, first=VOID - SLOTS + 1
        )


# --- the tie ------------------------------------------------------------------------------------


def test_the_tie_against_numpy() -> None:
    answer_BKD, text_CD = random(0, 2, 3, WIDTH).requires_grad_(), random(1, 4, WIDTH)
    text_CD = F.normalize(text_CD, dim=1)
    index_BK = torch.tensor([[2, VOID, 0], [VOID, 3, VOID]])
    terms = []
    for b, k in np.argwhere(index_BK.numpy() != VOID):
        for c in range(4):
            logit = 3 * unit(exact(answer_BKD[b, k])) @ exact(text_CD[c])
            p = 1 / (1 + np.exp(-logit))
            terms.append(-np.log(p if index_BK[b, k] == c else 1 - p))
    loss = text_tie(answer_BKD, index_BK, text_CD, scale=3.0)
    assert loss.item() == pytest.approx(np.mean(terms), rel=1e-5)
    (grad_BKD,) = torch.autograd.grad(loss, answer_BKD)
    assert torch.equal((grad_BKD != 0).any(2), index_BK != VOID)


def test_the_tie_by_hand() -> None:
    # Logits (2, 0) with target (1, 0): (ln(1 + e^-2) + ln 2) / 2.
    loss = text_tie(
        torch.tensor([[[5.0, 0.0], [1.0, 1.0]]]), torch.tensor([[0, VOID]]), torch.eye(2), scale=2.0
    )
    assert loss.item() == pytest.approx((np.log(1 + np.exp(-2)) + np.log(2)) / 2)


def test_the_tie_of_nothing() -> None:
    answer_BKD = torch.zeros(1, 2, 2, requires_grad=True)
    loss = text_tie(answer_BKD, torch.full((1, 2), VOID), torch.eye(2), scale=100.0)
    (grad_BKD,) = torch.autograd.grad(loss, answer_BKD)
    assert loss.item() == 0
    assert (grad_BKD == 0).all()
