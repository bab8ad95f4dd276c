"""A trained student as a program of torch.export: torch alone runs it, in Python or C++.

It takes images at their working size: to resize one (to sides in multiples of `multiple`) is left
to the caller, as are names, whose embeddings are an input.

Legend: M channels of the decoded map, N images, C classes, D CLIP width, H W pixels, h w positions
of the scores.
"""

import json
import time
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from zsseg.stages.cache.disk.disk_errors import disk_errors
from zsseg.stages.data.images import resize_image
from zsseg.stages.errors import UserError
from zsseg.stages.evaluate.inference import working_size
from zsseg.stages.evaluate.labelling import upsampled_argmax
from zsseg.stages.evaluate.scorer import class_scorer
from zsseg.stages.evaluate.trained_run import TrainedRun
from zsseg.stages.export.fixed_padding import fix_paddings
from zsseg.stages.export.quiet_exporter import quiet_exporter
from zsseg.stages.export.real_images import images_for
from zsseg.stages.printable import first_line
from zsseg.stages.share.run_facts import licences
from zsseg.stages.train.batches.imagenet import MEAN, STD, normalise
from zsseg.stages.train.students.similarity import SHORTEST
from zsseg.stages.train.students.student import FINEST_STRIDE, Student

ABOUT = "zsseg.json"
"""The file inside a program that says what it is."""

_TRIED = 4
_LABELS, _SCORES = 0.999, 1e-3


@dataclass(frozen=True)
class ExportedProgram:
    """A program that was written, and how it was tried."""

    path: Path
    size: int
    """Bytes."""
    images: str
    """In words: which images it was tried on."""
    labels: float
    """Share of pixels with the label that the run gives."""
    score_difference: float
    seconds: tuple[float, float]
    """For one image: the program's, and the run's own network's; medians."""


