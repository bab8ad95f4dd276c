"""Three ways to a loss of full-size scores: `python -m benchmarks.pixel_losses`.

Scores of 171 classes on a grid of 128 x 128, pixels of 512 x 512, half of them labelled. `whole`
upsamples the batch and lets autograd keep what it needs; `by image` upsamples an image at a time
and again in the backward pass (torch.utils.checkpoint); `strips` is what training does. Each peak
is the resident memory that a process of its own gained.
"""

import platform
import subprocess
import sys
from collections.abc import Callable
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from benchmarks import scale
from benchmarks.ratio import ROUNDS, Ratio, timed_in_turn
from zsseg.stages.data.spec import VOID
from zsseg.stages.train.losses.likelihood import negative_log_likelihood
from zsseg.stages.train.losses.nel import nel

Way = Literal["whole", "by image", "strips"]
Loss = Literal["cross-entropy", "NEL"]

IMAGES, CLASSES, GRID, SIZE = 2, 171, (128, 128), (512, 512)


def scene() -> tuple[Tensor, Tensor]:
    """Scores as of a student in the middle of its training, and labels with void."""
    torch.manual_seed(0)
    logits_BChw = 5 * torch.randn(IMAGES, CLASSES, *GRID)
    label_BHW = torch.randint(0, CLASSES, (IMAGES, *SIZE))
    label_BHW[:, :, SIZE[1] // 2 :] = VOID
    return logits_BChw.requires_grad_(), label_BHW


def cross_entropy_sum(logits_BCHW: Tensor, label_BHW: Tensor) -> Tensor:
    return F.cross_entropy(logits_BCHW, label_BHW, ignore_index=VOID, reduction="sum")


def nel_sum(logits_BCHW: Tensor, label_BHW: Tensor) -> Tensor:
    """The focal part of NEL as ZegCLIP writes it."""
    target_BCHW = label_BHW[:, None] == torch.arange(CLASSES)[:, None, None]
    target_BCHW = target_BCHW.to(logits_BCHW.dtype)
    p_BCHW = logits_BCHW.sigmoid()
    entropy_BCHW = F.binary_cross_entropy_with_logits(logits_BCHW, target_BCHW, reduction="none")
    wrong_BCHW = p_BCHW + target_BCHW - 2 * p_BCHW * target_BCHW
    alpha_BCHW = 0.75 - 0.5 * target_BCHW
    return (alpha_BCHW * wrong_BCHW.square() * entropy_BCHW).sum()


def step(way: Way, loss: Loss) -> Callable[[], None]:
    """A forward and backward pass from the scores on the grid."""
    logits_BChw, label_BHW = scene()
    plain = cross_entropy_sum if loss == "cross-entropy" else nel_sum

    def upsampled(logits_BChw: Tensor, label_BHW: Tensor) -> Tensor:
        return plain(F.interpolate(logits_BChw, size=SIZE, mode="bilinear"), label_BHW)

    def run() -> None:
        match way:
            case "whole":
                total = upsampled(logits_BChw, label_BHW)
            case "by image":
                total = torch.stack(
                    [
                        checkpoint(
                            upsampled,
                            logits_BChw[image, None],
                            label_BHW[image, None],
                            use_reentrant=False,
                            preserve_rng_state=False,
                        )
                        for image in range(IMAGES)
                    ]
                ).sum()
            case "strips" if loss == "cross-entropy":
                total = negative_log_likelihood(logits_BChw, label_BHW).sum()
            case "strips":
                total = nel(
                    logits_BChw, label_BHW, focal_weight=1.0, dice_weight=1.0, void="negative"
                )
        logits_BChw.grad = None
        total.backward()

    return run


def ratios() -> list[Ratio]:
    """The seconds of each other way to those of strips."""
    return [
        timed_in_turn(f"{loss}, {way} / strips", step(way, loss), step("strips", loss))
        for loss in ("cross-entropy", "NEL")
        for way in ("whole", "by image")
    ]


def peak(way: Way, loss: Loss) -> float:
    """MiB that a step adds to the memory of a process of its own."""
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.pixel_losses", way, loss],
        capture_output=True,
        text=True,
        check=True,
    )
    return float(done.stdout)


def gained(way: Way, loss: Loss) -> float:
    """MiB of resident memory that this process gains by a step."""
    run = step(way, loss)
    before = scale.peak("self")
    run()
    return (scale.peak("self") - before) / 2**20


def peak_ratios() -> list[Ratio]:
    """The memory that a step takes in each other way to that of strips."""
    ways: tuple[Way, ...] = ("whole", "by image")
    losses: tuple[Loss, ...] = ("cross-entropy", "NEL")
    return [
        Ratio(
            f"{loss}, peak memory, {way} / strips",
            (peak(way, loss),),
            (peak("strips", loss),),
            unit="MiB",
        )
        for loss in losses
        for way in ways
    ]


def main() -> None:
    """Print every ratio and peak."""
    match sys.argv[1:]:
        case ["whole" | "by image" | "strips" as way, "cross-entropy" | "NEL" as loss]:
            sys.stdout.write(f"{gained(way, loss)}\n")
            return
    sys.stdout.write(
        f"{platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}, "
        f"{IMAGES} images, median of {ROUNDS} rounds\n"
    )
    losses: tuple[Loss, ...] = ("cross-entropy", "NEL")
    ways: tuple[Way, ...] = ("whole", "by image", "strips")
    for loss in losses:
        found = ", ".join(f"{way} {peak(way, loss):.0f} MiB" for way in ways)
        sys.stdout.write(f"{loss}, peak: {found}\n")
    for ratio in ratios():
        sys.stdout.write(f"{ratio}\n")


if __name__ == "__main__":
    main()
