"""What is asked of stage one: of which images, by which teacher, a store of which artifacts, where.

Nothing here loads torch, but where the store is new: what it is begun with is asked of the place
that computes it.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zsseg.stages.cache.catalogue import place_store
from zsseg.stages.cache.disk.json_files import plain
from zsseg.stages.cache.disk.store_path import StorePath
from zsseg.stages.cache.format.manifest import Manifest
from zsseg.stages.data.samples import Sample, list_samples
from zsseg.stages.data.spec import DatasetSpec
from zsseg.stages.errors import UserError
from zsseg.stages.precompute.plan.recipes import (
    store_artifacts,
    store_identity,
    store_index,
    store_info,
    stored_traits,
)
from zsseg.stages.precompute.plan.resolve_auto import settle
from zsseg.stages.precompute.plan.stored_settings import Settings
from zsseg.stages.precompute.precompute_config import PrecomputeConfig
from zsseg.stages.precompute.teacher.teacher_files import TeacherFiles, Traits


@dataclass(frozen=True)
class Wanted:
    """The store that is asked for, whether it is there or not."""

    path: StorePath
    spec: DatasetSpec
    root: Path
    split: str
    samples: list[Sample]
    limit: int | None
    """First images only; None where that cuts nothing off."""
    files: TeacherFiles
    config: PrecomputeConfig
    """Settled: no `auto` in what changes a byte."""
    traits: Traits
    manifest: Manifest

    def index(self) -> Iterator[dict[str, Any]]:
        """The entries of the store's index."""
        return store_index(self.samples, self.root)

    @property
    def settings(self) -> Settings:
        """What the store is made with, for its history."""
        return Settings(self.spec, self.split, self.limit, self.config, self.traits)


def wanted_store(
    spec: DatasetSpec,
    *,
    root: Path,
    split: str,
    files: TeacherFiles,
    cache: StorePath,
    config: PrecomputeConfig,
    limit: int | None,
    look: Callable[[PrecomputeConfig], dict[str, str]],
    ask_traits: Callable[[PrecomputeConfig], Traits],
) -> Wanted:
    """The store that these arguments ask for, in the folder `cache`.

    `look` (what there is to compute with) and `ask_traits` (of the loaded teacher) are called when
    there is no store yet. Raises DatasetError for a data set that is not there, UserError for
    settings that do not fit the teacher.
    """
    if limit is not None and limit < 1:
        raise UserError(f"--limit {limit}: at least one image is needed")
    samples = list_samples(spec, root, split)
    if limit is None or limit >= len(samples):
        limit = None
    samples = samples[:limit]
    identity = store_identity(spec, split, limit, files, config)
    path = place_store(cache, identity, dataset=spec.name, split=split, teacher=files.slug)
    config = settle(config, path, look=look)
    traits = stored_traits(path) or ask_traits(config)
    manifest = Manifest(
        identity=plain(identity),
        info=plain(store_info(spec, files, traits)),
        artifacts=store_artifacts(spec, files, config, traits),
        rows=len(samples),
        shard_rows=config.shard_images,
    )
    return Wanted(path, spec, root, split, samples, limit, files, config, traits, manifest)
