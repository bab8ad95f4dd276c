"""What a report shows of one run, from the files in its folder."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from zsseg.pipeline.demo.curves import Points
from zsseg.pipeline.report.shown_validation import ShownValidation, shown_validation
from zsseg.pipeline.settings import build, read_experiment
from zsseg.stages.cache.format.recipe import differing_fields
from zsseg.stages.errors import UserError
from zsseg.stages.evaluate.result import EvaluationResult, read_result
from zsseg.stages.train.run.run_folder import RunRecord, read_record
from zsseg.stages.train.run_config import RunConfig
from zsseg.stages.yaml_files import builtin_names


@dataclass(frozen=True)
class ShownRun:
    """A run in a report."""

    path: Path
    record: RunRecord
    results: Sequence[EvaluationResult]
    """Scores in its folder: the student's, without gamma first."""
    teacher: Sequence[EvaluationResult]
    losses: Points
    """Total loss by step."""
    validation: ShownValidation | None
    changes: Sequence[str]
    """Its settings where they differ from the experiment that it is named after."""

    @property
    def name(self) -> str:
        """What tables call it: its folder."""
        return self.path.name or str(self.path)


def shown_run(path: Path) -> ShownRun:
    """Read a run's folder. Raises UserError where it holds none, or a damaged result."""
    record = read_record(path)
    found = [read_result(file) for file in sorted(path.glob("evaluation-*.json"))]
    found.sort(key=lambda each: (bool(each.settings.get("calibration")), len(each.variant)))
    return ShownRun(
        path=path,
        record=record,
        results=[each for each in found if each.subject == "student"],
        teacher=[each for each in found if each.subject == "teacher"],
        losses=_losses(path / "metrics.jsonl"),
        validation=shown_validation(path),
        changes=_changes(record),
    )


def _losses(log: Path) -> Points:
    points = []
    try:
        for line in log.read_text(encoding="utf-8").splitlines():
            values = json.loads(line)
            points.append((float(values["step"]), float(values["loss"])))
    except (OSError, ValueError, KeyError, TypeError):  # a log is no reason to have no report
        return points
    return points


def _changes(record: RunRecord) -> list[str]:
    """Settings that are not the experiment's; all that are no default where it is not built in."""
    name = record.experiment
    try:
        values = read_experiment(name) if name in builtin_names("experiments") else {}
        known = build(RunConfig, values, where=name).model_dump(mode="json")
    except UserError:  # an experiment of an earlier version
        known = RunConfig().model_dump(mode="json")
    sides = ("there", "here")
    return differing_fields(known, record.config.model_dump(mode="json"), sides=sides)
