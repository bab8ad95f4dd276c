"""Which store a run is trained from, and the settings that it is made with."""

import json
from collections.abc import Sequence
from dataclasses import dataclass

from zsseg.pipeline.whole_run.stage_commands import WholeRunRequest
from zsseg.stages.cache.catalogue import StoreSummary, find_stores
from zsseg.stages.cache.disk.store_path import StorePath
from zsseg.stages.cache.format.manifest import read_manifest
from zsseg.stages.data.spec import DatasetSpec
from zsseg.stages.errors import CacheError
from zsseg.stages.precompute.plan.store_command import changed_settings
from zsseg.stages.precompute.plan.stored_settings import recall_settings
from zsseg.stages.precompute.teacher.teacher_files import resolve_teacher

_LONG = 30.0
"""Minutes of training on a GPU from which on several passes of the teacher are worth it."""
_SEVERAL = ("dense.scales=[0.75,1.0,1.5]", "dense.flip=true", "pixel_names.enabled=true")
"""As in `zsseg demo`, where they were measured."""


@dataclass(frozen=True)
class StoreChoice:
    """The settings of stage one, and why."""

    settings: Sequence[str]
    reason: str


def choose_settings(
    found: StorePath | None, *, device: str, request: WholeRunRequest
) -> StoreChoice:
    """The settings of the store that was `found`, else those that there is time for."""
    if found is not None:
        settings = recall_settings(found, read_manifest(found))
        return StoreChoice(changed_settings(settings.config), f"{found} is there, and is used")
    once = "one pass of CLIP over each image, the default"
    if request.teacher.startswith("tokens:"):
        return StoreChoice((), "the maps as they are")
    if device == "cpu":
        return StoreChoice((), f"{once}: several would take a CPU too long")
    if request.minutes is not None and request.minutes < _LONG:
        return StoreChoice((), f"{once}: several would take longer than {request.minutes:g} min")
    return StoreChoice(_SEVERAL, "six passes of CLIP over each image and a map of names: on a GPU")


def made_store(cache: StorePath, spec: DatasetSpec, teacher: str) -> StorePath | None:
    """The store of these classes, of split `train` and this teacher in a folder; None: no store.

    Raises CacheError where there are several, and what `resolve_teacher` does.
    """
    fitting = [each for each in find_stores(cache) if _is_of(each, spec)]
    if fitting:
        slug = resolve_teacher(teacher, typed=True).slug
        fitting = [each for each in fitting if each.teacher == slug]
    if len(fitting) > 1:
        raise CacheError(
            f"{cache}: several stores of '{spec.name}' fit; give another --cache, or remove some:",
            *(f"{each.path}  {each.images:,} images, {each.teacher}" for each in fitting),
        )
    return fitting[0].path if fitting else None


def _is_of(store: StoreSummary, spec: DatasetSpec) -> bool:
    if (store.dataset, store.split) != (spec.name, "train"):
        return False
    identity = read_manifest(store.path).identity
    asked = json.loads(json.dumps({"classes": spec.classes, "unseen": spec.unseen}))
    return all(identity.get(name) == value for name, value in asked.items())
