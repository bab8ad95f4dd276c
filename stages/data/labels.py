"""Reads labels with all their classes: for evaluation and checks, never for training.

Training and precompute read labels through `visible.py`, which hides the unseen classes.
"""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from zsseg.stages.data.images import read_raw_label
from zsseg.stages.data.pascal_context import encoding_59, encoding_459, paint
from zsseg.stages.data.samples import Sample
from zsseg.stages.data.spec import VOID, DatasetSpec, Layout
from zsseg.stages.errors import DatasetError

_UNKNOWN = -1


class UnknownValuesError(DatasetError):
    """A label with values that its description does not know; `values`: these."""

    def __init__(self, *lines: str, values: tuple[int, ...]) -> None:
        super().__init__(*lines)
        self.values = values


_IMPOSSIBLE: Mapping[Layout, tuple[frozenset[int], str]] = {
    "coco-stuff": (
        frozenset({11, 25, 28, 29, 44, 65, 67, 68, 70, 82, 90, 182}),
        "No file of stuffthingmaps holds these. Are they the ids of labels.txt (0 = unlabelled, "
        "1 = person), off by one from those of stuffthingmaps (0 = person, 255 = unlabelled)? "
        "Then subtract 1 from every pixel, modulo 256",
    ),
    "ade20k": (
        frozenset({VOID}),
        "No file of the challenge holds it. Has 1 been subtracted from the labels (wall 0, void "
        "255)? Then take the challenge's own files (void 0, wall 1), or add 1 modulo 256",
    ),
    "cityscapes": (
        frozenset({VOID}),
        "No _labelIds.png holds it. Are these train ids? Then call the files _labelTrainIds.png",
    ),
}
"""By layout: values that no genuine file holds, and what the labels probably are instead. Where
the description ignores one, its pixels say all the same that the other values mean something else.
"""


def read_label(spec: DatasetSpec, sample: Sample) -> NDArray[np.uint8]:
    """(H, W) class ids of a sample, VOID where the label carries no class.

    Raises DatasetError when the sample has no label, when its file cannot be read, or when it holds
    a value that the encoding does not know; the text names the values and their pixel counts.
    """
    if sample.label is None:
        raise DatasetError(
            f"{sample.image}: has no label. `zsseg dataset verify` says where labels are expected"
        )
    raw_HW: NDArray[np.integer]
    if sample.masks is None:
        raw_HW = read_raw_label(sample.label)
    else:
        try:
            raw_HW = paint(sample.masks)
        except ValueError as error:
            raise DatasetError(
                f"{sample.label}: the label of '{sample.id}' is damaged ({error}). "
                "Download the file again"
            ) from error
    encoding = _encoding(spec, sample)
    # V values: for 8-bit labels all 256, which needs no sorting of the pixels.
    if raw_HW.dtype == np.uint8:
        values, index_HW = list(range(256)), raw_HW.astype(np.intp)
    else:
        value_V, index_HW = np.unique(raw_HW, return_inverse=True)
        values = value_V.tolist()
    code_V = np.array([encoding.get(value, _UNKNOWN) for value in values], dtype=np.int16)
    label_HW = code_V[index_HW].reshape(raw_HW.shape)
    if (unknown_HW := label_HW == _UNKNOWN).any():
        found_V, count_V = np.unique(raw_HW[unknown_HW], return_counts=True)
        listed = ", ".join(f"{v} ({n} px)" for v, n in zip(found_V[:8], count_V[:8], strict=True))
        more = f" and {found_V.size - 8} more" if found_V.size > 8 else ""
        raise UnknownValuesError(
            f"{sample.label}: the label of '{sample.id}' holds values without a meaning in "
            f"'{spec.name}': {listed}{more}. {_advice(spec, sample, found_V.tolist())}",
            values=tuple(found_V.tolist()),
        )
    return label_HW.astype(np.uint8)


def _advice(spec: DatasetSpec, sample: Sample, values: list[int]) -> str:
    impossible, probably = _impossible(spec)
    if sample.form == "described" and impossible.intersection(values):
        return probably
    return (
        "List them under `encoding` (value: class id) or `ignore` of the data set's description, "
        "or correct the file"
    )


def _impossible(spec: DatasetSpec) -> tuple[frozenset[int], str]:
    """Values that no genuine file of the layout holds, less those that a description encodes."""
    values, probably = _IMPOSSIBLE.get(spec.layout, (frozenset(), ""))
    return values.difference(spec.encoding or ()), probably


def _encoding(spec: DatasetSpec, sample: Sample) -> dict[int, int]:
    """Stored value -> class id or VOID."""
    match sample.form:
        case "described":
            ids = {v: v for v in range(len(spec.classes))}
            # Without an encoding a value may be both a class id and ignored: then it is ignored.
            ignored = [value for value in spec.ignore if value not in _impossible(spec)[0]]
            return (ids if spec.encoding is None else spec.encoding) | dict.fromkeys(ignored, VOID)
        case "class-ids":
            return {v: v for v in range(len(spec.classes))} | {VOID: VOID}
        case "context-59":
            return encoding_59(spec.classes)
        case "context-masks":
            return encoding_459(spec.classes)
