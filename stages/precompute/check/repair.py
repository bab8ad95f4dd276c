"""Repairs a damaged store: deletes what is damaged and lets stage one make it again.

All reasons to refuse are checked before anything is deleted. What is intact is never deleted.
Description and index, which stage one does not make again, are rebuilt, and written only if they
are proved right: by the hash in the seal, or without a seal by the fingerprints in the receipts.
"""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from zsseg.stages.cache.catalogue import locate_store
from zsseg.stages.cache.disk.hashing import hash_bytes
from zsseg.stages.cache.disk.json_files import json_lines, plain
from zsseg.stages.cache.disk.lock import locked
from zsseg.stages.cache.disk.storage import storage
from zsseg.stages.cache.disk.store_path import StorePath
from zsseg.stages.cache.evidence import group_forms, list_shards, read_intact_seal
from zsseg.stages.cache.format.manifest import (
    GROUP,
    HISTORY,
    INDEX,
    Manifest,
    description,
    fingerprints,
    group_json,
)
from zsseg.stages.cache.format.recipe import differing_fields
from zsseg.stages.cache.set_aside import previous_store
from zsseg.stages.cache.verify import DamagedFile, Inspection, Share, inspect_store
from zsseg.stages.data.samples import Sample
from zsseg.stages.data.splits import training_samples
from zsseg.stages.errors import CacheError
from zsseg.stages.precompute.plan.recipes import (
    store_artifacts,
    store_identity,
    store_index,
    store_info,
    with_known_tokenizer,
)
from zsseg.stages.precompute.plan.stored_settings import (
    StoredSettings,
    find_origin,
    recall_settings,
    sound_history,
)
from zsseg.stages.precompute.progress import Progress
from zsseg.stages.precompute.run import PrecomputeResult, precompute
from zsseg.stages.precompute.teacher.teacher_files import TeacherFiles

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Repair:
    """What was damaged, what was made again, and the store's fingerprint before and after.

    `before` is None where the seal, which holds the fingerprint, was damaged.
    """

    problems: tuple[DamagedFile, ...]
    before: str | None
    after: str
    result: PrecomputeResult


@dataclass(frozen=True)
class _Plan:
    """What a store was made from, all of it found."""

    settings: StoredSettings
    root: Path
    files: TeacherFiles
    samples: list[Sample]
    manifest: Manifest
    index: bytes


def repair_store(
    path: StorePath,
    *,
    share: Share,
    root: Path | None,
    teacher: str | None,
    device: Literal["auto", "cpu", "cuda"] | None,
    look: Callable[[int, int], None],
    progress: Callable[[Progress], None],
) -> Repair | None:
    """Find what is damaged, in a share of the data and in all other files, and make it again.

    Returns None when nothing is damaged. Root, teacher and device are those noted in the history
    unless they are given. An unfinished store is finished. `look` gets the numbers of shards
    inspected and of all, `progress` the progress of stage one. Raises CacheLocked when the store is
    being written, and CacheError when data set or teacher are unknown or no longer there.
    """
    if path.name in ("", ".."):  # the folder's own name is compared below
        path = path.resolve()
    with locked(path):
        found = inspect_store(path, share=share, progress=look)
        if not found.problems:
            return None
        if found.manifest is None and previous_store(path) is not None:
            raise CacheError(
                f"{path}: nothing to repair yet: an --update of its images was interrupted while "
                "it set the store aside. Run the same `zsseg precompute` command again, which goes "
                "on with that"
            )
        plan = _plan(path, found.manifest, root=root, teacher=teacher)
        _put_back(path, found, plan)
        _check_place(path, plan)
        for problem in found.problems:
            if problem.file not in (GROUP, INDEX, HISTORY):
                storage(path).remove_whatever_is_at(problem.file)
        storage(path / HISTORY).write(json_lines(sound_history(path)))
    request = plan.settings.request(
        root=plan.root,
        teacher=plan.files.spec,
        typed=teacher is not None,
        cache=path.parent,
    )
    if device is not None:
        config = request.config.model_copy(update={"device": device})
        request = replace(request, config=config)
    result = precompute(request, update=False, progress=progress)
    after = inspect_store(path, share=share, progress=look)
    if after.problems or after.root is None:
        raise CacheError(
            f"{path}: still damaged after the repair: {after.problems[0].file}: "
            f"{after.problems[0].reason}. Check the disk, and "
            "copy the store to another"
        )
    return Repair(found.problems, found.root, after.root, result)


