"""What the losses of a batch are computed from: feature, class scores, labels and masks.

Class scores are made on the feature grid, for the classes that take part, and only they are
upsampled to pixels, a strip of rows at a time (`strips.py`).

Legend: B batch, C classes that take part, D CLIP width, K masks per image, H W pixels of the crop,
h w feature grid, q r grid of the map of names.
"""

from dataclasses import dataclass
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zsseg.stages.data.spec import VOID
from zsseg.stages.train.batches.batch import Batch
from zsseg.stages.train.batches.known_classes import KnownClasses
from zsseg.stages.train.losses.contrast import Bank, Pool
from zsseg.stages.train.losses.latent import LEFT_OUT, latent_embeddings, with_latent_classes
from zsseg.stages.train.losses.likelihood import negative_log_likelihood
from zsseg.stages.train.losses.pseudo_mask import CropMasks, mask_codes, masks_of
from zsseg.stages.train.losses.resample import bilinear, nearest
from zsseg.stages.train.losses.self_training import confident_labels, pseudo_labels, score_of_codes
from zsseg.stages.train.method_config import ObjectiveConfig, Source
from zsseg.stages.train.run_config import RunConfig
from zsseg.stages.train.students.student import class_logits, image_logits


@dataclass(frozen=True)
class StepInputs:
    """What all parts of a step have in common, in all processes."""

    number: int
    """Steps done before this one."""
    config: RunConfig
    classes: KnownClasses
    source: Source | None
    """Whose scores give unlabelled pixels pseudo labels; None: they get none yet."""
    bank: Bank
    """For global distillation, with this step's tokens."""
    pool: Pool | None
    """All masks of the step, for local distillation; None: those of a part are compared alone."""
    logs: bool
    """Is what only the log shows computed?"""


@dataclass(frozen=True)
class ClassScores:
    """The scores of the classes that take part, and the labels they are compared with."""

    logits_BChw: Tensor
    label_BHW: Tensor
    """int64: indices of the C scores, pseudo labels and latent classes included; VOID: none."""

    @cached_property
    def nll_BHW(self) -> Tensor:
        """-log p of each pixel's class: computed once, for cross-entropy and focal loss."""
        return negative_log_likelihood(self.logits_BChw, self.label_BHW)


@dataclass(frozen=True)
class LossInputs:
    """All that a loss may look at. What no configured loss needs is None."""

    step: StepInputs
    batch: Batch
    first: int | None
    """Index of the batch's first image among those of the step, counted over all processes; None:
    the batch is all that this process has of the step."""
    feature_BDhw: Tensor
    inside_Bhw: Tensor
    """bool: positions whose centre is inside the image."""
    masks: CropMasks | None
    scores: ClassScores | None
    """None also where no pixel can have a label: no class is seen, and none gets pseudo labels."""
    answer_BKD: Tensor | None
    """The decoder's embeddings of the masks (`latent.latent_embeddings`)."""

    @property
    def objectives(self) -> ObjectiveConfig:
        """The settings of the losses."""
        return self.step.config.objectives


def loss_inputs(
    feature_BDhw: Tensor,
    batch: Batch,
    step: StepInputs,
    *,
    average_BDhw: Tensor | None = None,
    decoder: nn.Module | None = None,
    first: int | None = None,
) -> LossInputs:
    """The inputs of the losses that are configured, from a student's feature of a batch.

    With a source of pseudo labels, unlabelled pixels get labels of unseen classes and all classes
    take part; before, unseen classes are left out of the scores unless they are `competing`, and
    latent regions are classes of their own where `latent.enabled`. Source `ema` needs the averaged
    student's feature, latent classes need the decoder. The crop is a whole number of feature cells
    (`student.check_crop`).
    """
    config = step.config
    grid = (feature_BDhw.shape[2], feature_BDhw.shape[3])
    assert all(
        side % cells == 0 for side, cells in zip(batch.label_BHW.shape[1:], grid, strict=True)
    )
    masks = scores = answer_BKD = None
    if config.uses_local:
        assert batch.region_BHW is not None
        assert batch.local_id_BK is not None
        code_BHW = mask_codes(batch.label_BHW, batch.region_BHW)
        masks = masks_of(feature_BDhw, nearest(code_BHW, grid), batch.local_id_BK)
    if config.learns_labels and step.source is not None:
        scores = _with_pseudo_labels(feature_BDhw, batch, step, average_BDhw)
    elif config.learns_labels and (len(step.classes.seen_S) or config.latent.enabled):
        scores = _with_visible_labels(feature_BDhw, batch, step)
        if config.latent.enabled:
            assert masks is not None
            assert decoder is not None
            scores, answer_BKD = _with_latent(scores, feature_BDhw, batch, masks, decoder, config)
    inside_Bhw = nearest(batch.inside_BHW, grid)
    return LossInputs(step, batch, first, feature_BDhw, inside_Bhw, masks, scores, answer_BKD)


def _with_visible_labels(feature_BDhw: Tensor, batch: Batch, step: StepInputs) -> ClassScores:
    text_CD, label_BHW = step.classes.text_CD, batch.label_BHW.long()
    if step.config.objectives.unseen_logits == "suppressed":
        text_CD = text_CD[step.classes.seen_S]
        label_BHW = step.classes.seen_index[label_BHW]
    return ClassScores(_logits(feature_BDhw, text_CD, step.config), label_BHW)


