"""Measures a student: parameters, multiply-adds, feature stride and speed.

Legend: B batch, H W pixels.
"""

import copy
import statistics
import time
from dataclasses import dataclass

import torch
from torch.utils.flop_counter import FlopCounterMode

from zsseg.stages.errors import ResourceError, UserError
from zsseg.stages.train.run_config import StudentConfig
from zsseg.stages.train.students.student import Student, build_student, feature_stride

PAPERS = (
    *(f"segformer/mit_b{size}" for size in range(6)),
    *(f"setr_{head}/vit_base_patch16_384" for head in ("naive", "pup", "mla")),
    *(f"segnext/mscan_{size}" for size in "tsbl"),
)
"""The students of the papers, as ARCHITECTURE/ENCODER."""

_RUNS = 5
_SECONDS_ENOUGH = 10.0
"""Seconds after which a slow student is not run again."""


@dataclass(frozen=True)
class StudentInfo:
    """One student at one image size."""

    architecture: str
    encoder: str
    width: int
    """D, channels of the feature."""
    size: int
    """Side in pixels of the square image that the rest is about."""
    parameters: int
    """All that are trained, the projection to D included."""
    multiply_adds: int
    """Of one image, in convolutions and matrix products, those of attention and projection
    included; as the papers count: one multiplication and one addition are one."""
    stride: int
    """Pixels between two positions of the feature."""
    images_per_second: float | None
    """Images of that size from pixels to feature, one at a time in float32; None: not measured."""


def named_student(name: str) -> StudentConfig:
    """The student that ARCHITECTURE/ENCODER means, with random weights. Raises UserError."""
    architecture, _, encoder = name.partition("/")
    if not architecture or not encoder:
        raise UserError(
            f"student '{name}': give ARCHITECTURE/ENCODER, such as segformer/mit_b0, "
            "segnext/mscan_t or setr_pup/vit_base_patch16_384"
        )
    return StudentConfig(architecture=architecture, encoder=encoder, weights="none")


def student_info(
    config: StudentConfig, *, width: int, size: int, device: torch.device | None
) -> StudentInfo:
    """Build a student with random weights and measure it; without a `device` not its speed.

    Raises UserError for a student that cannot be built, and ResourceError when a GPU has no room
    for it.
    """
    student = build_student(config, width, pretrained=False).eval()
    try:
        speed = None if device is None else images_per_second(student, size, device)
    except torch.OutOfMemoryError as error:
        raise ResourceError(
            f"{config.architecture}/{config.encoder}: no room for an image of {size} x {size} on "
            f"{device}. Use a smaller --size, --device cpu or --no-speed"
        ) from error
    return StudentInfo(
        architecture=config.architecture,
        encoder=config.encoder,
        width=width,
        size=size,
        parameters=sum(parameter.numel() for parameter in student.parameters()),
        multiply_adds=multiply_adds(student, size),
        stride=feature_stride(student),
        images_per_second=speed,
    )


@torch.inference_mode()
def multiply_adds(student: Student, size: int) -> int:
    """Multiply-adds of one image of size x size pixels, counted without computing anything."""
    shapes_only = copy.deepcopy(student).to("meta")
    with FlopCounterMode(display=False) as counter:
        shapes_only(torch.zeros(1, 3, size, size, device="meta"))
    operations: int = counter.get_total_flops()
    return operations // 2  # torch counts a multiplication and its addition as two


@torch.inference_mode()
def images_per_second(student: Student, size: int, device: torch.device) -> float:
    """Images per second: the median of up to five single runs after one; moves the student."""
    student = student.to(device)
    image_13HW = torch.rand(1, 3, size, size, device=device)

    def run() -> float:
        started = time.perf_counter()
        student(image_13HW)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter() - started

    run()
    seconds = [run()]
    while len(seconds) < _RUNS and sum(seconds) < _SECONDS_ENOUGH:
        seconds.append(run())
    return 1 / statistics.median(seconds)
