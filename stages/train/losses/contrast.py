"""Contrastive distillation (paper 2, section 3.2): each prototype has to find its token.

Every loss is a scalar in float32 with a gradient graph, also when nothing in the batch is valid:
then it is 0 and its gradients are 0. The paper prints Eq. 2 and 4 without the -log that makes them
losses, and as sums: here they are means, so that a weight means the same whatever the batch.

Legend: B batch, D CLIP width, K masks per image, P prototypes, M tokens.
"paper 2" is CLIP-to-Seg.
"""

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from zsseg.stages.data.spec import FIRST_REGION
from zsseg.stages.train.losses.pseudo_mask import CropMasks
from zsseg.stages.train.processes import gathered, processes


@dataclass(frozen=True)
class Bank:
    """CLS tokens of the last images, oldest first; those of the current step stand last."""

    token_MD: Tensor
    """float32."""
    row_M: Tensor
    """int64: the images they are of."""
    step: int = 0
    """How many tokens the current step brought, those of all processes."""


@dataclass(frozen=True)
class Pool:
    """The masks of all crops of a step, of all processes: the tokens to compare prototypes with."""

    token_MD: Tensor
    """float32."""
    id_M: Tensor
    """int64: as `CropMasks.id_BK`."""
    row_M: Tensor
    """int64: the images they are of."""
    visible_M: Tensor
    """bool."""


def empty_bank(width: int, device: torch.device) -> Bank:
    """The bank before the first step, of tokens with `width` numbers."""
    return Bank(torch.zeros(0, width, device=device), torch.zeros(0, dtype=torch.int64).to(device))


def enqueue(bank: Bank, token_BD: Tensor, row_B: Tensor, *, size: int) -> Bank:
    """The bank with the step's tokens (of all processes) appended and its oldest dropped.

    It holds `size` tokens (paper 2: 24), but never fewer than the step has: a positive must be
    among them. The given bank is not changed.
    """
    token_MD, row_M = gathered(token_BD.detach().float()), gathered(row_B)
    kept = max(size - len(row_M), 0)
    first = max(len(bank.row_M) - kept, 0)
    return Bank(
        torch.cat([bank.token_MD[first:], token_MD]),
        torch.cat([bank.row_M[first:], row_M]),
        step=len(row_M),
    )


def pool_of(id_BK: Tensor, visible_BK: Tensor, local_BKD: Tensor, row_B: Tensor) -> Pool:
    """The pool of a step from the whole batch of each process; all have equally many slots K."""
    return Pool(
        token_MD=gathered(local_BKD).flatten(0, 1),
        id_M=gathered(id_BK).flatten(),
        row_M=gathered(row_B.repeat_interleave(id_BK.shape[1])),
        visible_M=gathered(visible_BK).flatten(),
    )


def info_nce(
    prototype_PD: Tensor,
    token_MD: Tensor,
    *,
    positive_P: Tensor,
    candidate_PM: Tensor,
    counts_P: Tensor,
    tau: float,
) -> Tensor:
    """Mean over the prototypes that count of -log softmax(cos(f, c) / tau) at the positive token.

    The softmax is over the tokens that `candidate_PM` (bool) allows and the positive one, whose
    index is `positive_P` (int64); without any other, the loss is 0. `counts_P` (bool). The papers
    do not say that the products are cosines; their temperatures make sense for nothing else.
    """
    with torch.autocast(prototype_PD.device.type, enabled=False):
        token_DM = F.normalize(token_MD.float(), dim=1).T
        score_PM = F.normalize(prototype_PD.float(), dim=1) @ token_DM / tau
    allowed_PM = candidate_PM.scatter(1, positive_P[:, None], True)
    share_PM = score_PM.masked_fill(~allowed_PM, -torch.inf).log_softmax(1)
    loss_P = -share_PM.gather(1, positive_P[:, None])[:, 0]
    return torch.where(counts_P, loss_P, 0.0).sum() / counts_P.sum().clamp_min(1)


def global_distillation(
    pooled_BD: Tensor,
    row_B: Tensor,
    bank: Bank,
    *,
    tau: float,
    counts_B: Tensor | None = None,
    first: int | None = None,
) -> Tensor:
    """L_g (paper 2, Eq. 2): the attention-pooled feature finds the image's token in the bank.

    `pooled_BD` is the `objectives.attention_pool` of the feature by the image's token, and `bank`
    what `enqueue` gave for this step. Another token of the same image (an earlier crop, or an
    earlier epoch) is no negative. `counts_B` (bool): the images that count; None: all. `first`: the
    index of the first image among those of the step, counted over all processes; None: these are
    the whole batch of this process.
    """
    # The last tokens are the step's: those of process 0 first, and so on.
    first = processes()[0] * len(row_B) if first is None else first
    first += len(bank.row_M) - bank.step
    positive_B = torch.arange(first, first + len(row_B), device=row_B.device)
    if counts_B is None:
        counts_B = torch.ones_like(row_B, dtype=torch.bool)
    return info_nce(
        pooled_BD,
        bank.token_MD,
        positive_P=positive_B,
        candidate_PM=bank.row_M[None] != row_B[:, None],
        counts_P=counts_B,
        tau=tau,
    )


def local_distillation(
    masks: CropMasks,
    local_BKD: Tensor,
    row_B: Tensor,
    *,
    tau: float,
    negatives: Literal["image", "batch"],
    pool: Pool | None = None,
    first: int | None = None,
) -> Tensor:
    """L_l (paper 2, Eq. 4): the prototype of each visible mask finds the local token of its mask.

    `negatives`: the tokens of the other visible masks of the same crop, or those of all crops of
    the step; tokens of the same class, or of the same region in another crop of one image, are no
    negatives then. `pool`: the masks of the step; None: those given here are all. `first` as in
    `global_distillation`.
    """
    slots = masks.id_BK.shape[1]
    id_P, visible_P = masks.id_BK.flatten(), masks.visible_BK.flatten()
    # Regions are numbered image by image: between images equal numbers mean nothing.
    row_P = row_B.repeat_interleave(slots)
    if negatives == "image" or pool is None:
        pool, first = Pool(local_BKD.flatten(0, 1), id_P, row_P, visible_P), 0
    elif first is None:
        first = processes()[0] * len(row_B)
    positive_P = torch.arange(first * slots, first * slots + len(id_P), device=id_P.device)
    candidate_PM = id_P[:, None] != pool.id_M[None]
    if negatives == "image":
        crop_P = torch.arange(len(id_P), device=id_P.device) // slots
        candidate_PM = candidate_PM & (crop_P[:, None] == crop_P[None])
    else:
        other_PM = row_P[:, None] != pool.row_M[None]
        candidate_PM = candidate_PM | (other_PM & (id_P >= FIRST_REGION)[:, None])
    return info_nce(
        masks.prototype_BKD.flatten(0, 1),
        pool.token_MD,
        positive_P=positive_P,
        candidate_PM=candidate_PM & pool.visible_M[None],
        counts_P=visible_P,
        tau=tau,
    )
