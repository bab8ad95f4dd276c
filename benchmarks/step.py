"""What distillation costs a training step: `python -m benchmarks.run --only step`."""

import torch
import torch.nn.functional as F

from benchmarks.ratio import Ratio, timed_in_turn
from stages.train.batches import Batch
from stages.train.classes import Classes
from stages.train.config import RunConfig, StudentConfig
from stages.train.losses import batch_losses
from stages.train.method import ObjectiveConfig, SelfTrainingConfig, Source
from stages.train.student import build_student


def distilled_over_supervised() -> Ratio:
    """A step with SDD and RST from cached tokens / a plain supervised step, on the same crops."""
    torch.manual_seed(0)
    student = build_student(StudentConfig(encoder="mit_b0", weights="none"), 512).train()
    classes, unseen = 171, 15
    seen_S = torch.arange(classes - unseen)
    place_of_seen = torch.full((256,), 255)
    place_of_seen[seen_S] = seen_S
    known = Classes(
        text_CD=F.normalize(torch.randn(classes, 512), dim=1),
        seen_S=seen_S,
        unseen_U=torch.arange(classes - unseen, classes),
        place_of_seen=place_of_seen,
    )
    size, images = 256, 2
    label_BHW = torch.randint(0, classes - unseen, (images, size, size), dtype=torch.uint8)
    label_BHW[:, :, size // 2 :] = 255
    batch = Batch(
        row_B=torch.arange(images),
        image_B3HW=torch.randn(images, 3, size, size),
        label_BHW=label_BHW,
        inside_BHW=torch.ones(images, size, size, dtype=torch.bool),
        region_BHW=torch.randint(0, 9, (images, size, size), dtype=torch.uint8),
        token_BD=torch.randn(images, 512),
    )
    supervised = RunConfig()
    distilled = RunConfig(
        objectives=ObjectiveConfig(sdd=1.0, unseen_logits="competing"),
        self_training=SelfTrainingConfig(method="rst"),
    )

    def step(config: RunConfig, *, source: Source | None) -> None:
        losses, *_ = batch_losses(student(batch.image_B3HW), batch, known, config, source=source)
        student.zero_grad()
        torch.stack(list(losses.values())).sum().backward()

    return timed_in_turn(
        f"SDD + RST step from the cache / supervised step, mit_b0, {images} x {size} x {size}",
        lambda: step(distilled, source="student"),
        lambda: step(supervised, source=None),
        target="at most 1.10",
    )


MEASURES = (distilled_over_supervised,)
