"""What is said of a run where its student is handed on: scores, teacher, licences.

Without folders of this machine.
"""

import json
from pathlib import Path
from typing import Any

from zsseg.stages.evaluate.trained_run import TrainedRun


def teacher_name(run: TrainedRun) -> str:
    """The run's teacher, without the folder that it lay in."""
    kind, colon, place = run.record.teacher.partition(":")
    return f"{kind}:{Path(place).name}" if colon else kind


def evaluations(path: Path) -> list[dict[str, Any]]:
    """The scores in a run, without the tables of pixels."""
    found = []
    for file in sorted(path.glob("evaluation-*.json")):
        try:
            result = json.loads(file.read_text("utf-8"))
            kept = ("subject", "dataset", "split", "images", "settings", "variant", "scores")
            found.append({name: result[name] for name in kept})
        except (OSError, ValueError, KeyError, TypeError):  # a damaged result is no result
            continue
    return found


def licences(run: TrainedRun) -> str:
    """What applies to a student."""
    return (
        f"Trained on the images of '{run.spec.name}' with tokens and text embeddings of the "
        f"teacher {teacher_name(run)}: the licences of both apply to this file, and that of the "
        f"encoder's initial weights ({run.record.config.student.encoder}). zsseg adds none."
    )