class StudentProgram(nn.Module):
    """What is exported."""

    mean_311: Tensor
    std_311: Tensor

    def __init__(self, student: Student) -> None:
        super().__init__()
        self.network, self.projection = student.network, student.projection
        with torch.no_grad():
            example = self.network(torch.zeros(1, 3, student.multiple, student.multiple))
        # As `Student.decoded` does where nothing has to be padded: numbers, not formulas of sizes.
        self.pooled = max(1, FINEST_STRIDE * example.shape[2] // student.multiple)
        self.register_buffer("mean_311", torch.from_numpy(255 * MEAN)[:, None, None])
        self.register_buffer("std_311", torch.from_numpy(255 * STD)[:, None, None])

    def forward(self, image: Tensor, text: Tensor, lowered: Tensor) -> tuple[Tensor, Tensor]:
        """Labels (N, H, W) int32 and scores (N, C, h, w) float32.

        `image` (N, H, W, 3) uint8 RGB; `text` (C, D) L2-normalised embeddings; `lowered` (C,) what
        is taken off the scores of each name: gamma for seen classes, else 0.
        """
        image_N3HW = (image.permute(0, 3, 1, 2).float() - self.mean_311) / self.std_311
        decoded_NMhw = self.network(image_N3HW)
        if self.pooled > 1:
            decoded_NMhw = F.avg_pool2d(decoded_NMhw, self.pooled)
        feature_NDhw = self.projection(decoded_NMhw)
        norm_N1hw = torch.linalg.vector_norm(feature_NDhw, dim=1, keepdim=True)
        score_NChw = F.conv2d(feature_NDhw, text[:, :, None, None])
        score_NChw = score_NChw / norm_N1hw.clamp_min(SHORTEST) - lowered[:, None, None]
        large_NCHW = F.interpolate(score_NChw, image.shape[1:3], mode="bilinear")
        return large_NCHW.argmax(1).to(torch.int32), score_NChw


def export_program(
    run: TrainedRun, out: Path, *, images: Path | None = None, force: bool = False
) -> ExportedProgram:
    """Write a run's student to `out` (.pt2), once the file was run beside the run itself.

    Raises UserError where something is there already, for names of which several are kept
    (text.synonyms=max), for a student that torch does not export, and where the two do not agree;
    ResourceError where `out` cannot be written. Then nothing of it remains.
    """
    if out.is_dir() or out.suffix != ".pt2":
        raise UserError(f"{out}: give --out the name of a new file that ends in .pt2")
    if out.exists() and not force:
        raise UserError(f"{out}: is there already. Give another --out, or add --force")
    if run.text_CD.ndim != 2:
        raise UserError(
            f"{run.path}: keeps every name of a class, and a program takes one embedding of each. "
            "Use --format onnx"
        )
    student = deepcopy(run.student).cpu().eval().requires_grad_(False)
    tried = images_for(run, images, _TRIED)
    program = _exported(student, run.text_CD.cpu())
    partial = out.with_name(f".{out.name}.partial.pt2")
    with disk_errors(out.parent, out.name):
        try:
            out.parent.mkdir(parents=True, exist_ok=True)
            with quiet_exporter():
                torch.export.save(program, partial, extra_files={ABOUT: _about(run)})
            made = _tried(partial, run, student, tried.arrays)
            size = partial.stat().st_size
            partial.replace(out)
        finally:
            partial.unlink(missing_ok=True)
    return ExportedProgram(out, size, tried.source, *made)


def _exported(student: Student, text_CD: Tensor) -> torch.export.ExportedProgram:
    fixed = deepcopy(student)
    fix_paddings(fixed)
    multiple = student.multiple
    example = torch.zeros(2, 2 * multiple, 3 * multiple, 3, dtype=torch.uint8)
    sides = {
        0: torch.export.Dim("images", min=1),
        1: multiple * torch.export.Dim("rows", min=1),
        2: multiple * torch.export.Dim("columns", min=1),
    }
    names = torch.export.Dim("names", min=1)
    shapes = {"image": sides, "text": {0: names}, "lowered": {0: names}}
    inputs = (example, text_CD, torch.zeros(len(text_CD)))
    try:
        return torch.export.export(
            StudentProgram(fixed).eval(), inputs, dynamic_shapes=shapes, strict=False
        )
    except Exception as error:  # of the exporter, of any of its passes
        raise UserError(
            "torch.export does not take this student for images of any size "
            f"({first_line(error)[:200]}). Export one of another architecture or encoder"
        ) from error


def _about(run: TrainedRun) -> str:
    """Names, embeddings, sizes and licences, as JSON."""
    known = {
        "version": version("zsseg"),
        "names": run.names,
        "text": run.text_CD.cpu().tolist(),
        "lowered": _lowered(run).tolist(),
        "multiple": run.student.multiple,
        "short_side": run.evaluate.short_side,
        "licences": licences(run),
    }
    return json.dumps(known, ensure_ascii=False)


def _lowered(run: TrainedRun) -> Tensor:
    lowered_C = torch.zeros(len(run.names))
    lowered_C[list(run.spec.seen_ids)] = run.evaluate.calibration
    return lowered_C


@torch.inference_mode()
def _tried(
    path: Path, run: TrainedRun, student: Student, images: Sequence[NDArray[np.uint8]]
) -> tuple[float, float, tuple[float, float]]:
    """How the file agrees with the run's own network, and how long both take."""
    module = torch.export.load(path).module()
    text_CD, lowered_C = run.text_CD.cpu(), _lowered(run)
    own = class_scorer(student, text_CD)
    equal, pixels, apart, times = 0, 0, 0.0, []
    for image_HW3 in images:
        size = working_size(
            image_HW3.shape[:2], short_side=run.evaluate.short_side, stride=student.multiple
        )
        image_1HW3 = torch.from_numpy(resize_image(image_HW3, size))[None]
        start = time.perf_counter()
        label_1HW, score_1Chw = module(image_1HW3, text_CD, lowered_C)
        middle = time.perf_counter()
        image_13HW = torch.from_numpy(normalise(image_1HW3[0].numpy()))[None]
        expected_1Chw = own(image_13HW) - lowered_C[:, None, None]
        times.append((middle - start, time.perf_counter() - middle))
        label_HW = upsampled_argmax(expected_1Chw[0], size)
        equal += int((label_1HW[0].numpy() == label_HW).sum())
        pixels += label_HW.size
        apart = max(apart, float((score_1Chw - expected_1Chw).abs().max()))
    if equal / pixels < _LABELS or apart > _SCORES:
        raise UserError(
            f"the exported program differs from the run: {equal / pixels:.2%} of the labels are "
            f"equal, scores differ by up to {apart:.1e}. Nothing is kept. Export one of another "
            "architecture or encoder"
        )
    seconds, own_seconds = np.median(times, axis=0)
    return equal / pixels, apart, (float(seconds), float(own_seconds))
