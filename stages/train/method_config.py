"""Settings of what a student learns from: losses, latent classes, pseudo labels.

Defaults are the papers' values where they state one (the paper stands in the line); `[ours]` marks
a default that no paper states, `[ours: value]` another value that no paper knows.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from zsseg.stages.setting_marks import Mark

Source = Literal["student", "ema", "teacher"]
"""Whose scores give pseudo labels."""

Confidence = Literal["score", "margin"]
"""What makes a pseudo label sure."""

Need = Literal["labels", "token", "local", "dense"]
"""What a loss looks at beside the student's feature: the class scores and their labels, CLIP's
token of the image or crop, its local tokens of the masks, its dense tokens."""


@dataclass(frozen=True)
class LossWeight:
    """Marks a setting as the weight of the loss that has its name (`losses.objective_table`)."""

    needs: tuple[Need, ...]


STRICT = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


class ObjectiveConfig(BaseModel):
    """Weights of the losses; 0 leaves a loss out."""

    model_config = STRICT

    cross_entropy: Annotated[float, LossWeight(("labels",))] = Field(default=1.0, ge=0)
    """Weight of the cross-entropy (paper 1: 'linear combination', weights not given). [ours]"""
    cross_entropy_balance: float = Field(default=0.0, ge=0, le=1)
    """A labelled pixel weighs n^-this in the cross-entropy, n the pixels of its class in its crop:
    0: all alike; 1: every class of a crop weighs as much as every other. [ours]"""
    focal: Annotated[float, LossWeight(("labels",))] = Field(default=0.0, ge=0)
    """Weight of the focal loss (paper 1: 'linear combination', weights not given). [ours]"""
    focal_gamma: float = Field(default=2.0, ge=0)
    """Focal loss: focusing exponent (Lin et al.: 2)."""
    unseen_logits: Literal["suppressed", "competing"] = "suppressed"
    """Before self-training starts no pixel carries an unseen label. `competing`: unseen classes
    stand in the softmax and every labelled pixel pushes them down; `suppressed`: they are left
    out of it until then. [ours]"""
    nel: Annotated[float, LossWeight(("labels",))] = Field(default=0.0, ge=0)
    """Weight of NEL, ZegCLIP's loss over independent sigmoids (paper 2, Eq. 5: 1)."""
    nel_focal: float = Field(default=100.0, ge=0)
    """NEL: weight of its focal part (ZegCLIP: 100)."""
    nel_dice: float = Field(default=1.0, ge=0)
    """NEL: weight of its dice part (ZegCLIP: 1)."""
    nel_void: Literal["negative", "masked"] = "negative"
    """NEL: pixels without a label are negatives of every class that is trained (ZegCLIP), or left
    out. As negatives they push down all seen classes where an unseen one may be."""
    sdd: Annotated[float, LossWeight(("token",))] = Field(default=0.0, ge=0)
    """Weight lambda_s of semantic-driven distillation (paper 1, Eq. 5; value not given). [ours]"""
    sdd_tau_f: float = Field(default=0.07, gt=0)
    """Temperature of the student's distribution (paper 1, Table V)."""
    sdd_tau_c: float = Field(default=0.01, gt=0)
    """Temperature of CLIP's distribution (paper 1, Table V)."""
    token: Annotated[Literal["image", "pooled"], Mark(replay="nothing")] = "image"
    """CLIP's token in SDD, in global distillation and among the decoder's keys: the whole image's
    CLS token (papers 1 and 2; of a recorded view, its own), or the cached dense tokens inside the
    student's crop, averaged and normalised. [ours: pooled]"""
    pool_normalise: bool = True
    """Normalise feature and token before the attention pooling of SDD and global distillation (not
    stated in the papers). Normalised logits lie within 1/sqrt(D): nearly the plain mean. [ours]"""
    global_distillation: Annotated[float, LossWeight(("token",))] = Field(default=0.0, ge=0)
    """Weight of global distillation L_g (paper 2, Eq. 2 and 6: 1)."""
    global_tau: float = Field(default=0.07, gt=0)
    """Temperature of its InfoNCE (not given in paper 2). [ours]"""
    bank: int = Field(default=24, ge=0)
    """CLS tokens in the bank that give it negatives, the current batch's included (paper 2: 24)."""
    local_distillation: Annotated[float, LossWeight(("local",))] = Field(default=0.0, ge=0)
    """Weight of local distillation L_l (paper 2, Eq. 4 and 6: 1)."""
    local_tau: float = Field(default=0.07, gt=0)
    """Temperature of its InfoNCE (not given in paper 2). [ours]"""
    local_negatives: Literal["image", "batch"] = "image"
    """Its negatives: the other masks of the same crop, or those of all crops of the step, less
    other crops' tokens of the same class (not stated in paper 2). [ours: batch]"""
    dense: Annotated[float, LossWeight(("dense",))] = Field(default=0.0, ge=0)
    """Weight of dense distillation: 1 - cosine of feature and cached dense token. [ours]"""
    dense_relation: Annotated[float, LossWeight(("dense",))] = Field(default=0.0, ge=0)
    """Weight of relational dense distillation: which of the crop's dense tokens a feature is alike
    to (SEED's loss over cells). [ours]"""
    dense_relation_tau: float = Field(default=0.03, gt=0)
    """Temperature of its two distributions. [ours]"""
    dense_pixels: Literal["all", "unlabelled"] = "all"
    """Pixels of the crop that both dense losses look at. [ours]"""
    dense_stride: Annotated[int, Mark(replay="nothing")] = Field(default=16, ge=1)
    """Side in pixels of the cells over which the feature is averaged before it is compared with the
    token there: one token says what a cell holds, not where in it. [ours]"""

    @property
    def weights(self) -> dict[str, float]:
        """The weight of every loss, by name."""
        return {name: getattr(self, name) for name in loss_needs()}

    def need(self, what: Need) -> bool:
        """Does a loss whose weight is above 0 look at this?"""
        return any(getattr(self, name) > 0 for name, needs in loss_needs().items() if what in needs)


