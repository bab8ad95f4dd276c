"""The store that a request asks for: its place, its images and its manifest.

Nothing here loads torch. Only where the store is new, `resolve_request` asks the process that
computes it what its machine and its teacher are.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zsseg.stages.cache.catalogue import locate_store
from zsseg.stages.cache.disk.json_files import plain
from zsseg.stages.cache.disk.store_path import StorePath
from zsseg.stages.cache.format.manifest import AUTO_SIZE, Manifest, read_manifest
from zsseg.stages.data.samples import Sample
from zsseg.stages.data.spec import DatasetSpec
from zsseg.stages.data.splits import check_split, training_samples
from zsseg.stages.errors import CacheError, UserError
from zsseg.stages.precompute.plan.auto_size import resolve_size
from zsseg.stages.precompute.plan.recipes import (
    store_artifacts,
    store_identity,
    store_index,
    store_info,
    stored_traits,
    with_known_tokenizer,
)
from zsseg.stages.precompute.plan.request import PrecomputeRequest
from zsseg.stages.precompute.plan.resolve_auto import resolve_auto
from zsseg.stages.precompute.plan.stored_settings import StoredSettings
from zsseg.stages.precompute.precompute_config import PrecomputeConfig
from zsseg.stages.precompute.teacher.teacher_files import TeacherFiles, Traits


@dataclass(frozen=True)
class WantedStore:
    """The store that is asked for, whether it exists or not."""

    path: StorePath
    spec: DatasetSpec
    root: Path
    split: str
    samples: list[Sample]
    limit: int | None
    """Number of images, the first of the split; None where that is all."""
    files: TeacherFiles
    config: PrecomputeConfig
    """Resolved: no `auto` in what changes a byte."""
    traits: Traits
    manifest: Manifest
    copy_from: StorePath | None
    """See `PrecomputeRequest`."""

    def index(self) -> Iterator[dict[str, Any]]:
        """The entries of the store's index."""
        return store_index(self.samples, self.root)

    @property
    def settings(self) -> StoredSettings:
        """What the store is made with, for its history."""
        return StoredSettings(self.spec, self.split, self.limit, self.config, self.traits)


def _asked_about(request: PrecomputeRequest, identity: dict[str, Any]) -> StorePath | None:
    """The store that a request names, if it has this identity."""
    store = request.store
    if store is None or read_manifest(store).identity != plain(identity):
        return None
    return store


def _auto_size(request: PrecomputeRequest, path: StorePath) -> dict[str, Any]:
    """The entry of the description that says that the size is, or was once, `auto`."""
    try:
        stored = read_manifest(path).info.get(AUTO_SIZE, False)
    except CacheError:
        stored = False
    return {AUTO_SIZE: True} if stored or request.config.dense.size == "auto" else {}


def resolve_request(
    request: PrecomputeRequest,
    files: TeacherFiles,
    *,
    look: Callable[[PrecomputeConfig], dict[str, str]],
    ask_traits: Callable[[PrecomputeConfig], Traits],
    ask_size: Callable[[PrecomputeConfig, Sequence[tuple[int, int]]], tuple[int, int]],
) -> WantedStore:
    """The store that a request asks for, of the teacher `files`.

    `look` (see `resolve_auto`), `ask_traits` and `ask_size` (of the loaded teacher, see
    `resolve_size`) are called when there is no such store yet. Raises DatasetError for a data set
    that is not there, UserError for settings that do not fit the teacher.
    """
    spec, root, split, limit = request.spec, request.root, request.split, request.limit
    if limit is not None and limit < 1:
        raise UserError(f"--limit {limit}: give 1 or more")
    check_split(spec, split)
    samples = training_samples(spec, root, split)
    if limit is None or limit >= len(samples):
        limit = None
    samples = samples[:limit]
    config = resolve_size(
        request.config,
        request.cache,
        samples,
        identity=lambda sized: store_identity(spec, split, limit, files, sized),
        ask_size=lambda shapes: ask_size(request.config, shapes),
    )
    identity = store_identity(spec, split, limit, files, config)
    path = _asked_about(request, identity) or locate_store(
        request.cache, identity, dataset=spec.name, split=split, teacher=files.slug
    )
    files = with_known_tokenizer(files, path)
    config = resolve_auto(config, path, look=look)
    traits = stored_traits(path) or ask_traits(config)
    manifest = Manifest(
        identity=plain(identity),
        info=plain(store_info(spec, files, traits) | _auto_size(request, path)),
        artifacts=store_artifacts(spec, files, config, traits),
        rows=len(samples),
        shard_rows=config.shard_images,
    )
    return WantedStore(
        path,
        spec,
        root,
        split,
        samples,
        limit,
        files,
        config,
        traits,
        manifest,
        request.copy_from,
    )
