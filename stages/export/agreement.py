"""An exported file, run by onnxruntime beside the run itself on the same images.

Legend: C classes, D CLIP width, h w positions of the scores, H W pixels.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from numpy.typing import NDArray
from torch import Tensor

from zsseg.stages.data.spec import VOID
from zsseg.stages.evaluate.asked_names import AskedNames
from zsseg.stages.evaluate.inference import calibrated, predict_scores, prepared
from zsseg.stages.evaluate.labelling import upsampled_argmax
from zsseg.stages.evaluate.scorer import Scorer, class_scorer
from zsseg.stages.evaluate.trained_run import TrainedRun


@dataclass(frozen=True)
class Agreement:
    """What an export gives, beside what the run gives."""

    labels: float
    """Share of pixels with the same label, of all images together."""
    score_difference: float | None
    """The largest difference of scores; None where the export has no output of them."""
    seconds: float
    """Of onnxruntime for one image, the median."""
    torch_seconds: float
    """Of PyTorch for the same image."""


def agreement(
    model: Path,
    run: TrainedRun,
    asked: AskedNames,
    images: Sequence[NDArray[np.uint8]],
) -> Agreement:
    """Run an export and the run on images (H, W, 3), on the CPU, with as many threads as torch."""
    session = open_session(model)
    inputs = {each.name for each in session.get_inputs()}
    outputs = [each.name for each in session.get_outputs()]
    scorer = class_scorer(run.student, asked.text_KD)
    equal = total = 0
    difference: float | None = None
    times: list[tuple[float, float]] = []
    text_CD = asked.text_KD.cpu().numpy()
    for image_HW3 in images:
        feeds = {"image": image_HW3[None]} | ({"text": text_CD} if "text" in inputs else {})
        session.run(None, feeds)  # the first run of a size also plans its memory
        start = time.perf_counter()
        found = dict(zip(outputs, session.run(None, feeds), strict=True))
        middle = time.perf_counter()
        score_Chw = _scores(run, scorer, asked, image_HW3)
        label_HW = upsampled_argmax(score_Chw, image_HW3.shape[:2])
        times.append((middle - start, time.perf_counter() - middle))
        exported_HW = found["labels"][0]
        if "text" not in inputs:
            label_HW[label_HW >= len(asked.classes)] = VOID
        equal += int((exported_HW == label_HW).sum())
        total += label_HW.size
        if "scores" in found:
            apart = float(np.abs(found["scores"][0] - score_Chw.cpu().numpy()).max())
            difference = max(difference or 0.0, apart)
    seconds, torch_seconds = np.median(times, axis=0)
    return Agreement(equal / total, difference, float(seconds), float(torch_seconds))


def open_session(model: Path) -> onnxruntime.InferenceSession:
    """The file, on the CPU, with torch's number of threads; onnxruntime's own remarks stay out."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])


def _scores(
    run: TrainedRun, scorer: Scorer, asked: AskedNames, image_HW3: NDArray[np.uint8]
) -> Tensor:
    """(C, h, w) of the run itself, less gamma."""
    config = run.evaluate
    image_3HW = prepared(image_HW3, config=config, stride=run.stride)
    score_Chw = predict_scores(scorer, image_3HW, config=config, stride=run.stride)
    return calibrated(score_Chw, config.calibration, seen_ids=asked.seen_ids)
