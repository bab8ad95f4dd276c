"""Settings of a training run: student, method, crops, schedule; one line per field.

Defaults are the papers' values where they state one (the paper stands in the line); `[ours]` marks
a default that neither paper states, `[ours: value]` another value that neither knows. An experiment
(`configs/experiments/`) states what differs from the defaults; `zsseg config show NAME` prints
every setting of one.
"""

from typing import Annotated, Literal, Self

from pydantic import BaseModel, Field, field_validator, model_validator

from zsseg.stages.setting_marks import Mark
from zsseg.stages.train.method_config import (
    STRICT,
    LatentConfig,
    ObjectiveConfig,
    SelfTrainingConfig,
    loss_needs,
)
from zsseg.stages.train.validation_config import ValidationConfig

Protocol = Literal["inductive", "transductive"]
"""What training knows of the unseen classes: nothing, or their names."""

MOVED_WEIGHTS = ("package:stages.demo/", "package:zsseg.stages.demo/")
"""How `student.weights` names the demo's files in runs of zsseg 0.1 and before, and since."""

SMALLEST_CROP = 32
"""Pixels: the coarsest stride of every encoder."""


class StudentConfig(BaseModel):
    """The network that is trained: an architecture and encoder, projected to CLIP's width."""

    model_config = STRICT

    architecture: Annotated[str, Mark(replay="fixed")] = "segformer"
    """Any architecture of segmentation_models_pytorch, by its lower-case name, or `segnext`,
    `setr_naive`, `setr_pup`, `setr_mla`."""
    encoder: Annotated[str, Mark(replay="fixed")] = "mit_b4"
    """Any encoder of segmentation_models_pytorch; `tu-NAME` for one of timm. Of segnext:
    `mscan_t`, `mscan_s`, `mscan_b`, `mscan_l`; of setr_*: a ViT of timm, such as
    `vit_base_patch16_384`."""
    weights: Annotated[str, Mark(replay="nothing")] = "hub"
    """Encoder weights: `hub` (ImageNet, downloaded), `none` (random), a file (.pth or
    .safetensors, also of an open_clip model whose tower it is), `package:DISTRIBUTION` (the one
    weight file of an installed package), or `package:MODULE/FILE` (a file beside a module). A
    replay begins with the weights of its checkpoint."""
    logit_scale: float = Field(default=100.0, gt=0)
    """alpha: class scores are this times F.A_s (paper 2, section 3.3; value not given, CLIP's own
    1/0.01). [ours]"""
    logit_product: Literal["cosine", "dot"] = "cosine"
    """F.A as the cosine (papers 1 and 2 leave the length of F open), or as printed, with a feature
    of any length. Which class wins at a pixel does not depend on it. [ours: cosine]"""
    checkpointing: Annotated[bool, Mark(result=False)] = False
    """Keep only the input of each of the encoder's blocks for the backward pass, and compute the
    rest again: less memory for another forward pass of the encoder. Gradients are equal."""

    @field_validator("weights")
    @classmethod
    def _where_they_lie_now(cls, weights: str) -> str:
        before, now = MOVED_WEIGHTS
        return now + weights.removeprefix(before) if weights.startswith(before) else weights


