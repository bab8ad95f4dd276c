"""Walks every architecture with a sample of encoders; docs/students.md has the list of refusals.

`PYTHONPATH=.:tests python -m helpers.student_walk` writes the list, in about an hour of one core.
"""

import math
import re
import warnings
from collections import defaultdict
from pathlib import Path

import segmentation_models_pytorch as smp
import torch
import torch.nn.functional as F

from zsseg.stages.errors import UserError
from zsseg.stages.train.run_config import StudentConfig
from zsseg.stages.train.students.student import (
    Student,
    build_student,
    class_logits,
    feature_stride,
)

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "students.md"
ARCHITECTURES = (*smp.MODEL_ARCHITECTURES_MAPPING, "setr_naive", "setr_pup", "setr_mla")
_LIST = re.compile(r"(?<=<!-- list -->\n)(.*?)(?=<!-- end of the list -->)", re.DOTALL)
_ROW = re.compile(r"^\| (?P<refused>[^|]*) \| (?P<why>[^|]*) \| (?P<encoders>[^|]*) \|$", re.M)
_HEAD = "| refused by | why | encoders |\n|---|---|---|\n"

WIDTH = 8


def refusal(architecture: str, encoder: str) -> str | None:
    """Why a pair is refused, None where it works; whatever else is raised goes through."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            student = built(architecture, encoder)
        except UserError as error:
            return str(error)
        train_once(student)
        evaluate_once(student)
    return None


def built(architecture: str, encoder: str) -> Student:
    torch.manual_seed(0)
    config = StudentConfig(architecture=architecture, encoder=encoder, weights="none")
    return build_student(config, WIDTH)


def train_once(student: Student) -> None:
    """Forward and backward on two crops of the smallest side; the encoder must learn by it."""
    feature_BDhw = student.train()(torch.randn(2, 3, student.multiple, student.multiple))
    text_CD = F.normalize(torch.randn(3, WIDTH), dim=1)
    logits_BChw = class_logits(feature_BDhw, text_CD, 10.0)
    label_Bhw = torch.randint(3, (2, *logits_BChw.shape[2:]))
    F.cross_entropy(logits_BChw, label_Bhw).backward()
    parameters = list(student.network.get_submodule("encoder").parameters())
    gradients = [each.grad for each in parameters if each.grad is not None]
    assert len(gradients) > len(parameters) / 10, f"{len(gradients)} of {len(parameters)} learn"
    assert all(bool(each.isfinite().all()) for each in gradients)


@torch.inference_mode()
def evaluate_once(student: Student) -> None:
    """An image of sides that nothing divides."""
    stride = feature_stride(student)
    height, width = student.multiple + 21, 45
    feature_BDhw = student.eval()(torch.randn(1, 3, height, width))
    assert feature_BDhw.shape == (1, WIDTH, math.ceil(height / stride), math.ceil(width / stride))
    assert bool(feature_BDhw.isfinite().all())


def documented() -> dict[str, set[str]]:
    """The architectures that refuse each encoder of the list in docs/students.md."""
    listed = _LIST.search(DOCUMENT.read_text())
    assert listed
    return {
        encoder: set(re.findall(r"`([^`]+)`", row["refused"]))
        for row in _ROW.finditer(listed[1])
        for encoder in re.findall(r"`([^`]+)`", row["encoders"])
    }


def write(refusals: dict[str, dict[str, str]]) -> None:
    """Put the list in its place: of each encoder, the architectures that refuse it, and why."""
    rows: dict[tuple[str, str], list[str]] = defaultdict(list)
    for encoder, reasons in refusals.items():
        names = ", ".join(f"`{name}`" for name in ARCHITECTURES if name in reasons) or "none"
        kinds = {_kind(why) for why in reasons.values()}
        rows[names, "; ".join(sorted(kinds))].append(encoder)
    lines = [
        f"| {names} | {why} | {', '.join(f'`{each}`' for each in sorted(encoders))} |"
        for (names, why), encoders in sorted(rows.items(), key=lambda row: -len(row[1]))
    ]
    text = _HEAD + "\n".join(lines) + "\n"
    DOCUMENT.write_text(_LIST.sub(lambda _: text, DOCUMENT.read_text()))


def _kind(reason: str) -> str:
    if "images of any size" in reason:
        return "images of one size"
    if "dilates" in reason:
        return "cannot be dilated"
    if "do not halve" in reason:
        return "maps do not halve"
    if "plain ViT" in reason or "there is no" in reason:
        return "no plain ViT"
    if "patches of" in reason:
        return "patches do not suit the head"
    return "does not fit the decoder"


def main() -> None:
    """Walk the encoders of the list, and write it again."""
    torch.set_num_threads(1)
    pairs = {
        encoder: {name: refusal(name, encoder) for name in ARCHITECTURES}
        for encoder in documented()
    }
    write({e: {n: why for n, why in of.items() if why is not None} for e, of in pairs.items()})


if __name__ == "__main__":
    main()
