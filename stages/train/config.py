"""What stage two trains: student, schedule, objectives, self-training; one line per field.

Defaults are the papers' values where they state one (the paper stands in the line); `[ours]` marks
a default that neither paper states. A run is a complete file in `configs/experiments/`; these
defaults only fill what a short `--set` leaves out.
"""

from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

SMALLEST_CROP = 32
"""Pixels: the coarsest stride of every encoder."""

_STRICT = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


class StudentConfig(BaseModel):
    """The network that is trained: an smp architecture and encoder, projected to CLIP's width."""

    model_config = _STRICT

    architecture: str = "segformer"
    """Any architecture of segmentation_models_pytorch, by its lower-case name."""
    encoder: str = "mit_b4"
    """Any encoder of segmentation_models_pytorch; `tu-NAME` for one of timm."""
    weights: str = "hub"
    """Encoder weights: `hub` (ImageNet, downloaded), `none` (random), a file (.pth or
    .safetensors, also of an open_clip model whose tower it is), `package:DISTRIBUTION` (the one
    weight file of an installed package), or `package:MODULE/FILE` (a file beside a module)."""
    logit_scale: float = Field(default=100.0, gt=0)
    """Logits are this times the cosine of feature and text embedding (CLIP's own 1/0.01). [ours]"""


class ObjectiveConfig(BaseModel):
    """Weights of the losses; 0 leaves a loss out."""

    model_config = _STRICT

    cross_entropy: float = Field(default=1.0, ge=0)
    """Weight of the cross-entropy (paper 1: 'linear combination', weights not given). [ours]"""
    focal: float = Field(default=0.0, ge=0)
    """Weight of the focal loss (paper 1: 'linear combination', weights not given). [ours]"""
    focal_gamma: float = Field(default=2.0, ge=0)
    """Focal loss: focusing exponent (Lin et al.: 2)."""
    unseen_logits: Literal["suppressed", "competing"] = "suppressed"
    """Before self-training starts no pixel carries an unseen label. `competing`: unseen classes
    stand in the softmax and every labelled pixel pushes them down; `suppressed`: they are left
    out of it until then. [ours]"""
    sdd: float = Field(default=0.0, ge=0)
    """Weight lambda_s of semantic-driven distillation (paper 1, Eq. 5; value not given). [ours]"""
    sdd_tau_f: float = Field(default=0.07, gt=0)
    """Temperature of the student's distribution (paper 1, Table V)."""
    sdd_tau_c: float = Field(default=0.01, gt=0)
    """Temperature of CLIP's distribution (paper 1, Table V)."""
    sdd_token: Literal["image", "pooled"] = "image"
    """CLIP's token in SDD: the whole image's CLS token (paper 1), or the cached dense tokens
    inside the student's crop, averaged and normalised. [ours: pooled]"""
    sdd_normalise: bool = True
    """Normalise feature and CLS token before the attention pooling (not stated in paper 1).
    Normalised logits lie within 1/sqrt(D): nearly the plain mean. [ours]"""


class SelfTrainingConfig(BaseModel):
    """Pseudo labels for pixels without a visible label (paper 1, section III-B)."""

    model_config = _STRICT

    method: Literal["none", "st", "rst"] = "none"
    """`st`: the most confident share of all unlabelled pixels of an image; `rst`: of each latent
    region (paper 1, Algorithm 1)."""
    top_percent: float = Field(default=75.0, gt=0, le=100)
    """Share K of the pixels that get a pseudo label, in percent (paper 1: 75)."""
    start: float = Field(default=0.5, ge=0, le=1)
    """Share of the steps after which self-training begins (paper 1: half)."""


class AugmentationConfig(BaseModel):
    """Geometry (ours, recorded) and photometric distortion (albumentations)."""

    model_config = _STRICT

    short_side: int | None = Field(default=512, ge=16)
    """Short side in pixels that the image is brought to before scaling; null: its own size."""
    scale: tuple[float, float] = (0.5, 2.0)
    """Random enlargement before the crop (mmsegmentation default)."""
    crop: tuple[int, int] = (512, 512)
    """Height and width of the student's crop in pixels (paper 1: 512 x 512)."""
    flip: float = Field(default=0.5, ge=0, le=1)
    """Probability of a left-right flip."""
    largest_class_share: float = Field(default=0.75, gt=0, le=1)
    """A crop in which one visible class covers more than this is drawn again, 10 times at most
    (mmsegmentation's cat_max_ratio)."""
    photometric: bool = True
    """Brightness, contrast, saturation and hue jitter (mmsegmentation's strengths)."""

    @model_validator(mode="after")
    def _sizes_exist(self) -> Self:
        low, high = self.scale
        if not 0 < low <= high:
            raise ValueError(f"scale [{low}, {high}]: give the smaller factor, above 0, first")
        if min(self.crop) < SMALLEST_CROP:
            raise ValueError(
                f"crop {list(self.crop)}: each side needs at least {SMALLEST_CROP} pixels, one "
                "cell of an encoder's coarsest map"
            )
        return self


