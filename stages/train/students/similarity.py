"""Cosines of vectors with every position of a feature, and attention pooling, with own gradients.

A feature is the largest tensor of a step. The gradients here are written by hand, with two passes
over the feature; autograd's, composed of single operations, take three times as many.

Legend: B batch, C vectors, D CLIP width, L positions.
"""

import math
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

SHORTEST = 1e-6
"""No feature vector counts as shorter."""


def feature_norm(feature_BDL: Tensor) -> Tensor:
    """(B, L) length of every feature vector in float32 (float64 if it is), at least SHORTEST."""
    exact = torch.promote_types(feature_BDL.dtype, torch.float32)
    # Autocast would make a float32 copy of the whole feature first; `dtype` only accumulates so.
    with torch.autocast(feature_BDL.device.type, enabled=False):
        norm_BL: Tensor = torch.linalg.vector_norm(feature_BDL, dim=1, dtype=exact)
    return norm_BL.clamp_min(SHORTEST)


def cosines(feature_BDL: Tensor, vector_BCD: Tensor, *, scale: float) -> Tensor:
    """(B, C, L) float32 scale * F.A / |F|: scaled cosines where the vectors have length 1.

    The feature is multiplied in its own type. Its length counts as SHORTEST at least.
    """
    score_BCL: Tensor = _Cosines.apply(feature_BDL, vector_BCD, scale)
    return score_BCL


class _Cosines(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, feature_BDL: Tensor, vector_BCD: Tensor, scale: float) -> Tensor:
        norm_BL = feature_norm(feature_BDL)
        product_BCL = torch.bmm(vector_BCD.to(feature_BDL.dtype), feature_BDL)
        score_BCL = product_BCL * (scale / norm_BL)[:, None]
        ctx.save_for_backward(feature_BDL, vector_BCD, norm_BL, score_BCL)
        ctx.scale = scale
        return score_BCL

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient_BCL: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        feature_BDL, vector_BCD, norm_BL, score_BCL = ctx.saved_tensors
        of_feature_BDL = of_vector_BCD = None
        with torch.autocast(feature_BDL.device.type, enabled=False):
            of_product_BCL = (gradient_BCL * (ctx.scale / norm_BL)[:, None]).to(feature_BDL.dtype)
            if ctx.needs_input_grad[0]:
                of_norm_BL = -(gradient_BCL * score_BCL).sum(1) / norm_BL
                of_feature_BDL = _along(feature_BDL, of_norm_BL, norm_BL).baddbmm_(
                    vector_BCD.to(feature_BDL.dtype).transpose(1, 2), of_product_BCL
                )
            if ctx.needs_input_grad[1]:
                of_vector_BCD = torch.bmm(of_product_BCL, feature_BDL.transpose(1, 2))
                of_vector_BCD = of_vector_BCD.to(vector_BCD.dtype)
        return of_feature_BDL, of_vector_BCD, None


def attention(
    feature_BDL: Tensor, query_BD: Tensor, inside_BL: Tensor | None, *, normalise: bool
) -> tuple[Tensor, Tensor]:
    """`objectives.attention_pool` of positions in a row; `query_BD` as it is multiplied.

    Gradients flow from the pooled feature to the feature, and nowhere else.
    """
    assert not query_BD.requires_grad
    pooled: tuple[Tensor, Tensor] = _Attention.apply(feature_BDL, query_BD, inside_BL, normalise)
    return pooled


class _Attention(torch.autograd.Function):
    """s = q.F / (sqrt(D) n), w = softmax(s) inside, pooled = sum of a F with a = w / n; n = |F|
    where it is normalised, else 1."""

    @staticmethod
    def forward(
        ctx: Any,
        feature_BDL: Tensor,
        query_BD: Tensor,
        inside_BL: Tensor | None,
        normalise: bool,
    ) -> tuple[Tensor, Tensor]:
        batch, width, positions = feature_BDL.shape
        exact = torch.promote_types(feature_BDL.dtype, torch.float32)
        norm_BL = feature_BDL.new_ones(batch, positions, dtype=exact)
        if normalise:
            norm_BL = feature_norm(feature_BDL)
        query_BD = query_BD.to(feature_BDL.dtype)
        product_BL = torch.bmm(query_BD[:, None], feature_BDL)[:, 0].to(exact)
        score_BL = product_BL / (math.sqrt(width) * norm_BL)
        if inside_BL is None:
            weight_BL = score_BL.softmax(1)
        else:
            # The lowest finite number instead of -inf: a row all outside must not become NaN.
            lowest = torch.finfo(score_BL.dtype).min
            weight_BL = score_BL.masked_fill(~inside_BL, lowest).softmax(1) * inside_BL
        share_BL1 = _enlarged(weight_BL / norm_BL).to(feature_BDL.dtype)[:, :, None]
        pooled_BD = torch.bmm(feature_BDL, share_BL1)[:, :, 0].to(exact)
        ctx.save_for_backward(feature_BDL, query_BD, norm_BL, score_BL, weight_BL)
        ctx.mark_non_differentiable(weight_BL)
        ctx.normalise = normalise
        return pooled_BD / math.sqrt(positions), weight_BL

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, pooled_BD: Tensor, _: Tensor) -> tuple[Tensor, None, None, None]:
        """The first argument is the gradient of the pooled feature."""
        feature_BDL, query_BD, norm_BL, score_BL, weight_BL = ctx.saved_tensors
        kind, width = feature_BDL.dtype, feature_BDL.shape[1]
        with torch.autocast(feature_BDL.device.type, enabled=False):
            pooled_BD = (pooled_BD / math.sqrt(feature_BDL.shape[2])).to(kind)
            of_share_BL = torch.bmm(pooled_BD[:, None], feature_BDL)[:, 0].to(norm_BL.dtype)
            of_share_BL = _enlarged(of_share_BL)
            of_weight_BL = of_share_BL / norm_BL
            mean_B1 = (weight_BL * of_weight_BL).sum(1, keepdim=True)
            of_score_BL = weight_BL * (of_weight_BL - mean_B1)
            of_product_BL = of_score_BL / (math.sqrt(width) * norm_BL)
            of_norm_BL = -(of_weight_BL * weight_BL + of_score_BL * score_BL) / norm_BL
            if not ctx.normalise:
                of_norm_BL = torch.zeros_like(of_norm_BL)
            row_B2L = torch.stack([of_product_BL, _enlarged(weight_BL / norm_BL)], dim=1)
            column_BD2 = torch.stack([query_BD, pooled_BD], dim=2)
            of_feature_BDL = _along(feature_BDL, of_norm_BL, norm_BL)
            return of_feature_BDL.baddbmm_(column_BD2, row_B2L.to(kind)), None, None, None


def _enlarged(share_BL: Tensor) -> Tensor:
    """Shares of 1 / L are lost in half precision: enlarged before a product, reduced after it."""
    return share_BL * math.sqrt(share_BL.shape[1])


def _along(feature_BDL: Tensor, of_norm_BL: Tensor, norm_BL: Tensor) -> Tensor:
    """(B, D, L) gradient of the feature from that of its length: none where that is bounded."""
    along_BL = torch.where(norm_BL > SHORTEST, of_norm_BL / norm_BL, 0.0)
    return feature_BDL * along_BL.to(feature_BDL.dtype)[:, None]
