"""What a run would do, why, and what it would cost: `--dry-run`, and `zsseg cache why`.

Nothing is written to the store. The time is estimated from a few images of the data set, which are
computed into a temporary folder.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from zsseg.stages.cache.disk.storage import storage
from zsseg.stages.cache.disk.store_path import StorePath
from zsseg.stages.cache.reconcile import Mismatch
from zsseg.stages.cache.set_aside import why_not_set_aside
from zsseg.stages.precompute.engine.thread_engine import Engine
from zsseg.stages.precompute.make.artifacts import PER_ROW
from zsseg.stages.precompute.plan.wanted_store import WantedStore
from zsseg.stages.precompute.plan.work_plan import Plan, Planner, planned_bytes

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


def forecast_plan(planner: Planner, plan: Plan, engine: Engine) -> Forecast:
    """The forecast of a plan. Loads the teacher when there is anything to compute."""
    wanted, found = planner.wanted, planner.mismatch
    artifacts = tuple(
        ArtifactForecast(name, plan.rows[name], plan.copied[name], dict(plan.why[name]))
        for name in plan.todo
    )
    changed = any(state in ("changed", "relabelled") for state in plan.states.values())
    return Forecast(
        path=wanted.path,
        images=wanted.manifest.rows,
        refused=_refused(wanted.path, found),
        update=changed or bool(found and found.lines),
        artifacts=artifacts,
        bytes=planned_bytes(plan, wanted.manifest),
        free=storage(wanted.path).free_bytes(),
        seconds=_seconds(wanted, plan, engine) if plan.todo else None,
    )


def _refused(path: StorePath, found: Mismatch | None) -> tuple[str, ...]:
    if found is not None and found.fixed:
        return ("a different store is in this folder", *found.fixed)
    if found is not None and found.images and (wrong := why_not_set_aside(path)):
        return (wrong, *found.images)
    return ()


def _seconds(wanted: WantedStore, plan: Plan, engine: Engine) -> float:
    """Seconds that one process would take, from a few images spread over the data set."""
    from zsseg.stages.precompute.timing import timed

    places = np.linspace(0, len(wanted.samples) - 1, min(SAMPLED, len(wanted.samples)))
    few = [wanted.samples[place] for place in sorted(set(places.astype(int)))]
    needed = [name for name in PER_ROW if plan.rows[name]]
    per_image = engine.ask(partial(timed, wanted=replace(wanted, samples=few), needed=needed))
    seconds = sum(per_image[name] * plan.rows[name] for name in needed)
    if wanted.config.dense.format == "none":  # made again for each image whose regions are mined
        seconds += per_image.get("dense", 0.0) * (plan.rows["regions"] - plan.rows["dense"])
    if plan.rows["text"]:
        seconds += per_image["text"] * plan.rows["text"]
    return seconds
