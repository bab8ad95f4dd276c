"""The table of losses, and of what the log shows beside them. A new loss is a new line of it.

Each is a mean over something. A step's batch may be dealt out to processes and cut into parts; a
mean over the whole is then the sum over the parts of
(mean of the part) * (count of the part) / (count of all parts), so the count stands beside it.

Legend: B batch, D CLIP width, K masks per image, H W pixels of the crop, h w feature grid, y x
token grid of the crop.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from zsseg.stages.data.spec import VOID
from zsseg.stages.train.losses.contrast import global_distillation, local_distillation
from zsseg.stages.train.losses.latent import text_tie
from zsseg.stages.train.losses.loss_inputs import ClassScores, LossInputs
from zsseg.stages.train.losses.nel import nel
from zsseg.stages.train.losses.objectives import (
    attention_entropy,
    attention_pool,
    cross_entropy,
    dense_distillation,
    dense_relation,
    focal,
    pixel_weights,
    sdd,
)
from zsseg.stages.train.losses.pseudo_mask import CropMasks


@dataclass(frozen=True)
class Term:
    """A scalar of a batch that is a mean over something."""

    name: str
    """Of a loss: the field of ObjectiveConfig (of LatentConfig: `tie`) that is its weight."""
    value: Callable[[LossInputs], Tensor]
    count: Callable[[LossInputs], Tensor]
    """How many things it is a mean over."""
    applies: Callable[[LossInputs], bool] = lambda _: True
    """Is it computed for these inputs? A loss with weight 0 never is."""
    smallest_count: float = 1.0
    """What the mean divides by at least."""


# --- what losses are means over -----------------------------------------------------------------


def _images(inputs: LossInputs) -> Tensor:
    return torch.tensor(len(inputs.batch.row_B), device=inputs.batch.row_B.device)


def _images_inside(inputs: LossInputs) -> Tensor:
    """Images with a position of the feature inside."""
    return _inside_B(inputs).sum()


def _labelled_pixels(inputs: LossInputs) -> Tensor:
    return (_scores(inputs).label_BHW != VOID).sum()


def _weighted_pixels(inputs: LossInputs) -> Tensor:
    """The weight of all labelled pixels together."""
    balance = inputs.objectives.cross_entropy_balance
    return pixel_weights(_scores(inputs).label_BHW, balance=balance).sum()


def _unlabelled_pixels(inputs: LossInputs) -> Tensor:
    """Pixels of the images that have no visible label."""
    return _unlabelled_BHW(inputs).sum()


def _shown_classes(inputs: LossInputs) -> Tensor:
    """(image, class) pairs with a pixel."""
    label_BHW = _scores(inputs).label_BHW
    shown_BC = torch.zeros(len(label_BHW), VOID + 1, device=label_BHW.device)
    return shown_BC.scatter_(1, label_BHW.flatten(1), 1.0)[:, :VOID].sum()


def _visible_masks(inputs: LossInputs) -> Tensor:
    return _masks(inputs).visible_BK.sum()


def _seen_masks(inputs: LossInputs) -> Tensor:
    """Visible masks of seen classes."""
    return (_seen_index_BK(inputs) != VOID).sum()


def _dense_weight(inputs: LossInputs) -> Tensor:
    """The weight of all tokens together."""
    assert inputs.batch.dense_BDyx is not None
    return (_weight_Byx(inputs) * (inputs.batch.dense_BDyx != 0).any(1)).sum()


# --- the losses, given what they look at --------------------------------------------------------


def _tie(inputs: LossInputs) -> Tensor:
    assert inputs.answer_BKD is not None
    text_SD = inputs.step.classes.text_CD[inputs.step.classes.seen_S]
    scale = inputs.step.config.student.logit_scale
    return text_tie(inputs.answer_BKD, _seen_index_BK(inputs), text_SD, scale=scale)


def _cross_entropy(inputs: LossInputs) -> Tensor:
    scores = _scores(inputs)
    balance = inputs.objectives.cross_entropy_balance
    return cross_entropy(scores.nll_BHW, scores.label_BHW, balance=balance)


def _focal(inputs: LossInputs) -> Tensor:
    scores = _scores(inputs)
    return focal(scores.nll_BHW, scores.label_BHW, gamma=inputs.objectives.focal_gamma)


def _nel(inputs: LossInputs) -> Tensor:
    scores, objectives = _scores(inputs), inputs.objectives
    return nel(
        scores.logits_BChw,
        scores.label_BHW,
        focal_weight=objectives.nel_focal,
        dice_weight=objectives.nel_dice,
        void=objectives.nel_void,
    )


def _sdd(inputs: LossInputs) -> Tensor:
    assert inputs.batch.token_BD is not None
    objectives = inputs.objectives
    return sdd(
        inputs.feature_BDhw,
        inputs.batch.token_BD,
        inputs.step.classes.text_CD,
        tau_f=objectives.sdd_tau_f,
        tau_c=objectives.sdd_tau_c,
        normalise=objectives.pool_normalise,
        inside_Bhw=inputs.inside_Bhw,
    )


def _global_distillation(inputs: LossInputs) -> Tensor:
    assert inputs.batch.token_BD is not None
    pooled_BD, _ = attention_pool(
        inputs.feature_BDhw,
        inputs.batch.token_BD,
        inside_Bhw=inputs.inside_Bhw,
        normalise=inputs.objectives.pool_normalise,
    )
    return global_distillation(
        pooled_BD,
        inputs.batch.row_B,
        inputs.step.bank,
        tau=inputs.objectives.global_tau,
        counts_B=_inside_B(inputs),
        first=inputs.first,
    )


def _local_distillation(inputs: LossInputs) -> Tensor:
    assert inputs.batch.local_BKD is not None
    return local_distillation(
        _masks(inputs),
        inputs.batch.local_BKD,
        inputs.batch.row_B,
        tau=inputs.objectives.local_tau,
        negatives=inputs.objectives.local_negatives,
        pool=inputs.step.pool,
        first=inputs.first,
    )


def _dense(inputs: LossInputs) -> Tensor:
    assert inputs.batch.dense_BDyx is not None
    return dense_distillation(inputs.feature_BDhw, inputs.batch.dense_BDyx, _weight_Byx(inputs))


def _dense_relation(inputs: LossInputs) -> Tensor:
    assert inputs.batch.dense_BDyx is not None
    return dense_relation(
        inputs.feature_BDhw,
        inputs.batch.dense_BDyx,
        _weight_Byx(inputs),
        tau=inputs.objectives.dense_relation_tau,
    )


def _ties_classes(inputs: LossInputs) -> bool:
    return inputs.answer_BKD is not None and len(inputs.step.classes.seen_S) > 0


def _scores_classes(inputs: LossInputs) -> bool:
    return inputs.scores is not None


OBJECTIVES = (
    Term("tie", _tie, _seen_masks, applies=_ties_classes),
    Term("cross_entropy", _cross_entropy, _weighted_pixels, applies=_scores_classes),
    Term("focal", _focal, _labelled_pixels, applies=_scores_classes),
    Term("nel", _nel, _shown_classes, applies=_scores_classes),
    Term("sdd", _sdd, _images_inside),
    Term("global_distillation", _global_distillation, _images_inside),
    Term("local_distillation", _local_distillation, _visible_masks),
    # The weights of cells are fractions.
    Term("dense", _dense, _dense_weight, smallest_count=1e-6),
    Term("dense_relation", _dense_relation, _dense_weight, smallest_count=1e-6),
)
"""Every loss, in the order in which they are computed and added up."""


# --- what the log shows beside them -------------------------------------------------------------


def _pseudo_label_share(inputs: LossInputs) -> Tensor:
    """Share of the unlabelled pixels that have a pseudo label."""
    unlabelled_BHW = _unlabelled_BHW(inputs)
    named_BHW = (_scores(inputs).label_BHW != VOID) & unlabelled_BHW
    return named_BHW.sum() / unlabelled_BHW.sum().clamp_min(1)


def _latent_classes(inputs: LossInputs) -> Tensor:
    """Latent classes that an image shows."""
    return _masks(inputs).latent_BK.sum(1).float().mean()


def _attention_entropy(inputs: LossInputs) -> Tensor:
    assert inputs.batch.token_BD is not None
    return attention_entropy(
        inputs.feature_BDhw,
        inputs.batch.token_BD,
        inputs.inside_Bhw,
        normalise=inputs.objectives.pool_normalise,
    )


def _pools_by_attention(inputs: LossInputs) -> bool:
    objectives = inputs.objectives
    return inputs.step.logs and bool(objectives.sdd or objectives.global_distillation)


DIAGNOSTICS = (
    Term(
        "pseudo_label_share",
        _pseudo_label_share,
        _unlabelled_pixels,
        applies=lambda inputs: inputs.scores is not None and inputs.step.source is not None,
    ),
    Term(
        "latent_classes",
        _latent_classes,
        _images,
        applies=lambda inputs: inputs.answer_BKD is not None,
    ),
    Term("attention_entropy", _attention_entropy, _images, applies=_pools_by_attention),
)
"""Values that are only logged, not trained on."""


def _scores(inputs: LossInputs) -> ClassScores:
    assert inputs.scores is not None
    return inputs.scores


def _masks(inputs: LossInputs) -> CropMasks:
    assert inputs.masks is not None
    return inputs.masks


def _inside_B(inputs: LossInputs) -> Tensor:
    """bool: has the image a position inside?"""
    return inputs.inside_Bhw.flatten(1).any(1)


def _unlabelled_BHW(inputs: LossInputs) -> Tensor:
    return (inputs.batch.label_BHW == VOID) & inputs.batch.inside_BHW


def _seen_index_BK(inputs: LossInputs) -> Tensor:
    """int64: the index among the seen classes of each visible mask of one; VOID: any other."""
    masks = _masks(inputs)
    id_BK = torch.where(masks.visible_BK & (masks.id_BK < VOID), masks.id_BK, VOID)
    return inputs.step.classes.seen_index[id_BK]


def _weight_Byx(inputs: LossInputs) -> Tensor:
    """float32: share of each dense token's cell that dense distillation looks at."""
    batch = inputs.batch
    assert batch.dense_BDyx is not None
    looked_at_BHW = batch.inside_BHW
    if inputs.objectives.dense_pixels == "unlabelled":
        looked_at_BHW = looked_at_BHW & (batch.label_BHW == VOID)
    grid = (batch.dense_BDyx.shape[2], batch.dense_BDyx.shape[3])
    return F.adaptive_avg_pool2d(looked_at_BHW[:, None].float(), grid)[:, 0]
