"""No loss asks the device for a number: a GPU would have to finish all its work to answer."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from helpers.losses_of import losses_of
from helpers.no_answers import NoAnswers
from torch import Tensor
from torch.nn import functional as F

from zsseg.stages.data.spec import FIRST_REGION, VOID, DatasetSpec
from zsseg.stages.train.batches.batch import Batch, cut_to_crops
from zsseg.stages.train.batches.known_classes import KnownClasses, make_classes
from zsseg.stages.train.losses.contrast import empty_bank, enqueue
from zsseg.stages.train.losses.latent import LatentDecoder
from zsseg.stages.train.run_config import RunConfig

SPEC = DatasetSpec(
    name="five", layout="camvid", classes=("a", "b", "c", "d", "e"), unseen=("b", "e")
)
WIDTH, GRID, CROP, SLOTS = 8, (4, 5), (16, 20), 4


@pytest.mark.parametrize(
    "ask",
    [
        lambda tensor: tensor.sum().item(),
        lambda tensor: bool(tensor.any()),
        lambda tensor: tensor[tensor > 0],
        lambda tensor: tensor.nonzero(),
        lambda tensor: tensor.clone().index_put_((tensor > 0,), torch.zeros(())),
        lambda tensor: tensor.unique(),
        lambda tensor: tensor.masked_select(tensor > 0),
    ],
)
def test_the_guard_sees_who_asks(ask: Any) -> None:
    with NoAnswers(), pytest.raises(AssertionError):
        ask(torch.tensor([1.0, -1.0, 2.0]))


def inputs() -> tuple[Tensor, Batch, KnownClasses]:
    rng = np.random.default_rng(0)
    label_Bhw = rng.choice([0, 2, 3, VOID, VOID], (2, *GRID)).astype(np.uint8)
    region_Bhw = np.where(label_Bhw == VOID, rng.integers(0, 3, label_Bhw.shape), 0)
    label_BHW = np.kron(label_Bhw, np.ones((1, 4, 4), np.uint8))
    region_BHW = np.kron(region_Bhw.astype(np.uint8), np.ones((1, 4, 4), np.uint8))
    inside_BHW = np.ones((2, *CROP), bool)
    inside_BHW[1, 12:] = False
    id_BK = torch.tensor([[0, 2, FIRST_REGION + 1, -1], [3, FIRST_REGION + 1, FIRST_REGION + 2, 0]])
    batch = Batch(
        row_B=torch.arange(2),
        image_B3HW=torch.zeros(2, 3, *CROP),
        label_BHW=torch.from_numpy(label_BHW),
        inside_BHW=torch.from_numpy(inside_BHW),
        region_BHW=torch.from_numpy(region_BHW),
        token_BD=torch.randn(2, WIDTH),
        local_id_BK=id_BK,
        local_BKD=F.normalize(torch.randn(2, SLOTS, WIDTH), dim=2),
        dense_BDyx=F.normalize(torch.randn(2, WIDTH, 2, 5), dim=1),
    )
    text_CD = F.normalize(torch.randn(5, WIDTH), dim=1)
    made = make_classes(SPEC, text_CD, torch.device("cpu"), protocol="transductive")
    return torch.randn(2, WIDTH, *GRID, requires_grad=True), batch, made


def test_nor_does_what_cuts_regions_and_tokens_to_the_crops() -> None:
    _, batch, _ = inputs()
    row_BH, column_BW = (torch.arange(side).expand(2, -1) // 8 for side in CROP)
    batch = replace(
        batch,
        region_BHW=None,
        dense_BDyx=None,
        image_region_Bhw=torch.ones(2, 4, 6, dtype=torch.uint8),
        row_BH=row_BH,
        column_BW=column_BW,
        image_dense_BDhw=torch.randn(2, WIDTH, 4, 6).half(),
        down_Byh=torch.rand(2, 2, 4),
        across_Bxw=torch.rand(2, 5, 6),
    )
    with NoAnswers():
        cut = cut_to_crops(batch)
    assert cut.region_BHW is not None
    assert torch.equal(cut.region_BHW.bool(), batch.inside_BHW)
    assert cut.dense_BDyx is not None
    assert cut.dense_BDyx.shape == (2, WIDTH, 2, 5)


@pytest.mark.parametrize("source", [None, "student", "ema", "teacher"])
@pytest.mark.parametrize("method", ["st", "rst"])
@pytest.mark.parametrize("confidence", ["score", "margin"])
@pytest.mark.parametrize("void", ["negative", "masked"])
@pytest.mark.parametrize("negatives", ["image", "batch"])
def test_no_loss_waits_for_the_device(
    source: Any, method: str, confidence: str, void: str, negatives: str
) -> None:
    torch.manual_seed(0)
    feature, batch, made = inputs()
    config = RunConfig.model_validate(
        {
            "objectives": {
                "cross_entropy": 1.0,
                "focal": 1.0,
                "nel": 1.0,
                "nel_void": void,
                "sdd": 1.0,
                "global_distillation": 1.0,
                "local_distillation": 1.0,
                "local_negatives": negatives,
                "dense": 1.0,
                "dense_pixels": "unlabelled",
                "dense_stride": 4,
            },
            "latent": {"enabled": True, "tie": 1.0, "heads": 2, "layers": 1},
            "self_training": {"method": method, "confidence": confidence, "source": "ema"},
        }
    )
    decoder = LatentDecoder(WIDTH, config.latent)
    token_BD = batch.token_BD
    assert token_BD is not None
    bank = enqueue(empty_bank(WIDTH, torch.device("cpu")), token_BD, batch.row_B, size=4)
    # The next step's, with tokens of the last one in the bank.
    batch = replace(batch, row_B=batch.row_B + 2)
    average = torch.randn(2, WIDTH, *GRID)
    with NoAnswers():
        bank = enqueue(bank, token_BD, batch.row_B, size=4)
        losses, diagnostics = losses_of(
            feature,
            batch,
            made,
            config,
            source=source,
            average_BDhw=average,
            decoder=decoder,
            bank=bank,
        )
        torch.stack(list(losses.values())).sum().backward()
    assert len(losses) == (8 if source is None else 7)
    assert all(bool(torch.isfinite(value)) for value in [*losses.values(), *diagnostics.values()])
    assert feature.grad is not None
    assert (feature.grad != 0).any()
