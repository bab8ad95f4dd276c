"""The forecast of a training as text, for `zsseg train --dry-run`."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from zsseg.pipeline.cli.forecast_text import duration_text

if TYPE_CHECKING:
    from zsseg.stages.train.foretell.memory_check import TrainForecast
    from zsseg.stages.train.run_config import RunConfig


def train_forecast_lines(
    found: "TrainForecast", fitting: Sequence[str], config: "RunConfig"
) -> list[str]:
    """Memory by what it is for, what is free, seconds per step and in all."""
    from zsseg.stages.machine_memory import gigabytes
    from zsseg.stages.train.foretell.memory_check import advice

    steps = config.train.steps
    where = ", in the GPU's memory but for those of the loader" if found.on_gpu else ""
    lines = [f"memory{where}:", f"  {gigabytes(found.now)} before the first step"]
    lines += [f"  {gigabytes(size)} {name}" for name, size in found.parts.items() if size]
    needed = sum(found.parts.values())
    lines.append(f"  {gigabytes(found.now + needed)} in all, {gigabytes(needed)} of it on top")
    lines += [f"free: {gigabytes(room.free)} ({room.bound})" for room in found.rooms if room]
    lines.append(
        f"time: {found.seconds:.3g} s per step, {steps} steps take "
        f"{duration_text(found.seconds * steps)} (gradients alone, as fast as now)"
    )
    if not found.fits:
        lines.append(f"this would be refused. {advice(fitting)}")
    return lines
