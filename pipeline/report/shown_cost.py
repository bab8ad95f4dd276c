"""What an image takes of student and teacher: milliseconds, and megabytes of weights."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from zsseg.stages.cache.reader import Store
from zsseg.stages.evaluate.trained_run import TrainedRun

_FOLDER = "local-dir:"
_WEIGHTS = ("*.safetensors", "*.bin", "*.pt", "*.pth")


@dataclass(frozen=True)
class Cost:
    """What one image takes; None where it is not known."""

    milliseconds: float | None
    megabytes: float | None
    """10^6 bytes of weights."""
    how: str
    """In words: what was timed, and where."""


def student_cost(run: TrainedRun, seconds: Sequence[float]) -> Cost:
    """The median of the seconds that images took, without the first, and the student's weights."""
    weights = run.student.state_dict().values()
    return Cost(
        milliseconds=1e3 * median(seconds[1:] or seconds),
        megabytes=sum(each.numel() * each.element_size() for each in weights) / 1e6,
        how=f"pixels to labels, median, {run.text_CD.device.type}, beside what else ran here",
    )


def teacher_cost(store: Store) -> Cost:
    """The mean of what the teacher took of each image when the store was made, and its weights."""
    runs = [each for each in store.history if "teacher" in each.get("seconds", {})]
    seconds = sum(float(each["seconds"]["teacher"]) for each in runs)
    where = ", ".join(dict.fromkeys(str(each.get("device", "device unknown")) for each in runs))
    return Cost(
        milliseconds=1e3 * seconds / store.rows if seconds and store.rows else None,
        megabytes=_weights(str(store.last("teacher") or "")),
        how=f"all passes of stage one over it, crops too, mean, {where}",
    )


def _weights(teacher: str) -> float | None:
    """Megabytes of a teacher that is a folder; None for others, which are not looked for."""
    if not teacher.startswith(_FOLDER):
        return None
    folder = Path(teacher.removeprefix(_FOLDER))
    sizes = [file.stat().st_size for form in _WEIGHTS for file in folder.glob(form)]
    return max(sizes) / 1e6 if sizes else None
