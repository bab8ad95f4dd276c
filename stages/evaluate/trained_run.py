"""A trained run, opened for inference.

Legend: C classes, D CLIP width.
"""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from zsseg.stages.data.spec import DatasetSpec
from zsseg.stages.device import choose_device
from zsseg.stages.evaluate.scorer import Scorer, class_scorer
from zsseg.stages.train.processes import copy_from_first, value_from_first
from zsseg.stages.train.run.checkpoint import load_student
from zsseg.stages.train.run.pretrained import check_pretrained, is_pretrained
from zsseg.stages.train.run.run_folder import RunRecord, read_record, read_text
from zsseg.stages.train.run_config import EvaluateConfig
from zsseg.stages.train.students.student import Student, feature_stride
from zsseg.stages.train.validation_config import Which


@dataclass(frozen=True)
class TrainedRun:
    """A student and the record of its training; `student` and `text_CD` are on one device."""

    path: Path
    record: RunRecord
    evaluate: EvaluateConfig
    student: Student
    step: int
    """Training steps that the student's weights have had."""
    stride: int
    """Pixels between two positions of the student's feature."""
    text_CD: Tensor
    """Text embeddings of `names`."""
    names: tuple[str, ...]
    """Names of the classes: the prompt names of training, or others (`vocabulary.renamed`)."""

    fixed: frozenset[str] = frozenset()
    """Settings of `evaluate` that a person asked for: where the memory is too small, others than
    these are changed (`memory`)."""
    checkpoint: Which | None = None
    """Which checkpoint it is; None: the run has no choice, as it was not validated."""

    @property
    def spec(self) -> DatasetSpec:
        """The data set that the run was trained on, as described then."""
        return self.record.dataset

    @cached_property
    def scorer(self) -> Scorer:
        """Class scores for `names`; made on first use, from the weights at that time."""
        return class_scorer(self.student, self.text_CD)


def load_run(
    path: str | Path,
    *,
    device: Literal["auto", "cpu", "cuda"] = "auto",
    evaluate: EvaluateConfig | None = None,
    checkpoint: Which | None = None,
) -> TrainedRun:
    """The student of a run folder's intact checkpoint, ready to predict.

    `checkpoint`: the best by the run's validations, or the last; None: the best where they have
    chosen one. `evaluate` replaces the settings that the run was configured with. Raises UserError
    when the folder holds no run or no checkpoint, ResourceError when `device` is not there. Inside
    `joined_processes` all processes call this, and get the checkpoint that the first one found.
    """
    path = Path(path)
    if is_pretrained(path):
        check_pretrained(path)
    record = read_record(path)
    target = choose_device(device)
    student, step, which = load_student(path, checkpoint)
    # A run in training may have a newer checkpoint by the time another process looks.
    copy_from_first(list(student.state_dict().values()))
    # Channels last: convolutions run faster so, as in training.
    student = student.to(memory_format=torch.channels_last).to(target)
    return TrainedRun(
        path=path,
        record=record,
        evaluate=evaluate or record.config.evaluate,
        student=student,
        step=value_from_first(step),
        stride=feature_stride(student),
        text_CD=read_text(path).to(target),
        names=record.dataset.prompt_names,
        checkpoint=value_from_first(which),
    )
