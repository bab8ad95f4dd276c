"""Over how much each loss of a batch is a mean, so that the losses of parts make that of the whole.

A step's batch may be dealt out to processes and cut into parts; a mean over the whole is then the
sum over the parts of (mean of the part) * (count of the part) / (count of all parts).

Legend: B batch, H W pixels, h w feature grid, y x token grid of the crop, K masks per image.
"""

import torch
from torch import Tensor

from zsseg.stages.data.spec import VOID
from zsseg.stages.train.batches.batch import Batch
from zsseg.stages.train.batches.known_classes import Classes
from zsseg.stages.train.losses.batch_losses import Targets, dense_weight, nearest
from zsseg.stages.train.run_config import RunConfig

_SMALLEST = {"dense": 1e-6}
"""What a mean divides by at least, where that is not 1: weights of cells are fractions."""


def counts_of(
    batch: Batch,
    targets: Targets,
    classes: Classes,
    config: RunConfig,
    *,
    grid: tuple[int, int],
) -> dict[str, Tensor]:
    """How many things each loss and diagnostic of a batch is a mean over, by name.

    Labelled pixels for cross-entropy and focal loss, (image, class) pairs with a pixel for NEL,
    images with a position inside for SDD and global distillation, visible masks for local
    distillation and visible masks of seen classes for the tie, the weight of the tokens for dense
    distillation. Scalars on the batch's device; `grid` is the feature's (h, w).
    """
    objectives = config.objectives
    images = torch.tensor(len(batch.row_B), device=batch.row_B.device)
    counts = {"latent_classes": images, "attention_entropy": images}
    if targets.label_BHW is not None:
        label_BHW = targets.label_BHW
        counts["cross_entropy"] = counts["focal"] = (label_BHW != VOID).sum()
        counts["pseudo_label_share"] = ((batch.label_BHW == VOID) & batch.inside_BHW).sum()
        if objectives.nel:
            shown_BC = torch.zeros(len(label_BHW), VOID + 1, device=label_BHW.device)
            counts["nel"] = shown_BC.scatter_(1, label_BHW.flatten(1), 1.0)[:, :VOID].sum()
    inside_Bhw = nearest(batch.inside_BHW, grid)
    counts["sdd"] = counts["global_distillation"] = inside_Bhw.flatten(1).any(1).sum()
    if (masks := targets.masks) is not None:
        counts["local_distillation"] = masks.visible_BK.sum()
        class_BK = torch.where(masks.visible_BK & (masks.id_BK < VOID), masks.id_BK, VOID)
        counts["tie"] = (classes.place_of_seen[class_BK] != VOID).sum()
    if objectives.dense:
        assert batch.dense_BDyx is not None
        there_Byx = (batch.dense_BDyx != 0).any(1)
        counts["dense"] = (dense_weight(batch, config) * there_Byx).sum()
    return counts


def share(name: str, part: Tensor, whole: Tensor) -> Tensor:
    """What a mean over a part has to be multiplied by to be the part's share in that over all.

    A count of 0 is taken as the mean takes it: as the smallest number that it divides by.
    """
    smallest = _SMALLEST.get(name, 1.0)
    # Exact also for the pixels of a large batch, which float32 cannot count one by one.
    quotient = part.double().clamp_min(smallest) / whole.double().clamp_min(smallest)
    return quotient.float()
