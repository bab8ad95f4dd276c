"""How sure a student is of each pixel, from the scores of all names that it could have been.

Legend: K names, classes and background words; h w positions of the scores, H W pixels.
"""

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from zsseg.stages.evaluate.confidence_measure import Measure


@torch.inference_mode()
def confidence_map(
    score_Khw: Tensor, size: tuple[int, ...], *, scale: float, measure: Measure
) -> NDArray[np.float32]:
    """(H, W) confidence in the best name at each pixel, 0 to 1, of bilinearly enlarged scores.

    `scale` is the student's logit scale; `confidence_measure` says what the confidence is. One name
    is enlarged at a time, so that memory does not grow with the names.
    """
    rows, columns = size
    best_HW = torch.full((rows, columns), -torch.inf, device=score_Khw.device)
    second_HW, total_HW = best_HW.clone(), torch.zeros_like(best_HW)
    for score_hw in score_Khw.float():
        score_HW = F.interpolate(score_hw[None, None], (rows, columns), mode="bilinear")[0, 0]
        second_HW = torch.maximum(second_HW, torch.minimum(score_HW, best_HW))
        higher_HW = torch.maximum(score_HW, best_HW)
        if measure != "cosine":
            # The sum of exponentials relative to the best so far: no term is above 1.
            total_HW *= torch.exp(scale * (best_HW - higher_HW))
            total_HW += torch.exp(scale * (score_HW - higher_HW))
        best_HW = higher_HW
    found_HW = best_HW.clamp(0, 1)
    if measure != "cosine":
        lead_HW = -torch.expm1(scale * (second_HW - best_HW)) if measure == "margin" else 1
        found_HW = lead_HW / total_HW
    confidence_HW: NDArray[np.float32] = found_HW.cpu().numpy()
    return confidence_HW
