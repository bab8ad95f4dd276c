"""The forecast of a training as text, for `zsseg train --dry-run`."""

from typing import TYPE_CHECKING

from zsseg.pipeline.cli.forecast_text import duration_text
from zsseg.stages.printable import counted

if TYPE_CHECKING:
    from zsseg.stages.train.foretell.dry_run import DryRun
    from zsseg.stages.train.foretell.memory_check import TrainForecast
    from zsseg.stages.train.foretell.step_time import StepTime


def train_forecast_lines(found: "DryRun", *, steps: int) -> list[str]:
    """Memory by what it is for, what is free, seconds per step and in all."""
    from zsseg.stages.train.foretell.memory_check import advice

    if found.memory is None:
        lines = ["memory: not known, as the student has operations that cannot be foretold"]
    else:
        lines = _memory_lines(found.memory)
    if found.time is not None:
        return [*lines, *_time_lines(found.time, steps)]
    return [*lines, f"this would be refused. {advice(found.fitting)}"]


def _memory_lines(found: "TrainForecast") -> list[str]:
    from zsseg.stages.machine_memory import gigabytes

    where = ", in the GPU's memory but for those of the loader" if found.on_gpu else ""
    lines = [f"memory{where}:", f"  {gigabytes(found.now)} before the student is built"]
    lines += [f"  {gigabytes(size)} {name}" for name, size in found.parts.items() if size >= 5e7]
    needed = sum(found.parts.values())
    lines.append(f"  {gigabytes(found.now + needed)} in all, {gigabytes(needed)} of it on top")
    return lines + [f"free: {gigabytes(room.free)} ({room.bound})" for room in found.rooms if room]


def _time_lines(found: "StepTime", steps: int) -> list[str]:
    height, width = found.size
    return [
        f"time: {found.seconds:.3g} s per step, {counted(steps, 'step takes', 'steps take')} "
        f"{duration_text(found.seconds * steps)} (gradients alone, reckoned from a step of "
        f"{counted(found.crops, 'crop')} of {height} x {width})"
    ]
