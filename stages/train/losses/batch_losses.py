"""What a batch costs: the configured losses of a student's features, by name.

Class scores are made on the feature grid, for the classes that take part, and only they are
upsampled to pixels, a strip of rows at a time (`strips.py`).

Legend: B batch, C known classes, S seen classes, D CLIP width, K masks per image,
H W pixels of the crop, h w feature grid, y x token grid of the crop, L = h * w.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zsseg.stages.data.spec import VOID
from zsseg.stages.train.batches.batch import Batch
from zsseg.stages.train.batches.known_classes import Classes
from zsseg.stages.train.losses.contrast import Bank, Pool, global_distillation, local_distillation
from zsseg.stages.train.losses.latent import (
    LEFT_OUT,
    latent_embeddings,
    text_tie,
    with_latent_classes,
)
from zsseg.stages.train.losses.likelihood import negative_log_likelihood
from zsseg.stages.train.losses.nel import nel
from zsseg.stages.train.losses.objectives import (
    attention_pool,
    cross_entropy,
    dense_distillation,
    focal,
    sdd,
)
from zsseg.stages.train.losses.pseudo_mask import Masks, mask_codes, masks_of
from zsseg.stages.train.losses.self_training import pseudo_labels
from zsseg.stages.train.method_config import Source
from zsseg.stages.train.run_config import RunConfig
from zsseg.stages.train.students.student import class_logits


@dataclass(frozen=True)
class Targets:
    """What the losses of a batch compared its features with."""

    label_BHW: Tensor | None
    """int64: places among the scores, pseudo labels and latent classes included; VOID: none."""
    masks: Masks | None


def batch_losses(
    feature_BDhw: Tensor,
    batch: Batch,
    classes: Classes,
    config: RunConfig,
    *,
    source: Source | None,
    average_BDhw: Tensor | None = None,
    decoder: nn.Module | None = None,
    bank: Bank | None = None,
    pool: Pool | None = None,
    first: int | None = None,
) -> tuple[dict[str, Tensor], dict[str, Tensor], Targets]:
    """Unweighted scalar losses under their names in the configuration, diagnostics, and targets.

    With a `source`, unlabelled pixels get its pseudo labels of unseen classes and all classes take
    part; before, unseen classes are left out of the scores unless they are `competing`, and latent
    regions are classes of their own where `latent.enabled`. Source `ema` needs the averaged
    student's feature, latent classes need the decoder, global distillation needs the bank with this
    step's tokens. `pool` and `first` as in `contrast`, where the batch is a part of a step. The
    crop is a whole number of feature cells (`student.check_crop`).
    """
    grid = (feature_BDhw.shape[2], feature_BDhw.shape[3])
    assert all(
        side % cells == 0 for side, cells in zip(batch.label_BHW.shape[1:], grid, strict=True)
    )
    masks = None
    if config.uses_local:
        assert batch.region_BHW is not None
        assert batch.local_id_BK is not None
        code_BHW = mask_codes(batch.label_BHW, batch.region_BHW)
        masks = masks_of(feature_BDhw, nearest(code_BHW, grid), batch.local_id_BK)
    losses: dict[str, Tensor] = {}
    diagnostics: dict[str, Tensor] = {}
    label_BHW: Tensor | None = None
    if config.learns_labels and source is not None:
        scores_of = {"student": feature_BDhw, "ema": average_BDhw, "teacher": batch.dense_BDyx}
        scores_from_BDhw = scores_of[source]
        assert scores_from_BDhw is not None
        logits_BChw = _logits(feature_BDhw, classes.text_CD, config)
        score_BChw = logits_BChw.detach()
        if source != "student":
            score_BChw = _logits(scores_from_BDhw, classes.text_CD, config).detach()
        label_BHW, share = with_pseudo_labels(_at(score_BChw, grid), batch, classes, config)
        losses |= label_losses(logits_BChw, label_BHW, config)
        diagnostics["pseudo_label_share"] = share
    elif config.learns_labels:
        text_CD, label_BHW = classes.text_CD, batch.label_BHW.long()
        if config.objectives.unseen_logits == "suppressed":
            text_CD, label_BHW = text_CD[classes.seen_S], classes.place_of_seen[label_BHW]
        logits_BChw = _logits(feature_BDhw, text_CD, config)
        if config.latent.enabled:
            assert masks is not None
            assert decoder is not None
            assert batch.region_BHW is not None
            latent_BKhw, tie = _latent(feature_BDhw, batch, classes, masks, decoder, config)
            losses |= {} if tie is None else {"tie": tie}
            label_BHW = with_latent_classes(
                label_BHW, batch.region_BHW, masks, first=logits_BChw.shape[1]
            )
            logits_BChw = torch.cat([logits_BChw, latent_BKhw], dim=1)
            diagnostics["latent_classes"] = masks.latent_BK.sum(1).float().mean()
        losses |= label_losses(logits_BChw, label_BHW, config)
    losses |= distillation_losses(
        feature_BDhw, batch, classes, config, masks=masks, bank=bank, pool=pool, first=first
    )
    return losses, diagnostics, Targets(label_BHW, masks)


def label_losses(logits_BChw: Tensor, label_BHW: Tensor, config: RunConfig) -> dict[str, Tensor]:
    """The losses that look at labels: int64 places among the C scores, VOID where there is none."""
    objectives = config.objectives
    losses = {}
    if objectives.cross_entropy or objectives.focal:
        nll_BHW = negative_log_likelihood(logits_BChw, label_BHW)
        if objectives.cross_entropy:
            losses["cross_entropy"] = cross_entropy(nll_BHW, label_BHW)
        if objectives.focal:
            losses["focal"] = focal(nll_BHW, label_BHW, gamma=objectives.focal_gamma)
    if objectives.nel:
        losses["nel"] = nel(
            logits_BChw,
            label_BHW,
            focal_weight=objectives.nel_focal,
            dice_weight=objectives.nel_dice,
            void=objectives.nel_void,
        )
    return losses


def distillation_losses(
    feature_BDhw: Tensor,
    batch: Batch,
    classes: Classes,
    config: RunConfig,
    *,
    masks: Masks | None,
    bank: Bank | None,
    pool: Pool | None,
    first: int | None,
) -> dict[str, Tensor]:
    """The losses that look at CLIP's tokens."""
    objectives = config.objectives
    inside_Bhw = nearest(batch.inside_BHW, (feature_BDhw.shape[2], feature_BDhw.shape[3]))
    losses = {}
    if objectives.sdd:
        assert batch.token_BD is not None
        losses["sdd"] = sdd(
            feature_BDhw,
            batch.token_BD,
            classes.text_CD,
            tau_f=objectives.sdd_tau_f,
            tau_c=objectives.sdd_tau_c,
            normalise=objectives.pool_normalise,
            inside_Bhw=inside_Bhw,
        )
    if objectives.global_distillation:
        assert batch.token_BD is not None
        assert bank is not None
        losses["global_distillation"] = global_distillation(
            feature_BDhw,
            batch.token_BD,
            batch.row_B,
            bank,
            tau=objectives.global_tau,
            normalise=objectives.pool_normalise,
            inside_Bhw=inside_Bhw,
            first=first,
        )
    if objectives.local_distillation:
        assert masks is not None
        assert batch.local_BKD is not None
        losses["local_distillation"] = local_distillation(
            masks,
            batch.local_BKD,
            batch.row_B,
            tau=objectives.local_tau,
            negatives=objectives.local_negatives,
            pool=pool,
            first=first,
        )
    if objectives.dense:
        assert batch.dense_BDyx is not None
        weight_Byx = dense_weight(batch, config)
        losses["dense"] = dense_distillation(feature_BDhw, batch.dense_BDyx, weight_Byx)
    return losses


