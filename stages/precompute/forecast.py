"""What a run would do, why, and what it would cost: `--dry-run`, and `zsseg cache why`.

Nothing is written to the store. The time is estimated from a few images of the data set, which are
computed into a temporary folder.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from math import prod

import numpy as np

from zsseg.stages.cache.disk.storage import storage
from zsseg.stages.cache.disk.store_path import StorePath
from zsseg.stages.cache.format.codec import DENSE
from zsseg.stages.cache.reconcile import Mismatch
from zsseg.stages.cache.set_aside import why_not_set_aside
from zsseg.stages.precompute.engine.thread_engine import Engine
from zsseg.stages.precompute.make.artifacts import FROM_TOKENS, PER_ROW
from zsseg.stages.precompute.plan.wanted_store import WantedStore
from zsseg.stages.precompute.plan.work_plan import Plan, Planner, planned_bytes
from zsseg.stages.precompute.teacher.dense_passes import DensePass, passes_on_grid

SAMPLED = 4
"""Images that are computed to estimate the time."""


@dataclass(frozen=True)
class ArtifactForecast:
    """One artifact that would be computed."""

    artifact: str
    rows: int
    """Rows to compute; of `text` classes, of a basis images."""
    copied: int
    """Rows that are written again with their old values."""
    why: Mapping[str, int]
    """Reason -> rows."""


@dataclass(frozen=True)
class DenseForecast:
    """What the dense tokens of an image cost."""

    passes: tuple[DensePass, ...]
    """None where the maps are there already (`tokens:`)."""
    flip: bool
    """Is each pass made again with the mirrored image?"""
    grid: tuple[int, int]
    """Rows and columns of the tokens that are stored."""
    bytes: int
    """Stored per image."""
    seconds: float
    """Per image, reading it included."""

    @property
    def forwards(self) -> int:
        """How often an image or a window of it passes the teacher."""
        return sum(seen.windows for seen in self.passes) * (2 if self.flip else 1)


@dataclass(frozen=True)
class Forecast:
    """What a run would do."""

    path: StorePath
    images: int
    refused: tuple[str, ...]
    """Why the run would end at once with or without --update; empty where it would not."""
    update: bool
    """Does it need --update?"""
    artifacts: tuple[ArtifactForecast, ...]
    bytes: int
    """Bytes written, before compression."""
    free: int | None
    """Free bytes on the disk; None for a store at a URL."""
    seconds: float | None
    """Estimated; None where nothing is computed."""
    memory: Mapping[str, int]
    """Bytes that a process has at most, by what they are for; {} where nothing is computed."""
    dense: DenseForecast | None
    """None where no dense tokens are computed."""


def forecast_plan(planner: Planner, plan: Plan, engine: Engine) -> Forecast:
    """The forecast of a plan. Loads the teacher when there is anything to compute."""
    wanted, found = planner.wanted, planner.mismatch
    artifacts = tuple(
        ArtifactForecast(name, plan.rows[name], plan.copied[name], dict(plan.why[name]))
        for name in plan.todo
    )
    per_image = _timed(wanted, plan, engine) if plan.todo else {}
    changed = any(state in ("changed", "relabelled") for state in plan.states.values())
    return Forecast(
        path=wanted.path,
        images=wanted.manifest.rows,
        refused=_refused(wanted.path, found),
        update=changed or bool(found and found.lines),
        artifacts=artifacts,
        bytes=planned_bytes(plan, wanted.manifest),
        free=storage(wanted.path).free_bytes(),
        seconds=_seconds(wanted, plan, per_image) if plan.todo else None,
        memory=_memory(wanted, engine) if plan.todo else {},
        dense=_dense(wanted, per_image["dense"]) if _dense_rows(wanted, plan) else None,
    )


def _refused(path: StorePath, found: Mismatch | None) -> tuple[str, ...]:
    if found is not None and found.fixed:
        return ("a different store is in this folder", *found.fixed)
    if found is not None and found.images and (wrong := why_not_set_aside(path)):
        return (wrong, *found.images)
    return ()


def _dense(wanted: WantedStore, seconds: float) -> DenseForecast:
    config, (height, width) = wanted.config.dense, wanted.traits.grid
    specs = (spec for artifact, spec in wanted.manifest.arrays.values() if artifact.name == DENSE)
    return DenseForecast(
        passes=() if wanted.files.kind == "tokens" else passes_on_grid(config, (height, width)),
        flip=config.flip,
        grid=(height, width),
        bytes=sum(prod(spec.shape) * np.dtype(spec.dtype).itemsize for spec in specs),
        seconds=seconds,
    )


def _dense_rows(wanted: WantedStore, plan: Plan) -> int:
    """Images whose dense tokens are computed; where none are kept, for what is made of them too."""
    if wanted.config.dense.format != "none":
        return plan.rows["dense"]
    return max(plan.rows[name] for name in ("dense", *FROM_TOKENS))


def _memory(wanted: WantedStore, engine: Engine) -> dict[str, int]:
    from zsseg.stages.precompute.memory_forecast import process_memory

    return engine.ask(partial(process_memory, wanted=wanted))


def _timed(wanted: WantedStore, plan: Plan, engine: Engine) -> dict[str, float]:
    """Seconds of each artifact per image (`timing.timed`), from a few spread over the data set."""
    from zsseg.stages.precompute.timing import timed

    places = np.linspace(0, len(wanted.samples) - 1, min(SAMPLED, len(wanted.samples)))
    few = [wanted.samples[place] for place in sorted(set(places.astype(int)))]
    needed = [name for name in PER_ROW if plan.rows[name]]
    return engine.ask(partial(timed, wanted=replace(wanted, samples=few), needed=needed))


def _seconds(wanted: WantedStore, plan: Plan, per_image: Mapping[str, float]) -> float:
    """Seconds that one process would take."""
    rows = Counter(plan.rows) | Counter(dense=_dense_rows(wanted, plan))
    seconds = sum(per_image[name] * rows[name] for name in PER_ROW if rows[name])
    if plan.rows["text"]:
        seconds += per_image["text"] * plan.rows["text"]
    return seconds
