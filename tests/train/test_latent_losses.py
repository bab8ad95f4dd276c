"""What a batch with latent classes costs, against float64 numpy."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from helpers import reference
from helpers.losses_of import losses_of
from helpers.reference import Array, exact, unit
from helpers.small_decoder import HEADS, WIDTH, decoder, random
from torch import Tensor, nn
from torch.nn import functional as F

from zsseg.stages.data.spec import VOID, DatasetSpec
from zsseg.stages.train.batches.batch import Batch
from zsseg.stages.train.batches.known_classes import make_classes
from zsseg.stages.train.run_config import RunConfig
from zsseg.stages.train.state import new_state

SPEC = DatasetSpec(
    name="five", layout="camvid", classes=("a", "b", "c", "d", "e"), unseen=("b", "e")
)
SEEN = (0, 2, 3)
GRID, CROP = (4, 6), (8, 12)


def config_of(protocol: str = "inductive", **changes: dict[str, Any]) -> RunConfig:
    sections: dict[str, Any] = {
        "protocol": protocol,
        "student": {"logit_scale": 9.0},
        "objectives": {"nel": 1.0},
        "latent": {"enabled": True, "heads": HEADS, "beta": 5.0},
    }
    for name, section in changes.items():
        sections[name] = sections[name] | section
    return RunConfig.model_validate(sections)


def batch_of(seed: int = 0) -> tuple[Tensor, Batch]:
    """Three crops in cells of 2 x 2 pixels. The first shows two latent regions, the second none
    of those that the store has, the third one and no class."""
    rng = np.random.default_rng(seed)
    label_Bhw = rng.choice([0, 2, 3, VOID, VOID], (3, *GRID))
    region_Bhw = rng.choice([0, 1, 3], (3, *GRID))
    label_Bhw[2], region_Bhw[1] = VOID, rng.choice([0, 7], GRID)
    region_Bhw[2] = rng.choice([0, 4], GRID)
    label_BHW, region_BHW = (
        torch.from_numpy(np.kron(each, np.ones((1, 2, 2)))).byte()
        for each in (label_Bhw, region_Bhw)
    )
    # A region that lies between the feature's positions: no mask, its pixels have no label.
    label_BHW[0, 0, 0], region_BHW[0, 0, 0] = VOID, 2
    id_BK = torch.tensor(
        [[0, 2, 3, 1001, 1002, 1003], [0, 1002, -1, -1, -1, -1], [1004] + 5 * [-1]]
    )
    batch = Batch(
        row_B=torch.arange(3),
        image_B3HW=torch.zeros(3, 3, *CROP),
        label_BHW=label_BHW,
        inside_BHW=torch.ones(3, *CROP, dtype=torch.bool),
        region_BHW=region_BHW,
        token_BD=random(seed + 1, 3, WIDTH),
        local_BKD=random(seed + 2, 3, 6, WIDTH),
        local_id_BK=id_BK,
    )
    return random(seed + 3, 3, WIDTH, *GRID).requires_grad_(), batch


TEXT_CD = F.normalize(random(11, 5, WIDTH), dim=1)


class Recorder(nn.Module):
    """A decoder whose last answers can be read."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.answer_BKD = decoder(), torch.zeros(0)

    def forward(self, *given: Tensor) -> Tensor:
        self.answer_BKD = self.inner(*given)
        return self.answer_BKD


