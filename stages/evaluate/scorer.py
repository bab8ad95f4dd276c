"""Class scores of images, with the text embeddings folded into the student's last layer.

A feature F = W d + b (the projection of the decoded map d) has the cosine a.F / |F| to a text
embedding a. Neither needs F: a.F = (a W) d + a.b, and |F| = |R (d, 1)| with the triangular factor R
of (W b) = Q R, as Q keeps lengths. For 150 classes and D = 512 that is half the work after the
decoder. The norm has to stay: the argmax at a position does not depend on it, but scores are
interpolated, averaged over windows and compared with gamma, and each of these mixes positions of
different lengths or looks at the cosine itself.

Legend: B batch, C classes, N names of classes, D CLIP width, M channels of the decoded map, H W
pixels, h w feature grid, R rows of the triangular factor.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from zsseg.stages.best_names import best_names, name_rows
from zsseg.stages.train.students.similarity import SHORTEST
from zsseg.stages.train.students.student import Student, class_logits


@dataclass(frozen=True)
class Scorer:
    """Cosines of a student's feature to fixed text embeddings; no gradients."""

    student: Student
    text_CD: Tensor
    """Or (C, S, D), names of each class of which the best one counts (`best_names`)."""
    folded: tuple[Tensor, Tensor] | None
    """Weight (N + R, M, 1, 1) and bias of products and lengths; None: more work than without."""

    @torch.inference_mode()
    def __call__(self, image_B3HW: Tensor) -> Tensor:
        """(B, C, h, w) cosines of ImageNet-normalised images; see `Student.forward` for h and w."""
        if self.folded is None:
            return class_logits(self.student(image_B3HW), self.text_CD, 1.0)
        rows_BRhw = F.conv2d(self.student.decoded(image_B3HW), *self.folded)
        names = len(name_rows(self.text_CD))
        norm_B1hw = torch.linalg.vector_norm(rows_BRhw[:, names:], dim=1, keepdim=True)
        score_BNhw = rows_BRhw[:, :names] / norm_B1hw.clamp_min(SHORTEST)
        return best_names(score_BNhw, self.text_CD, dim=1)


@torch.inference_mode()
def class_scorer(student: Student, text_CD: Tensor) -> Scorer:
    """A scorer for L2-normalised text embeddings, on the device of both; weights as they are now.

    Folded where that is less work: not for a decoder with more channels than D.
    """
    projection = student.projection
    assert projection.bias is not None
    # float64: the products of weights are made once, and should cost no digit.
    weight_DM = projection.weight[:, :, 0, 0].double()
    extended_DN = torch.cat([weight_DM, projection.bias.double()[:, None]], dim=1)
    width, channels = weight_DM.shape
    names_ND = name_rows(text_CD)
    rows, names = min(width, channels + 1), len(names_ND)
    if (names + rows) * channels >= (channels + names) * width:
        return Scorer(student, text_CD, None)
    triangle_RN = torch.linalg.qr(extended_DN, mode="r").R
    both_RN = torch.cat([names_ND.double() @ extended_DN, triangle_RN]).to(projection.weight.dtype)
    return Scorer(student, text_CD, (both_RN[:, :-1, None, None].contiguous(), both_RN[:, -1]))
