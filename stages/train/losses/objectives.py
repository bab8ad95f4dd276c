"""Losses of stage two: pure functions of named tensors; no configuration, device or log inside.

Every loss is a scalar in float32 with a gradient graph, also when nothing in the batch is valid:
then it is 0 and its gradients are 0. The contrastive losses (global
and local distillation) are in `contrast.py`, NEL in `nel.py`, the BCE tie in `latent.py`;
`likelihood.py` has the pass that cross-entropy and focal loss share.

Legend: B batch, C classes, D CLIP width, h w feature grid, L = h * w positions, H W pixels,
y x cells of the token grid.
"paper 1" is SDD + RST, "paper 2" CLIP-to-Seg.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from zsseg.stages.best_names import best_names, name_rows
from zsseg.stages.data.spec import VOID
from zsseg.stages.train.students.similarity import attention


def cross_entropy(nll_BHW: Tensor, label_BHW: Tensor, *, balance: float = 0.0) -> Tensor:
    """Softmax cross-entropy, mean over the labelled pixels of the batch (paper 1, L_seg).

    `nll_BHW` is the `likelihood.negative_log_likelihood` of `label_BHW`. With `balance` the mean is
    weighted by `pixel_weights`. [ours]
    """
    weight_BHW = pixel_weights(label_BHW, balance=balance)
    return (nll_BHW * weight_BHW).sum() / weight_BHW.sum().clamp_min(1)


def pixel_weights(label_BHW: Tensor, *, balance: float) -> Tensor:
    """(B, H, W) weight n^-balance of each labelled pixel, n the pixels of its class in its image.

    0 where VOID. Balance 0: every labelled pixel counts 1; 1: every class of an image counts as
    much as every other, however little of the image it covers. A weight depends on its own image
    alone, so the mean of a batch can be put together from those of its parts. [ours]
    """
    if balance == 0:
        return label_BHW != VOID
    label_BL = label_BHW.flatten(1)
    size_BC = torch.zeros(len(label_BL), VOID + 1, device=label_BL.device)
    size_BC.scatter_add_(1, label_BL, torch.ones_like(label_BL, dtype=torch.float32))
    weight_BL = size_BC.gather(1, label_BL).clamp_min(1) ** -balance
    return torch.where(label_BL == VOID, 0.0, weight_BL).view_as(label_BHW)


def focal(nll_BHW: Tensor, label_BHW: Tensor, *, gamma: float) -> Tensor:
    """Softmax focal loss, mean over the labelled pixels of the batch (paper 1, L_seg).

    Lin et al., Eq. 4: (1 - p_t)^gamma (-log p_t), with p_t the softmax probability of the pixel's
    class; gamma = 0 is the cross-entropy. Lin et al. use one sigmoid per class; here logits are a
    scaled cosine without a bias and CLIP's texts are all alike (cosines of .6 to .9), so
    independent sigmoids start and stay saturated. Their alpha weighs positives against negatives,
    of which a softmax has none: it would only be a factor. `nll_BHW` is the
    `likelihood.negative_log_likelihood` of `label_BHW`.
    """
    # Bounded below, or the gradient of a small power of 0 would be infinite at p_t = 1.
    weight_BHW = (-torch.expm1(-nll_BHW)).clamp_min(1e-6) ** gamma
    return (weight_BHW * nll_BHW).sum() / (label_BHW != VOID).sum().clamp_min(1)


def dense_distillation(feature_BDhw: Tensor, dense_BDyx: Tensor, weight_Byx: Tensor) -> Tensor:
    """1 - cosine of the feature's mean over each cell and CLIP's dense token there. [ours]

    Mean over the cells of the batch, each with its weight (0 to 1; float32). A cell whose token is
    0 counts nothing. The token is compared with the mean of a cell, not with every position: a
    student that resolves more than the teacher may keep what it sees within a cell.
    """
    grid = (dense_BDyx.shape[2], dense_BDyx.shape[3])
    pooled_BDyx = F.adaptive_avg_pool2d(feature_BDhw, grid)
    cosine_Byx = F.cosine_similarity(pooled_BDyx.float(), dense_BDyx, dim=1, eps=1e-6)
    weight_Byx = weight_Byx * (dense_BDyx != 0).any(1)
    return ((1 - cosine_Byx) * weight_Byx).sum() / weight_Byx.sum().clamp_min(1e-6)


def dense_relation(
    feature_BDhw: Tensor, dense_BDyx: Tensor, weight_Byx: Tensor, *, tau: float
) -> Tensor:
    """How alike the feature is to every token of its crop, as CLIP's own token there is. [ours]

    SEED's similarity distillation (Fang et al., ICLR 2021) with the crop's dense tokens
    in place of a queue: with L2-normalised tokens t and means of the feature f over cells,
    P_n = softmax over m of (t_n . t_m / tau), Q_n = softmax over m of (f_n . t_m / tau), loss
    KL(P_n || Q_n), a mean over the cells n of the batch, each with its weight (0 to 1; float32).
    Tokens of a street are all alike (cosines of 0.9), so a cosine is nearly blind for what sets
    pavement apart from road; a small tau is not. A cell whose token is 0 is neither n nor m, one of
    weight 0 is no n.
    """
    grid = (dense_BDyx.shape[2], dense_BDyx.shape[3])
    with torch.autocast(feature_BDhw.device.type, enabled=False):
        pooled_BND = F.adaptive_avg_pool2d(feature_BDhw.float(), grid).flatten(2).mT
        token_BND = dense_BDyx.float().flatten(2).mT
        known_BN = (token_BND != 0).any(2)
        token_BDN = F.normalize(token_BND, dim=2).mT / tau
        # The lowest finite number: a crop without any token gives a flat softmax, and not NaN.
        absent_B1N = torch.where(known_BN, 0.0, torch.finfo(torch.float32).min)[:, None]
        teacher_BNN = (F.normalize(token_BND, dim=2) @ token_BDN + absent_B1N).log_softmax(2)
        student_BNN = (F.normalize(pooled_BND, dim=2) @ token_BDN + absent_B1N).log_softmax(2)
        kl_BN = (teacher_BNN.exp() * (teacher_BNN - student_BNN)).sum(2)
    weight_BN = weight_Byx.flatten(1) * known_BN
    return (kl_BN * weight_BN).sum() / weight_BN.sum().clamp_min(1e-6)


def attention_pool(
    feature_BDhw: Tensor, query_BD: Tensor, *, inside_Bhw: Tensor | None = None, normalise: bool
) -> tuple[Tensor, Tensor]:
    """Dense features summed by their attention to one query (paper 1, section III-A).

    W = softmax over positions of (C_g . F) / sqrt(D), F_g = sum over positions of W F. With
    `normalise`, F and C_g are brought to unit length first; F by dividing scores and weights by
    its norm, so that no second (B, D, h, w) tensor is made. Positions outside `inside_Bhw` (bool)
    get weight 0; an image without a position inside gets weights and a pooled vector of 0.

    Returns float32 F_g (B, D) and W (B, L); gradients flow from F_g to F, and nowhere else.
    """
    query_BD = F.normalize(query_BD.float(), dim=1) if normalise else query_BD
    inside_BL = None if inside_Bhw is None else inside_Bhw.flatten(1)
    return attention(feature_BDhw.flatten(2), query_BD, inside_BL, normalise=normalise)


@torch.no_grad()
def attention_entropy(
    feature_BDhw: Tensor, token_BD: Tensor, inside_Bhw: Tensor, *, normalise: bool
) -> Tensor:
    """Entropy of the weights of `attention_pool` over the largest possible, mean over images.

    1: the pooled feature is the plain mean; near 0: that of a single position. [ours]
    """
    _, weight_BL = attention_pool(
        feature_BDhw, token_BD, inside_Bhw=inside_Bhw, normalise=normalise
    )
    entropy_B = torch.special.entr(weight_BL).sum(1)
    largest_B = inside_Bhw.flatten(1).sum(1).clamp_min(2).log()
    share: Tensor = (entropy_B / largest_B).mean()
    return share


def sdd(
    feature_BDhw: Tensor,
    token_BD: Tensor,
    text_CD: Tensor,
    *,
    tau_f: float,
    tau_c: float,
    normalise: bool,
    inside_Bhw: Tensor | None = None,
) -> Tensor:
    """Semantic-driven distillation (paper 1, Eq. 1 and 2), mean over the images of the batch.

    D_c = softmax(cos(C_g, A) / tau_c) of CLIP's token, D_f = softmax(cos(F_g, A) / tau_f) of the
    attention-pooled feature, loss KL(D_f || D_c): the student's distribution stands first, the
    reverse of usual distillation. The paper does not say that the logits are cosines; its
    temperatures make sense for nothing else. `text_CD` is L2-normalised; of (C, S, D) the best of a
    class's names counts. `normalise` and
    `inside_Bhw` as in `attention_pool`; an image without a position inside does not count.
    """
    pooled_BD, _ = attention_pool(
        feature_BDhw, token_BD, inside_Bhw=inside_Bhw, normalise=normalise
    )
    with torch.autocast(feature_BDhw.device.type, enabled=False):
        text_DN = name_rows(text_CD).float().T
        student_BN = F.normalize(pooled_BD, dim=1) @ text_DN / tau_f
        teacher_BN = F.normalize(token_BD.float(), dim=1) @ text_DN / tau_c
        student_BC = best_names(student_BN, text_CD, dim=1).log_softmax(1)
        teacher_BC = best_names(teacher_BN, text_CD, dim=1).log_softmax(1)
    kl_B = (student_BC.exp() * (student_BC - teacher_BC)).sum(1)
    if inside_Bhw is None:
        return kl_B.mean()
    counts_B = inside_Bhw.flatten(1).any(1)
    return torch.where(counts_B, kl_B, 0.0).sum() / counts_B.sum().clamp_min(1)