class TrainConfig(BaseModel):
    """Optimiser, schedule, loading (mmsegmentation's defaults for SegFormer where it has one)."""

    model_config = _STRICT

    steps: int = Field(default=80_000, ge=1)
    """Optimiser steps (paper 1: 40k for PASCAL Context, 80k for COCO-Stuff)."""
    batch: int = Field(default=16, ge=1)
    """Crops per step (paper 1: 16)."""
    learning_rate: float = Field(default=6e-5, gt=0)
    """AdamW learning rate of the encoder."""
    head_multiplier: float = Field(default=10.0, gt=0)
    """The decoder's and the projection's learning rate, times the encoder's."""
    weight_decay: float = Field(default=0.01, ge=0)
    """AdamW decay; norms, biases and position embeddings have none."""
    power: float = Field(default=1.0, gt=0)
    """Exponent of the polynomial schedule that ends at 0."""
    warmup_steps: int = Field(default=1500, ge=0)
    """Linear warm-up from 1e-6 of the learning rate."""
    clip_norm: float | None = Field(default=None, gt=0)
    """Gradients are scaled down to this norm; null: never."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """Autocast; auto: bf16 on a GPU that has it, else fp16 there; fp32 on a CPU."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where the student runs; `cuda` without a usable GPU is an error."""
    workers: int = Field(default=2, ge=0)
    """Loader processes; 0 loads in the training process. Results do not depend on it."""
    seed: int = Field(default=0, ge=0)
    """Seed of initial weights, sample order, crops and photometric jitter."""
    log_every: int = Field(default=10, ge=1)
    """Steps between log lines."""
    checkpoint_every: int = Field(default=4000, ge=1)
    """Steps between checkpoints; the last two are kept, and one is always written at the end."""


class EvaluateConfig(BaseModel):
    """How a trained student is run on whole images."""

    model_config = _STRICT

    short_side: int | None = Field(default=512, ge=16)
    """Short side in pixels that an image is brought to; null: its own size."""
    mode: Literal["whole", "slide"] = "slide"
    """The whole image at once, or overlapping windows whose scores are averaged."""
    window: int = Field(default=512, ge=32)
    """Side of the sliding window in pixels (ZegCLIP: 512)."""
    stride: int = Field(default=426, ge=1)
    """Step of the sliding window in pixels (ZegCLIP: 426)."""
    calibration: float = Field(default=0.0, ge=0)
    """gamma, subtracted from the seen classes' scores before the argmax, as a share of the logit
    scale, i.e. in units of cosine; 0: off. [ours]"""

    @model_validator(mode="after")
    def _windows_overlap(self) -> Self:
        if self.stride > self.window:
            raise ValueError(f"stride {self.stride} leaves gaps between windows of {self.window}")
        return self


class RunConfig(BaseModel):
    """One experiment of stage two, complete."""

    model_config = _STRICT

    student: StudentConfig = StudentConfig()
    objectives: ObjectiveConfig = ObjectiveConfig()
    self_training: SelfTrainingConfig = SelfTrainingConfig()
    augmentation: AugmentationConfig = AugmentationConfig()
    train: TrainConfig = TrainConfig()
    evaluate: EvaluateConfig = EvaluateConfig()

    @model_validator(mode="after")
    def _something_to_learn(self) -> Self:
        weights = self.objectives
        if weights.cross_entropy == 0 and weights.focal == 0 and weights.sdd == 0:
            raise ValueError("objectives: every weight is 0, nothing would be learnt")
        method = self.self_training.method
        if method != "none" and weights.cross_entropy == 0 and weights.focal == 0:
            raise ValueError(
                f"self_training.method {method}: pseudo labels are learnt through "
                "objectives.cross_entropy or objectives.focal, and both are 0"
            )
        return self