def costs_of(
    feature_BDhw: Tensor, batch: Batch, config: RunConfig, made: nn.Module
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    classes = make_classes(SPEC, TEXT_CD, torch.device("cpu"), protocol=config.protocol)
    return losses_of(feature_BDhw, batch, classes, config, decoder=made)


def slow_scores(
    feature_BDhw: Tensor,
    answer_BKD: Tensor,
    latent: list[list[int]],
    text: list[Array],
    *,
    dot: bool = False,
) -> list[dict[int, Array]]:
    """X_s = alpha F.A_s and X_u = beta cos(F, A'_u) of each image's classes, at pixels.

    `text`: the embeddings of the classes that text names; a latent slot k is class len(text) + k.
    """
    scores = []
    for b, feature_Dhw in enumerate(exact(feature_BDhw)):
        of_image: dict[int, Array] = {}
        for c, (scale, embedding_D, cosine) in enumerate([(9.0, each, not dot) for each in text]):
            of_image[c] = np.zeros(GRID)
            for i, j in np.ndindex(GRID):
                vector_D = feature_Dhw[:, i, j]
                of_image[c][i, j] = scale * embedding_D @ (unit(vector_D) if cosine else vector_D)
        for k in latent[b]:
            embedding_D = unit(exact(answer_BKD[b, k]))
            at = of_image[len(text) + k] = np.zeros(GRID)
            for i, j in np.ndindex(GRID):
                at[i, j] = 5.0 * unit(feature_Dhw[:, i, j]) @ embedding_D
        scores.append({c: reference.bilinear(each, CROP) for c, each in of_image.items()})
    return scores


def slow_labels(batch: Batch, latent: list[list[int]], places: dict[int, int]) -> reference.Ints:
    """Y_p, at pixels; `places` of the labelled classes among those that text names."""
    assert batch.region_BHW is not None
    assert batch.local_id_BK is not None
    label_BHW = np.full((3, *CROP), VOID)
    for b, i, j in np.ndindex(3, *CROP):
        label, region = int(batch.label_BHW[b, i, j]), int(batch.region_BHW[b, i, j])
        if label != VOID:
            label_BHW[b, i, j] = places[label]
            continue
        for k in latent[b]:
            if region and int(batch.local_id_BK[b, k]) == 1000 + region:
                label_BHW[b, i, j] = len(places) + k
    return label_BHW


LATENT = [[3, 5], [], [0]]
"""Slots of the latent regions that each crop of the batch shows."""


@pytest.mark.parametrize("product", ["cosine", "dot"])
@pytest.mark.parametrize("void", ["negative", "masked"])
def test_a_batch_against_numpy(product: str, void: str) -> None:
    made, (feature_BDhw, batch) = Recorder(), batch_of()
    config = config_of(student={"logit_product": product}, objectives={"nel_void": void})
    losses, diagnostics = costs_of(feature_BDhw, batch, config, made)
    text = [exact(TEXT_CD[c]) for c in SEEN]
    scores = slow_scores(feature_BDhw, made.answer_BKD, LATENT, text, dot=product == "dot")
    label_BHW = slow_labels(batch, LATENT, {c: place for place, c in enumerate(SEEN)})
    assert set(np.unique(label_BHW)) == {0, 1, 2, 3 + 0, 3 + 3, 3 + 5, VOID}
    assert losses.keys() == {"cross_entropy", "nel"}
    expected = reference.cross_entropy(scores, label_BHW)
    assert losses["cross_entropy"].item() == pytest.approx(expected, rel=1e-4)
    expected = reference.nel(scores, label_BHW, masked=void == "masked")
    assert losses["nel"].item() == pytest.approx(expected, rel=1e-4)
    assert float(diagnostics["latent_classes"]) == 1.0


def test_all_known_classes_compete_if_asked_to() -> None:
    made, (feature_BDhw, batch) = Recorder(), batch_of()
    config = config_of("transductive", objectives={"unseen_logits": "competing"})
    losses, _ = costs_of(feature_BDhw, batch, config, made)
    scores = slow_scores(feature_BDhw, made.answer_BKD, LATENT, [exact(each) for each in TEXT_CD])
    label_BHW = slow_labels(batch, LATENT, {c: c for c in range(5)})
    expected = reference.cross_entropy(scores, label_BHW)
    assert losses["cross_entropy"].item() == pytest.approx(expected, rel=1e-4)
    expected = reference.nel(scores, label_BHW)
    assert losses["nel"].item() == pytest.approx(expected, rel=1e-4)


def test_an_image_alone_costs_what_it_costs_in_a_batch() -> None:
    # The others' latent classes get no probability, and empty slots count nowhere.
    made, (feature_BDhw, batch) = decoder(), batch_of()
    costs, pixels = [], []
    for b in range(3):
        assert batch.region_BHW is not None
        assert batch.token_BD is not None
        assert batch.local_BKD is not None
        assert batch.local_id_BK is not None
        alone = Batch(
            row_B=batch.row_B[b : b + 1],
            image_B3HW=batch.image_B3HW[b : b + 1],
            label_BHW=batch.label_BHW[b : b + 1],
            inside_BHW=batch.inside_BHW[b : b + 1],
            region_BHW=batch.region_BHW[b : b + 1],
            token_BD=batch.token_BD[b : b + 1],
            local_BKD=batch.local_BKD[b : b + 1],
            local_id_BK=batch.local_id_BK[b : b + 1],
        )
        losses, _ = costs_of(feature_BDhw[b : b + 1], alone, config_of(), made)
        costs.append(losses["cross_entropy"].item())
        label_BHW = slow_labels(batch, LATENT, {c: place for place, c in enumerate(SEEN)})
        pixels.append(int((label_BHW[b] != VOID).sum()))
    whole, _ = costs_of(feature_BDhw, batch, config_of(), made)
    expected = np.average(costs, weights=pixels)
    assert whole["cross_entropy"].item() == pytest.approx(expected, rel=1e-5)


def test_no_latent_region_anywhere_is_the_run_without() -> None:
    made, (feature_BDhw, batch) = decoder(), batch_of()
    assert batch.region_BHW is not None
    batch = replace(batch, region_BHW=torch.zeros_like(batch.region_BHW))
    losses, diagnostics = costs_of(feature_BDhw, batch, config_of(latent={"tie": 1.0}), made)
    without, _ = costs_of(feature_BDhw, batch, config_of(latent={"enabled": False}), made)
    for name, loss in without.items():
        torch.testing.assert_close(losses[name], loss)
    assert float(diagnostics["latent_classes"]) == 0
    total = losses["nel"] + losses["cross_entropy"]
    gradients = torch.autograd.grad(total, [*made.parameters(), feature_BDhw])
    assert all((gradient == 0).all() for gradient in gradients[:-1])
    assert torch.isfinite(gradients[-1]).all()


def test_nothing_is_labelled_and_no_mask_is_there() -> None:
    made, (feature_BDhw, batch) = decoder(), batch_of()
    assert batch.region_BHW is not None
    nothing = replace(
        batch,
        label_BHW=torch.full_like(batch.label_BHW, VOID),
        region_BHW=torch.zeros_like(batch.region_BHW),
    )
    config = config_of(
        objectives={"nel_void": "masked", "local_distillation": 1.0}, latent={"tie": 1.0}
    )
    losses, _ = costs_of(feature_BDhw, nothing, config, made)
    assert losses.keys() == {"cross_entropy", "nel", "tie", "local_distillation"}
    total = torch.stack([*losses.values()]).sum()
    gradients = torch.autograd.grad(total, [*made.parameters(), feature_BDhw])
    assert total.item() == 0
    assert all((gradient == 0).all() for gradient in gradients)


def test_the_decoder_learns() -> None:
    made, (feature_BDhw, batch) = decoder(), batch_of()
    for name in ("nel", "cross_entropy"):
        losses, _ = costs_of(feature_BDhw, batch, config_of(), made)
        gradients = torch.autograd.grad(losses[name], [*made.parameters()])
        assert all((gradient != 0).any() for gradient in gradients)
        assert all(torch.isfinite(gradient).all() for gradient in gradients)


def test_the_tie_of_a_batch() -> None:
    made, (feature_BDhw, batch) = Recorder(), batch_of()
    assert batch.local_id_BK is not None
    losses, _ = costs_of(feature_BDhw, batch, config_of(latent={"tie": 0.5}), made)
    terms = []
    for b, ids in enumerate(batch.local_id_BK.tolist()):
        for k, mask in enumerate(ids):
            if mask in SEEN and (batch.label_BHW[b, 1::2, 1::2] == mask).any():
                for c in SEEN:
                    logit = 9 * unit(exact(made.answer_BKD[b, k])) @ exact(TEXT_CD[c])
                    terms.append(np.log(1 + np.exp(-logit if c == mask else logit)))
    assert len(terms) == 4 * 3
    assert losses["tie"].item() == pytest.approx(np.mean(terms), rel=1e-4)


def test_the_decoder_is_no_part_of_the_student() -> None:
    sections = config_of(latent={"layers": 1}).model_dump()
    sections["student"] |= {
        "architecture": "fpn",
        "encoder": "tu-mobilenetv3_small_050",
        "weights": "none",
    }
    states = {}
    for enabled in (False, True):
        sections["latent"]["enabled"] = enabled
        states[enabled] = new_state(
            RunConfig.model_validate(sections),
            width=WIDTH,
            device=torch.device("cpu"),
            precision=torch.float32,
            weights=False,
        )
    assert states[False].decoder is None
    assert states[True].decoder is not None
    plain, latent = (states[each].student.state_dict() for each in (False, True))
    assert plain.keys() == latent.keys()
    assert all(torch.equal(plain[name], latent[name]) for name in plain)
