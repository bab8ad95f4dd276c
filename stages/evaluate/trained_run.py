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
from zsseg.stages.train.processes import take_from_first, told_by_first
from zsseg.stages.train.run.checkpoint import load_student
from zsseg.stages.train.run.run_folder import RunRecord, read_record, read_text
from zsseg.stages.train.run_config import EvaluateConfig
from zsseg.stages.train.students.student import Student, feature_stride


@dataclass(frozen=True)
class Run:
    """A student with what it was trained for; `student` and `text_CD` lie on one device."""

    path: Path
    record: RunRecord
    evaluate: EvaluateConfig
    student: Student
    step: int
    """Training steps behind the student's weights."""
    stride: int
    """Pixels between two positions of the student's feature."""
    text_CD: Tensor
    """Text embeddings of `names`."""
    names: tuple[str, ...]
    """What each class is called: the prompt names of training, or others (`vocabulary.renamed`)."""

    @property
    def spec(self) -> DatasetSpec:
        """The data set that the run was trained on, as described then."""
        return self.record.dataset

    @cached_property
    def scorer(self) -> Scorer:
        """Class scores for `names`; made when first asked for, from the weights of then."""
        return class_scorer(self.student, self.text_CD)


def load_run(
    path: Path,
    *,
    device: Literal["auto", "cpu", "cuda"] = "auto",
    evaluate: EvaluateConfig | None = None,
) -> Run:
    """The student of a run folder's newest intact checkpoint, ready to predict.

    `evaluate` replaces the settings that the run was configured with. Raises UserError when the
    folder holds no run or no checkpoint, ResourceError when `device` is not there. Processes that
    have met (`joined_processes`) all call this, and have the checkpoint that the first one found.
    """
    record = read_record(path)
    place = choose_device(device)
    student, step = load_student(path)
    # A run that is still trained may have a newer one by the time another process looks.
    take_from_first(list(student.state_dict().values()))
    # Channels last: convolutions run faster so, as in training.
    student = student.to(memory_format=torch.channels_last).to(place)
    return Run(
        path=path,
        record=record,
        evaluate=evaluate or record.config.evaluate,
        student=student,
        step=told_by_first(step),
        stride=feature_stride(student),
        text_CD=read_text(path).to(place),
        names=record.dataset.prompt_names,
    )
