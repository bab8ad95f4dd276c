"""What a report shows of a run's validations, from the log in its folder."""

import json
from dataclasses import dataclass
from pathlib import Path

from zsseg.pipeline.demo.curves import Points
from zsseg.pipeline.tables import percent
from zsseg.stages.train.run.metrics_log import VALIDATIONS


@dataclass(frozen=True)
class ShownValidation:
    """The validations of a run."""

    score: str
    """Name of the one that chooses the best checkpoint, or the first where none does."""
    points: Points
    """This score by step, in percent."""
    sentence: str
    """By which labels, and which checkpoint was the best."""


def shown_validation(run: Path) -> ShownValidation | None:
    """The validations of a run; None where it was not validated, or its log is damaged."""
    try:
        text = (run / VALIDATIONS).read_text(encoding="utf-8")
        lines = [json.loads(line) for line in text.splitlines()]
        score = lines[0]["chooses_by"] or min(lines[0]["scores"])
        values = [(float(line["step"]), line["scores"][score]) for line in lines]
        points = [(step, 100 * value) for step, value in values if value is not None]
        sentence = f"validated by {lines[0]['about']}"
        best = [line for line in lines if line["best"]]
        if best:
            found = f"step {best[-1]['step']}, {score} {percent(best[-1]['scores'][score])}"
            sentence += f"; best: {found}"
        else:
            sentence += "; no checkpoint was chosen by it"
    except (OSError, ValueError, KeyError, TypeError, IndexError):
        return None  # a log is no reason to have no report
    return ShownValidation(score, points, sentence)