def _with_latent(
    scores: ClassScores,
    feature_BDhw: Tensor,
    batch: Batch,
    masks: CropMasks,
    decoder: nn.Module,
    config: RunConfig,
) -> tuple[ClassScores, Tensor]:
    """The scores with those of the latent classes behind them, and the decoder's answers.

    A latent class that an image does not have is LEFT_OUT there.
    """
    assert batch.token_BD is not None
    assert batch.local_BKD is not None
    assert batch.region_BHW is not None
    answer_BKD = latent_embeddings(
        decoder, masks, batch.token_BD, batch.local_BKD, all_masks=config.latent.tie > 0
    )
    latent_BKhw = image_logits(feature_BDhw, F.normalize(answer_BKD, dim=2), config.latent.beta)
    latent_BKhw = latent_BKhw.masked_fill(~masks.latent_BK[:, :, None, None], LEFT_OUT)
    label_BHW = with_latent_classes(
        scores.label_BHW, batch.region_BHW, masks, first=scores.logits_BChw.shape[1]
    )
    logits_BChw = torch.cat([scores.logits_BChw, latent_BKhw], dim=1)
    return ClassScores(logits_BChw, label_BHW), answer_BKD


def _with_pseudo_labels(
    feature_BDhw: Tensor, batch: Batch, step: StepInputs, average_BDhw: Tensor | None
) -> ClassScores:
    features = {"student": feature_BDhw, "ema": average_BDhw, "teacher": batch.dense_BDyx}
    assert step.source is not None
    logits_BChw = _logits(feature_BDhw, step.classes.text_CD, step.config)
    if step.source == "teacher" and batch.names_B3qr is not None:
        grid = (feature_BDhw.shape[2], feature_BDhw.shape[3])
        return ClassScores(logits_BChw, labels_of_map(batch, step.config, grid))
    named_by_BDhw = features[step.source]
    assert named_by_BDhw is not None
    score_BChw = logits_BChw.detach()
    if step.source != "student":
        score_BChw = _logits(named_by_BDhw, step.classes.text_CD, step.config).detach()
    grid = (feature_BDhw.shape[2], feature_BDhw.shape[3])
    label_BHW = filled_labels(bilinear(score_BChw, grid), batch, step.classes, step.config)
    return ClassScores(logits_BChw, label_BHW)


def filled_labels(
    score_BChw: Tensor, batch: Batch, classes: KnownClasses, config: RunConfig
) -> Tensor:
    """Visible labels where there are any, else pseudo labels (paper 1, Algorithm 1, last step).

    `score_BChw` are the scores of all classes that name the pixels. Returns int64 labels (B, H, W),
    VOID where neither says anything.
    """
    method = config.self_training.method
    assert method != "none"
    unlabelled_Bhw, region_Bhw = _where(batch, (score_BChw.shape[2], score_BChw.shape[3]))
    pseudo_Bhw = pseudo_labels(
        score_BChw,
        unlabelled_Bhw=unlabelled_Bhw,
        region_Bhw=region_Bhw,
        unseen_ids=classes.unseen_U,
        share=config.self_training.top_percent / 100,
        method=method,
        confidence=config.self_training.confidence,
    )
    return _filled(pseudo_Bhw, batch)


def labels_of_map(batch: Batch, config: RunConfig, grid: tuple[int, int]) -> Tensor:
    """`filled_labels` where the store's map of names names the pixels; confidence is its score."""
    method = config.self_training.method
    assert method != "none"
    assert batch.names_B3qr is not None
    class_Bqr, best_Bqr, second_Bqr = batch.names_B3qr.unbind(1)
    sure_Bqr = score_of_codes(best_Bqr)
    if config.self_training.confidence == "margin":
        sure_Bqr = sure_Bqr - score_of_codes(second_Bqr)
    unlabelled_Bhw, region_Bhw = _where(batch, grid)
    pseudo_Bhw = confident_labels(
        nearest(class_Bqr, grid).long(),
        nearest(sure_Bqr, grid),
        unlabelled_Bhw=unlabelled_Bhw,
        region_Bhw=region_Bhw,
        share=config.self_training.top_percent / 100,
        method=method,
    )
    return _filled(pseudo_Bhw, batch)


def _unlabelled(batch: Batch) -> Tensor:
    """bool: inside the image and without a visible label."""
    return (batch.label_BHW == VOID) & batch.inside_BHW


def _where(batch: Batch, grid: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """(B, h, w) where pseudo labels may be given, and the latent region there."""
    # `st` does not look at regions, and has none.
    region_BHW = batch.label_BHW if batch.region_BHW is None else batch.region_BHW
    return nearest(_unlabelled(batch), grid), nearest(region_BHW, grid)


def _filled(pseudo_Bhw: Tensor, batch: Batch) -> Tensor:
    pseudo_BHW = nearest(pseudo_Bhw, (batch.label_BHW.shape[1], batch.label_BHW.shape[2]))
    return torch.where(_unlabelled(batch), pseudo_BHW, batch.label_BHW.long())


def _logits(feature_BDhw: Tensor, text_CD: Tensor, config: RunConfig) -> Tensor:
    student = config.student
    return class_logits(feature_BDhw, text_CD, student.logit_scale, student.logit_product)