@cache  # asked for every crop
def loss_needs() -> Mapping[str, tuple[Need, ...]]:
    """What each loss looks at, by the name of its weight."""
    return {
        name: mark.needs
        for name, field in ObjectiveConfig.model_fields.items()
        for mark in field.metadata
        if isinstance(mark, LossWeight)
    }


class LatentConfig(BaseModel):
    """Latent embedding generation (paper 2, section 3.3): every latent region of an image becomes a
    class of its own, whose embedding a decoder makes; until self-training begins."""

    model_config = STRICT

    enabled: Annotated[bool, Mark(replay="fixed")] = False
    """Latent regions take part in cross-entropy, focal loss and NEL (paper 2, Eq. 5)."""
    beta: float = Field(default=100.0, gt=0)
    """Scores of latent classes are this times cos(F, A'_u) (value not given in paper 2). [ours]"""
    layers: Annotated[int, Mark(replay="fixed")] = Field(default=3, ge=1)
    """Layers of the transformer decoder (not given in paper 2; ZegCLIP's has 3). [ours]"""
    heads: Annotated[int, Mark(replay="fixed")] = Field(default=8, ge=1)
    """Attention heads of the decoder (not given in paper 2; ZegCLIP's has 8). [ours]"""
    tie: float = Field(default=0.0, ge=0)
    """Weight of CLIP-ZSS's BCE tie: the decoder answers for the seen masks too, and each of its
    answers has to name its class among the seen text embeddings; 0: off (paper 2)."""


class SelfTrainingConfig(BaseModel):
    """Pseudo labels for pixels without a visible label (paper 1, section III-B)."""

    model_config = STRICT

    method: Literal["none", "st", "rst"] = "none"
    """`st`: the most confident share of all unlabelled pixels of an image; `rst`: of each latent
    region (paper 1, Algorithm 1)."""
    source: Source = "student"
    """Whose scores name the pixels: the student's own (paper 1), those of an exponential moving
    average of it, or the teacher's: of the store's map of names where it has one, else of its dense
    tokens (as MaskCLIP+). [ours: ema, teacher]"""
    confidence: Confidence = "score"
    """What makes a pixel confident: the largest score of an unseen class (paper 1), or its margin
    over the second largest. [ours: margin]"""
    top_percent: float = Field(default=75.0, gt=0, le=100)
    """Share K of the pixels that get a pseudo label, in percent (paper 1: 75); 100: every one."""
    start: float = Field(default=0.5, ge=0, le=1)
    """Share of the steps after which self-training begins (paper 1: half)."""
    teacher_until: float = Field(default=0.0, ge=0, le=1)
    """From `start` until this share of the steps the source is `teacher` (MaskCLIP+: `start` 0,
    this 0.1). [ours: 0]"""
    ema_decay: Annotated[float, Mark(replay="nothing")] = Field(default=0.99, ge=0, lt=1)
    """Decay per step of the average in source `ema`; early on (step + 1) / (step + 10). [ours]"""
