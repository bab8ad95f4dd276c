"""`make bench`: each figure is a ratio of two things timed in turn, in this one run.

Machines are noisy, so both sides alternate and the median of the ratios is printed with its spread.
"""

import platform
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import open_clip
import torch
import torch.nn.functional as F
from threadpoolctl import threadpool_limits
from torch import Tensor

from stages.data.spec import VOID
from stages.precompute.config import DenseConfig, LocalConfig, RegionConfig
from stages.precompute.crops import class_crops
from stages.precompute.dense import dense_tokens
from stages.precompute.regions import mine_regions, unlabelled_tokens
from stages.train.batches import Batch
from stages.train.classes import Classes
from stages.train.config import RunConfig, StudentConfig
from stages.train.losses import batch_losses
from stages.train.method import ObjectiveConfig, SelfTrainingConfig, Source
from stages.train.student import build_student

ROUNDS = 5


@dataclass(frozen=True)
class Ratio:
    """Seconds of two things, round by round."""

    name: str
    first: tuple[float, ...]
    second: tuple[float, ...]

    def __str__(self) -> str:
        ratios = [a / b for a, b in zip(self.first, self.second, strict=True)]
        return (
            f"{self.name}: {statistics.median(ratios):.3f}  ({min(ratios):.3f} to {max(ratios):.3f}"
            f"; {statistics.median(self.first):.3f} s / {statistics.median(self.second):.3f} s)"
        )


def timed_in_turn(name: str, first: Callable[[], object], second: Callable[[], object]) -> Ratio:
    """Run both once to warm up, then in turn."""
    seconds: tuple[list[float], list[float]] = ([], [])
    for round_number in range(ROUNDS + 1):
        for work, spent in zip((first, second), seconds, strict=True):
            start = time.perf_counter()
            work()
            if round_number:
                spent.append(time.perf_counter() - start)
    return Ratio(name, tuple(seconds[0]), tuple(seconds[1]))


def mining_over_teacher() -> Ratio:
    """All that one image's latent regions cost besides the teacher / the forward of its tokens.

    Unlabelled tokens, window seeds, k-means and merging of 32 x 32 x 512 tokens, and the boxes of
    the class crops at 512 x 512 pixels. One token in eight or so has a visible label, so the work
    is nearly all there can be. It has one thread, as in stage one; the teacher has all of them.
    """
    visual = open_clip.create_model("ViT-B-16-quickgelu").visual.eval()
    image_13HW = torch.rand(1, 3, 512, 512)
    dense, regions, local = DenseConfig(), RegionConfig(), LocalConfig()
    with torch.inference_mode():
        dense_Dhw = dense_tokens(visual, image_13HW, dense)[0].numpy()
    rng = np.random.default_rng(0)
    class_hw = rng.integers(0, 20, (8, 8), dtype=np.uint8)
    class_hw[rng.random((8, 8)) > 1 / 8] = VOID
    visible_HW = np.repeat(np.repeat(class_hw, 64, axis=0), 64, axis=1)
    image_HW3 = np.zeros((512, 512, 3), np.uint8)

    def teacher() -> Tensor:
        with torch.inference_mode():
            return dense_tokens(visual, image_13HW, dense)

    def mining() -> object:
        with threadpool_limits(limits=1):
            unlabelled_hw = unlabelled_tokens(visible_HW, (32, 32), regions.unlabelled_share)
            region_hw = mine_regions(dense_Dhw, unlabelled_hw, regions, backend="sklearn")
            return class_crops(  # measured here, cut when they are asked for
                image_HW3,
                visible_HW,
                region_hw,
                margin=local.margin,
                max_masks=local.max_masks,
            )

    return timed_in_turn(
        "region mining and boxes of crops / ViT-B/16 dense forward, 512 x 512", mining, teacher
    )


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
    )


def main() -> None:
    """Print the machine, the versions and every ratio."""
    sys.stdout.write(
        f"{platform.machine()}, {torch.get_num_threads()} threads, Python "
        f"{platform.python_version()}, torch {torch.__version__}, median of {ROUNDS} rounds\n"
    )
    for measure in (mining_over_teacher, distilled_over_supervised):
        sys.stdout.write(f"{measure()}\n")


if __name__ == "__main__":
    main()
