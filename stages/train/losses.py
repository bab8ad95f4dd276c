"""What a batch costs: the configured losses of a student's features, by name.

Class scores are made on the feature grid, for the classes that take part, and only they are
upsampled to pixels.

Legend: B batch, C all classes, S seen classes, U unseen classes, D CLIP width, H W pixels of the
crop, h w feature grid, L = h * w.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from stages.data.spec import VOID, DatasetSpec
from stages.train.batches import Batch
from stages.train.config import RunConfig
from stages.train.objectives import (
    attention_pool,
    cross_entropy,
    focal,
    negative_log_likelihood,
    sdd,
)
from stages.train.self_training import pseudo_labels
from stages.train.student import class_logits


@dataclass(frozen=True)
class Classes:
    """The classes as training sees them, on the student's device."""

    text_CD: Tensor
    """float32, L2-normalised."""
    seen_S: Tensor
    """int64 class ids."""
    unseen_U: Tensor
    """int64 class ids."""
    place_of_seen: Tensor
    """int64, by class id: the place among the seen classes; VOID for an unseen class and VOID."""


def make_classes(spec: DatasetSpec, text_CD: Tensor, device: torch.device) -> Classes:
    """The class tensors of a data set."""
    place_of_seen = torch.full((VOID + 1,), VOID)
    place_of_seen[list(spec.seen_ids)] = torch.arange(len(spec.seen_ids))
    return Classes(
        text_CD=text_CD.to(device),
        seen_S=torch.tensor(spec.seen_ids, device=device),
        unseen_U=torch.tensor(spec.unseen_ids, dtype=torch.int64, device=device),
        place_of_seen=place_of_seen.to(device),
    )


def batch_losses(
    feature_BDhw: Tensor,
    batch: Batch,
    classes: Classes,
    config: RunConfig,
    *,
    self_training: bool,
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Unweighted scalar losses under their names in ObjectiveConfig, and diagnostics for the log.

    With `self_training`, unlabelled pixels get pseudo labels of unseen classes and all classes
    take part; before, unseen classes are left out of the scores unless they are `competing`. The
    crop is a whole number of feature cells (`student.check_crop`).
    """
    height, width = batch.label_BHW.shape[1:]
    grid = (feature_BDhw.shape[2], feature_BDhw.shape[3])
    assert height % grid[0] == 0
    assert width % grid[1] == 0
    objectives = config.objectives
    losses: dict[str, Tensor] = {}
    diagnostics: dict[str, Tensor] = {}
    if objectives.cross_entropy or objectives.focal:
        label_BHW = batch.label_BHW.long()
        if self_training or objectives.unseen_logits == "competing":
            text_CD = classes.text_CD
        else:
            text_CD = classes.text_CD[classes.seen_S]
            label_BHW = classes.place_of_seen[label_BHW]
        logits_BChw = class_logits(feature_BDhw, text_CD, config.student.logit_scale)
        if self_training:
            label_BHW, share = with_pseudo_labels(logits_BChw, batch, classes, config)
            diagnostics["pseudo_label_share"] = share
        logits_BCHW = F.interpolate(
            logits_BChw, size=(height, width), mode="bilinear", align_corners=False
        )
        nll_BHW = negative_log_likelihood(logits_BCHW, label_BHW)
        if objectives.cross_entropy:
            losses["cross_entropy"] = cross_entropy(nll_BHW, label_BHW)
        if objectives.focal:
            losses["focal"] = focal(nll_BHW, label_BHW, gamma=objectives.focal_gamma)
    if objectives.sdd:
        assert batch.token_BD is not None
        losses["sdd"] = sdd(
            feature_BDhw,
            batch.token_BD,
            classes.text_CD,
            tau_f=objectives.sdd_tau_f,
            tau_c=objectives.sdd_tau_c,
            normalise=objectives.sdd_normalise,
            inside_Bhw=nearest(batch.inside_BHW, grid),
        )
    return losses, diagnostics


def with_pseudo_labels(
    logits_BChw: Tensor, batch: Batch, classes: Classes, config: RunConfig
) -> tuple[Tensor, Tensor]:
    """Visible labels where there are any, else pseudo labels (paper 1, Algorithm 1, last step).

    Returns int64 labels (B, H, W), VOID where neither says anything, and the share of the
    unlabelled pixels within the images that got a pseudo label.
    """
    method = config.self_training.method
    assert method != "none"
    grid = (logits_BChw.shape[2], logits_BChw.shape[3])
    unlabelled_BHW = (batch.label_BHW == VOID) & batch.inside_BHW
    # `st` does not look at regions, and has none.
    region_BHW = batch.label_BHW if batch.region_BHW is None else batch.region_BHW
    pseudo_Bhw = pseudo_labels(
        logits_BChw,
        unlabelled_Bhw=nearest(unlabelled_BHW, grid),
        region_Bhw=nearest(region_BHW, grid),
        unseen_ids=classes.unseen_U,
        share=config.self_training.top_percent / 100,
        method=method,
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
