"""What `zsseg train` says: while it trains, and at its end of student, validations and time."""

from zsseg.stages.printable import counted
from zsseg.stages.train.loop import TrainResult


def train_end_lines(result: TrainResult) -> list[str]:
    """Where the student is, which checkpoint is the best, and what validation took."""
    lines = [f"{counted(result.steps, 'step')}, student in {result.checkpoint}"]
    found = result.validation
    if found is None:
        return lines
    if found.stopped:
        lines[0] += f", ended by {counted(found.waited, 'validation')} without a better one"
    if found.best_step is not None and found.best is not None:
        lines.append(
            f"best: step {found.best_step}, {found.chooses_by} {100 * found.best:.1f} by "
            f"{found.about}; `zsseg evaluate` and `predict` use it (--checkpoint last: the other)"
        )
    if result.validation_seconds:
        lines.append(
            f"time: {result.seconds:.0f} s for the steps, {result.validation_seconds:.0f} s for "
            "validation"
        )
    return lines


def progress_words(metrics: dict[str, float]) -> str:
    """The last log line, short: what a person watches."""
    shown = {
        "loss": "loss {:.3f}",
        "seen_mIoU": "seen mIoU {:.1%}",
        "hIoU": "hIoU {:.1%}",
        "teacher_mIoU": "mIoU with the teacher {:.1%}",
        "pseudo_label_share": "pseudo labels {:.0%}",
        "images_per_second": "{:.1f} images/s",
        "cache_mb_per_second": "cache {:.1f} MB/s",
        "data_wait": "waiting for data {:.0%}",
    }
    return ", ".join(text.format(metrics[key]) for key, text in shown.items() if key in metrics)