def dense_weight(batch: Batch, config: RunConfig) -> Tensor:
    """(B, y, x) float32: share of each token's cell that dense distillation looks at."""
    assert batch.dense_BDyx is not None
    looked_at_BHW = batch.inside_BHW
    if config.objectives.dense_pixels == "unlabelled":
        looked_at_BHW = looked_at_BHW & (batch.label_BHW == VOID)
    grid = (batch.dense_BDyx.shape[2], batch.dense_BDyx.shape[3])
    return F.adaptive_avg_pool2d(looked_at_BHW[:, None].float(), grid)[:, 0]


def _latent(
    feature_BDhw: Tensor,
    batch: Batch,
    classes: Classes,
    masks: Masks,
    decoder: nn.Module,
    config: RunConfig,
) -> tuple[Tensor, Tensor | None]:
    """Scores X_u (B, K, h, w) of the latent classes, LEFT_OUT where there is none, and the tie."""
    assert batch.token_BD is not None
    assert batch.local_BKD is not None
    answer_BKD = latent_embeddings(
        decoder, masks, batch.token_BD, batch.local_BKD, all_masks=config.latent.tie > 0
    )
    score_BKhw = class_logits(feature_BDhw, F.normalize(answer_BKD, dim=2), config.latent.beta)
    score_BKhw = score_BKhw.masked_fill(~masks.latent_BK[:, :, None, None], LEFT_OUT)
    if config.latent.tie == 0:
        return score_BKhw, None
    id_BK = torch.where(masks.visible_BK & (masks.id_BK < VOID), masks.id_BK, VOID)
    place_BK = classes.place_of_seen[id_BK]
    scale = config.student.logit_scale
    return score_BKhw, text_tie(answer_BKD, place_BK, classes.text_CD[classes.seen_S], scale=scale)


