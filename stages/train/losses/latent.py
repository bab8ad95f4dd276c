"""Latent embedding generation (paper 2, section 3.3): a class of its own for every latent region.

A decoder makes an embedding A'_u of each latent region of an image, from the student's mean over
the region and from CLIP's tokens of the image. It exists in training only: the student is exported
without it.

Legend: B batch, C classes of the text embeddings, D CLIP width, K masks that the store keeps per
image, M keys, H W pixels, h w feature grid. "paper 2" is CLIP-to-Seg.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zsseg.stages.best_names import best_names, name_rows
from zsseg.stages.data.spec import FIRST_REGION, VOID
from zsseg.stages.errors import UserError
from zsseg.stages.train.losses.pseudo_mask import CropMasks
from zsseg.stages.train.method_config import LatentConfig

LEFT_OUT = -1e9
"""Score of a class that an image does not have: a share of 0, and finite, so that it can be
interpolated."""


class LatentDecoder(nn.Module):
    """The transformer decoder of paper 2's section 3.3; queries and keys are brought to length
    sqrt(D), as a layer normalisation would. No dropout. [ours, like its size]"""

    def __init__(self, width: int, config: LatentConfig) -> None:
        super().__init__()
        if width % config.heads:
            raise UserError(
                f"latent.heads: CLIP's width {width} does not divide by {config.heads} heads. "
                "Give a number that divides it"
            )
        layer = nn.TransformerDecoderLayer(
            width, config.heads, dim_feedforward=4 * width, dropout=0.0, batch_first=True
        )
        self.layers = nn.TransformerDecoder(layer, config.layers)

    def forward(
        self, query_BKD: Tensor, asked_BK: Tensor, key_BMD: Tensor, there_BM: Tensor
    ) -> Tensor:
        """(B, K, D) float32 answers to the queries of `asked_BK`, from the keys of `there_BM`.

        Both masks are bool. An image needs at least one key; the answers in other slots have no
        meaning.
        """
        # An image without a query: attention over nothing would be NaN, in the gradients too.
        asked_BK = asked_BK | ~asked_BK.any(1, keepdim=True)
        answer_BKD: Tensor = self.layers(
            _scaled(query_BKD),
            _scaled(key_BMD),
            tgt_key_padding_mask=~asked_BK,
            memory_key_padding_mask=~there_BM,
        )
        return answer_BKD.float()


def _scaled(vector_BND: Tensor) -> Tensor:
    return F.normalize(vector_BND.float(), dim=2) * math.sqrt(vector_BND.shape[2])


def latent_embeddings(
    decoder: nn.Module, masks: CropMasks, token_BD: Tensor, local_BKD: Tensor, *, all_masks: bool
) -> Tensor:
    """(B, K, D) the decoder's answer for each visible latent region, with `all_masks` every mask.

    Queries are prototypes, keys and values the global token and the local tokens of the masks that
    the crop shows.
    """
    key_BMD = torch.cat([token_BD[:, None], local_BKD], dim=1)
    there_BM = F.pad(masks.visible_BK, (1, 0), value=True)
    asked_BK = masks.visible_BK if all_masks else masks.latent_BK
    answer_BKD: Tensor = decoder(masks.prototype_BKD, asked_BK, key_BMD, there_BM)
    return answer_BKD


def with_latent_classes(
    label_BHW: Tensor, region_BHW: Tensor, masks: CropMasks, *, first: int
) -> Tensor:
    """int64 labels in which an unlabelled pixel of a visible latent region has its class (Y_p).

    The class of the region in slot k is `first` + k, below VOID. Other pixels stay as they are.
    """
    batch = len(label_BHW)
    slots = masks.id_BK.shape[1]
    assert first + slots <= VOID
    class_BR = torch.full((batch, VOID + 1), VOID, device=label_BHW.device)
    region_BK = torch.where(masks.latent_BK, masks.id_BK - FIRST_REGION, 0)
    place_K = torch.arange(first, first + slots, device=label_BHW.device)
    class_BR.scatter_(1, region_BK, place_K.expand(batch, -1))
    class_BR[:, 0] = VOID
    latent_BHW = class_BR.gather(1, region_BHW.long().flatten(1)).view_as(label_BHW)
    return torch.where(label_BHW == VOID, latent_BHW, label_BHW)


def text_tie(answer_BKD: Tensor, index_BK: Tensor, text_CD: Tensor, *, scale: float) -> Tensor:
    """L_bce of CLIP-ZSS: the answer for a seen mask names its class among the text embeddings.

    Binary cross-entropy over an independent sigmoid of scale * cosine per class, mean over the seen
    masks of the batch and over classes; 0 without one. `index_BK` int64: the class's index in
    `text_CD` (L2-normalised; of (C, S, D) the best of a class's names counts), VOID for every other
    slot.
    """
    with torch.autocast(answer_BKD.device.type, enabled=False):
        names_DN = name_rows(text_CD).float().T
        logits_BKN = scale * F.normalize(answer_BKD.float(), dim=2) @ names_DN
        logits_BKC = best_names(logits_BKN, text_CD, dim=2)
    classes = len(text_CD)
    target_BKC = index_BK[:, :, None] == torch.arange(classes, device=index_BK.device)
    entropy_BKC = F.binary_cross_entropy_with_logits(
        logits_BKC, target_BKC.to(logits_BKC.dtype), reduction="none"
    )
    counts_BK = index_BK != VOID
    entropy_BK = torch.where(counts_BK, entropy_BKC.mean(2), 0.0)
    return entropy_BK.sum() / counts_BK.sum().clamp_min(1)