class AugmentationConfig(BaseModel):
    """Random or recorded crops (our own geometry), and photometric jitter (albumentations)."""

    model_config = STRICT

    views: Literal["random", "recorded"] = "random"
    """`random`: a new crop at every position, with the token of the whole image; `recorded`: one of
    the crops that the store keeps (`zsseg precompute --views`), with CLIP's token of just it.
    `short_side`, `scale` and `flip` are for random ones. [ours: recorded]"""
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

    model_config = STRICT

    steps: int = Field(default=80_000, ge=1)
    """Optimiser steps (paper 1: 40k for PASCAL Context, 80k for COCO-Stuff)."""
    batch: Annotated[int, Mark(replay="nothing")] = Field(default=16, ge=1)
    """Crops per step, of all processes together (paper 1: 16)."""
    accumulate: Annotated[int, Mark(result=False)] = Field(default=1, ge=1)
    """Parts that each process cuts its share of a step into, to save memory. Losses and gradients
    stay those of the whole batch; batch normalisation sees one part at a time. A run raises it by
    itself where memory is short, so runs that differ in it count as equal."""
    sync_batch_norm: Annotated[bool, Mark(replay="nothing")] = False
    """Several processes on GPUs: batch normalisation over all of them (mmsegmentation), not over
    each process's crops as torch does by itself. A replay is one process."""
    learning_rate: Annotated[float, Mark(replay="nothing")] = Field(default=6e-5, gt=0)
    """AdamW learning rate of the encoder."""
    head_multiplier: Annotated[float, Mark(replay="nothing")] = Field(default=10.0, gt=0)
    """The decoder's and the projection's learning rate, times the encoder's."""
    weight_decay: Annotated[float, Mark(replay="nothing")] = Field(default=0.01, ge=0)
    """AdamW decay; norms, biases and position embeddings have none."""
    power: Annotated[float, Mark(replay="nothing")] = Field(default=1.0, gt=0)
    """Exponent of the polynomial schedule that ends at 0."""
    warmup_steps: Annotated[int, Mark(replay="nothing")] = Field(default=1500, ge=0)
    """Linear warm-up from 1e-6 of the learning rate."""
    clip_norm: Annotated[float | None, Mark(replay="nothing")] = Field(default=None, gt=0)
    """Gradients are scaled down to this norm; null: never."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """Autocast; auto: bf16 on a GPU that has it, else fp16 there; fp32 on a CPU. Results depend on
    it: bf16 keeps 8 bits of a number, fp32 24, and fp16 leaves steps out that overflow."""
    channels_last: Annotated[bool, Mark(result=False)] = True
    """Convolution weights with the channels innermost in memory: mostly faster. Results agree up
    to rounding."""
    compile: Annotated[bool, Mark(result=False)] = False
    """Compile the student with torch.compile: minutes at the start, then faster steps on a GPU;
    needs a C++ compiler. Results agree up to rounding."""
    device: Annotated[Literal["auto", "cpu", "cuda"], Mark(result=False)] = "auto"
    """Where the student runs; `cuda` without a usable GPU is an error. Results agree up to rounding
    where `precision` is not auto, which follows the device; a run that goes on in another one says
    so."""
    workers: Annotated[int, Mark(result=False, replay="nothing")] = Field(default=2, ge=0)
    """Loader processes; 0 loads in the training process. Results do not depend on it."""
    memory_forecast: Annotated[
        Literal["refuse", "warn", "off"], Mark(result=False, replay="nothing")
    ] = "refuse"
    """Foretell the memory from a few crops before the first step: refuse what cannot fit, warn and
    go on, or do neither."""
    seed: int = Field(default=0, ge=0)
    """Seed of initial weights, sample order, crops and photometric jitter."""
    log_every: Annotated[int, Mark(result=False, replay="nothing")] = Field(default=10, ge=1)
    """Steps between log lines."""
    checkpoint_every: Annotated[int, Mark(result=False, replay="nothing")] = Field(
        default=4000, ge=1
    )
    """Steps between checkpoints; the last two are kept, and one is always written at the end."""


class EvaluateConfig(BaseModel):
    """How a trained student is run on whole images."""

    model_config = STRICT

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
    background: tuple[str, ...] = ()
    """Names of what else is there, where a prediction is given none: their pixels become void.
    Scores are of the classes alone. [ours]"""

    @model_validator(mode="after")
    def _windows_overlap(self) -> Self:
        if self.stride > self.window:
            raise ValueError(f"stride {self.stride} leaves gaps between windows of {self.window}")
        return self


class RunConfig(BaseModel):
    """Every setting of one training run."""

    model_config = STRICT

    protocol: Protocol = "transductive"
    """Are the unseen classes' names known in training? `transductive`: their text embeddings are
    (paper 1); `inductive`: nothing of them reaches the training (paper 2)."""
    student: StudentConfig = StudentConfig()
    objectives: ObjectiveConfig = ObjectiveConfig()
    latent: LatentConfig = LatentConfig()
    self_training: SelfTrainingConfig = SelfTrainingConfig()
    augmentation: Annotated[AugmentationConfig, Mark(replay="nothing")] = AugmentationConfig()
    """A replay has the crops as they were cut."""
    train: TrainConfig = TrainConfig()
    validation: ValidationConfig = ValidationConfig()
    evaluate: Annotated[EvaluateConfig, Mark(result=False, replay="nothing")] = EvaluateConfig()
    """Not of the training: an evaluation has settings of its own, and notes them in its result."""

    @property
    def unvalidated(self) -> "RunConfig":
        """The same run without validation, for tables: of equal length, scored at its end."""
        return self.model_copy(update={"validation": ValidationConfig()})

    @property
    def learns_labels(self) -> bool:
        """Does any loss look at the labels?"""
        return self.objectives.need("labels")

    @property
    def uses_token(self) -> bool:
        """Does anything look at CLIP's token of the image or crop?"""
        return self.objectives.need("token") or self.latent.enabled

    @property
    def uses_local(self) -> bool:
        """Does anything look at the local tokens?"""
        return self.objectives.need("local") or self.latent.enabled

    @property
    def uses_regions(self) -> bool:
        """Does anything look at the latent regions?"""
        return self.uses_local or self.self_training.method == "rst"

    @property
    def asks_teacher(self) -> bool:
        """Does the teacher name pixels: the store's map of names, or else its dense tokens?"""
        trains = self.self_training
        teaches = trains.source == "teacher" or trains.teacher_until > trains.start
        return trains.method != "none" and teaches

    @property
    def uses_dense(self) -> bool:
        """May the crop's dense tokens be looked at one by one: distilled, or to name pixels?"""
        return self.objectives.need("dense") or self.asks_teacher

    @property
    def uses_average(self) -> bool:
        """Is a moving average of the student kept, to name pixels?"""
        trains = self.self_training
        return trains.method != "none" and trains.source == "ema"

    @model_validator(mode="after")
    def _something_to_learn(self) -> Self:
        if not any(self.objectives.weights.values()):
            raise ValueError("objectives: every weight is 0, nothing would be learnt")
        if self.learns_labels:
            return self
        names = [f"objectives.{name}" for name, needs in loss_needs().items() if "labels" in needs]
        through = f"{', '.join(names[:-1])} or {names[-1]}, and all are 0"
        if (method := self.self_training.method) != "none":
            raise ValueError(
                f"self_training.method {method}: pseudo labels are learnt through {through}"
            )
        if self.latent.enabled:
            raise ValueError(f"latent.enabled: latent classes are learnt through {through}")
        return self

    @model_validator(mode="after")
    def _phases_follow_each_other(self) -> Self:
        trains = self.self_training
        if trains.method == "none":
            return self
        if self.latent.enabled and trains.start == 0:
            raise ValueError(
                "latent.enabled: latent classes end where self-training begins, and "
                "self_training.start is 0, so there would be none. Use a later start, or "
                "latent.enabled=false"
            )
        if 0 < trains.teacher_until <= trains.start:
            raise ValueError(
                f"self_training.teacher_until: {trains.teacher_until} is not after "
                f"self_training.start = {trains.start}, so the teacher would name nothing. Use a "
                "later one, or 0"
            )
        return self

    @model_validator(mode="after")
    def _whole_cells(self) -> Self:
        stride = self.objectives.dense_stride
        if self.uses_dense and any(side % stride for side in self.augmentation.crop):
            raise ValueError(
                f"augmentation.crop: {list(self.augmentation.crop)} is not a whole number of cells "
                f"of objectives.dense_stride = {stride} pixels. Use multiples of {stride}"
            )
        return self

    @model_validator(mode="after")
    def _inductive_knows_no_names(self) -> Self:
        if self.protocol == "transductive":
            return self
        if (method := self.self_training.method) != "none":
            raise ValueError(
                f"self_training.method {method}: gives pixels labels of unseen classes, whose "
                "names the inductive protocol does not know. Use self_training.method=none or "
                "protocol=transductive"
            )
        if self.objectives.unseen_logits == "competing":
            raise ValueError(
                "objectives.unseen_logits competing: needs the unseen classes' names, which the "
                "inductive protocol does not know. Use suppressed or protocol=transductive"
            )
        return self