def _logits(feature_BDhw: Tensor, text_CD: Tensor, config: RunConfig) -> Tensor:
    student = config.student
    return class_logits(feature_BDhw, text_CD, student.logit_scale, student.logit_product)


def _at(score_BChw: Tensor, size: tuple[int, int]) -> Tensor:
    """The scores at another resolution, bilinear."""
    if score_BChw.shape[2:] == size:
        return score_BChw
    return F.interpolate(score_BChw, size=size, mode="bilinear", align_corners=False)


def with_pseudo_labels(
    score_BChw: Tensor, batch: Batch, classes: Classes, config: RunConfig
) -> tuple[Tensor, Tensor]:
    """Visible labels where there are any, else pseudo labels (paper 1, Algorithm 1, last step).

    `score_BChw` are the scores of all classes that name the pixels. Returns int64 labels (B, H, W),
    VOID where neither says anything, and the share of the unlabelled pixels within the images that
    got a pseudo label.
    """
    method = config.self_training.method
    assert method != "none"
    grid = (score_BChw.shape[2], score_BChw.shape[3])
    unlabelled_BHW = (batch.label_BHW == VOID) & batch.inside_BHW
    # `st` does not look at regions, and has none.
    region_BHW = batch.label_BHW if batch.region_BHW is None else batch.region_BHW
    pseudo_Bhw = pseudo_labels(
        score_BChw,
        unlabelled_Bhw=nearest(unlabelled_BHW, grid),
        region_Bhw=nearest(region_BHW, grid),
        unseen_ids=classes.unseen_U,
        share=config.self_training.top_percent / 100,
        method=method,
        confidence=config.self_training.confidence,
    )
    pseudo_BHW = nearest(pseudo_Bhw, (batch.label_BHW.shape[1], batch.label_BHW.shape[2]))
    pseudo_BHW = torch.where(unlabelled_BHW, pseudo_BHW, VOID)
    share = (pseudo_BHW != VOID).sum() / unlabelled_BHW.sum().clamp_min(1)
    return torch.where(unlabelled_BHW, pseudo_BHW, batch.label_BHW.long()), share


def nearest(map_BHW: Tensor, size: tuple[int, int]) -> Tensor:
    """A map at another resolution: each new cell shows the old one that its centre falls into."""
    row, column = (
        # floor((i + 1/2) * old / new), in whole numbers.
        (2 * torch.arange(new, device=map_BHW.device) + 1) * old // (2 * new)
        for old, new in zip(map_BHW.shape[1:], size, strict=True)
    )
    return map_BHW[:, row[:, None], column]


@torch.no_grad()
def attention_entropy(feature_BDhw: Tensor, batch: Batch, *, normalise: bool) -> Tensor:
    """Entropy of the attention weights of SDD, as a share of the largest possible, mean of images.

    1: SDD pools by the plain mean; near 0: from a single position.
    """
    assert batch.token_BD is not None
    grid = (feature_BDhw.shape[2], feature_BDhw.shape[3])
    inside_Bhw = nearest(batch.inside_BHW, grid)
    _, weight_BL = attention_pool(
        feature_BDhw, batch.token_BD, inside_Bhw=inside_Bhw, normalise=normalise
    )
    entropy_B = torch.special.entr(weight_BL).sum(1)
    largest_B = inside_Bhw.flatten(1).sum(1).clamp_min(2).log()
    share: Tensor = (entropy_B / largest_B).mean()
    return share