def _plan(
    path: StorePath, manifest: Manifest | None, *, root: Path | None, teacher: str | None
) -> _Plan:
    settings = recall_settings(path, manifest)
    folder, files = find_origin(path, settings, manifest, root=root, teacher=teacher)
    files = with_known_tokenizer(files, path)
    spec, config = settings.spec, settings.config
    samples = training_samples(spec, folder, settings.split)[: settings.limit]
    wanted = Manifest(
        identity=plain(store_identity(spec, settings.split, settings.limit, files, config)),
        info=plain(store_info(spec, files, settings.traits)),
        artifacts=store_artifacts(spec, files, config, settings.traits),
        rows=len(samples),
        shard_rows=config.shard_images,
    )
    if manifest is not None and (other := _other_settings(manifest, wanted)):
        raise CacheError(
            f"{path}: this version of zsseg would make other artifacts: {'; '.join(other)}. Run "
            "the store's `zsseg precompute` command with --update, then repair it"
        )
    entries = ({"row": row} | each for row, each in enumerate(store_index(samples, folder)))
    return _Plan(settings, folder, files, samples, wanted, json_lines(entries))


def _other_settings(stored: Manifest, wanted: Manifest) -> list[str]:
    """How the recipes that this version writes for a store's settings differ from its own."""
    made, asked = fingerprints(stored.artifacts), fingerprints(wanted.artifacts)
    recipes = ({a.name: description(a) for a in each.artifacts} for each in (stored, wanted))
    return [] if made == asked else differing_fields(*recipes)


def _put_back(path: StorePath, found: Inspection, plan: _Plan) -> None:
    """Rebuild the description and the index where they are damaged.

    Raises CacheError where a rebuilt file is not proved to be the lost one.
    """
    damaged = {problem.file for problem in found.problems}
    made = {GROUP: group_json(plan.manifest), INDEX: plan.index}
    wanted = {file: content for file, content in made.items() if file in damaged}
    if not wanted:
        return
    if unproved := list(_unproved(path, found, plan.manifest, wanted)):
        raise CacheError(
            f"{path}: {' and '.join(wanted)} cannot be put back: {', '.join(unproved)}. Data set, "
            "settings or teacher are not those that the store was made with; nothing was changed. "
            "Give them with --root and --teacher"
        )
    if GROUP in wanted:
        sealed = {} if found.root is None else read_intact_seal(path)["files"]
        wanted[GROUP] = group_forms(path, plan.manifest, sealed)[0]
    for file, content in wanted.items():
        storage(path).remove_whatever_is_at(file)
        storage(path / file).write(content)
        _log.info("%s: put back", path / file)


def _unproved(
    path: StorePath, found: Inspection, manifest: Manifest, wanted: Mapping[str, bytes]
) -> list[str]:
    """Reasons why these contents may not be those that were lost."""
    if found.root is not None:
        sealed = read_intact_seal(path)["files"]
        return [
            f"{file} would not be the sealed one"
            for file, content in wanted.items()
            if sealed.get(file) != hash_bytes(content)
        ]
    current = fingerprints(manifest.artifacts)
    expected = {shard.file: shard.rows for shard in list_shards(path, manifest, None)}
    receipts = {
        shard.file: (shard.rows, shard.receipt["fingerprint"], current.get(shard.artifact))
        for shard in list_shards(path, None, None)
        if isinstance(shard.receipt, dict)
    }
    if not receipts:
        return ["neither the seal nor a receipt is left to compare with"]
    return [
        f"{file} is of other images or of other settings"
        for file, (rows, there, asked) in receipts.items()
        if file not in expected or expected[file] != rows or there != asked
    ][:1]


def _check_place(path: StorePath, plan: _Plan) -> None:
    """Raise CacheError when stage one would not find the store under its name."""
    identity, files = plan.manifest.identity, plan.files
    dataset, split = plan.settings.spec.name, plan.settings.split
    place = locate_store(path.parent, identity, dataset=dataset, split=split, teacher=files.slug)
    if place != path:
        raise CacheError(
            f"{path}: `zsseg precompute` would not find the store under this name; rename the "
            f"folder to {place.name}"
        )
