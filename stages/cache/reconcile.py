"""Compares the store in a folder with what is asked: creates, updates or refuses it."""

import json
import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from zsseg.stages.cache.disk.hashing import hash_bytes, hash_file
from zsseg.stages.cache.disk.json_files import read_json, read_json_lines
from zsseg.stages.cache.disk.lock import HOLDER, LOCK
from zsseg.stages.cache.disk.storage import storage
from zsseg.stages.cache.disk.store_path import StorePath
from zsseg.stages.cache.evidence import group_forms
from zsseg.stages.cache.format import ledger
from zsseg.stages.cache.format.arrays import array_jsons
from zsseg.stages.cache.format.manifest import (
    AUTO_SIZE,
    GROUP,
    HISTORY,
    INDEX,
    LEDGER,
    SEAL,
    USED,
    Artifact,
    Manifest,
    description,
    fingerprints,
    group_json,
    read_manifest,
)
from zsseg.stages.cache.format.recipe import differing_fields
from zsseg.stages.cache.set_aside import PREVIOUS, finish_setting_aside, set_aside
from zsseg.stages.errors import CacheError
from zsseg.stages.printable import counted

_SHOWN = 20  # differing fields named in one message

_log = logging.getLogger(__name__)


def prepare_store(path: StorePath, wanted: Manifest, index: bytes, *, update: bool) -> None:
    """Bring index, manifest and array metadata in a folder to what is wanted.

    `index` is the content of index.jsonl. CacheError, with every differing field, when the store
    there is another one; with `update` what differs is removed instead, to be computed again.
    """
    arrays = {f"{name}/{GROUP}": content for name, content in array_jsons(wanted).items()}
    finish_setting_aside(path)
    sealed = _sealed(path)
    _restore(path, wanted, {INDEX: index, **arrays}, sealed)
    if storage(path / GROUP).exists():
        _reconcile(path, wanted, index, update=update)
    else:
        _create(path, wanted, index)
    for file, content in arrays.items():
        there = storage(path / file).exists()
        if not (there and (_says_the_same(path / file, content) or _is_sealed(path, file))):
            if there:
                _log.warning("%s was damaged; restored", path / file)
            storage(path / file).write(content)
    forms = group_forms(path, read_manifest(path), sealed)
    if not _is_one_of(path / GROUP, forms):  # an array's file was written otherwise before
        storage(path / GROUP).write(forms[0])


def _restore(
    path: StorePath, wanted: Manifest, files: Mapping[str, bytes], sealed: Mapping[str, str]
) -> None:
    """Restore lost or damaged metadata where the seal's hash proves that it was what is wanted."""
    for file, content in {**files, GROUP: group_json(wanted)}.items():
        if sealed.get(file) != hash_bytes(content):
            continue
        forms = group_forms(path, wanted, sealed) if file == GROUP else (content,)
        if not _is_one_of(path / file, forms):
            _log.warning("%s was lost or damaged; restored", path / file)
            storage(path / file).write(forms[0])


def _is_one_of(file: StorePath, contents: Sequence[bytes]) -> bool:
    """Has a file one of these contents? One of another size is not read."""
    fits = storage(file).size() in [len(content) for content in contents]
    return fits and storage(file).read() in contents


def _sealed(path: StorePath) -> Mapping[str, str]:
    """The hashes in the seal; none without a sound one."""
    try:
        return dict(ledger.read_seal(path)["files"])
    except CacheError:
        return {}


def _is_sealed(path: StorePath, file: str) -> bool:
    """Is a file as a finished store has it? Another version may have written it otherwise."""
    return _sealed(path).get(file) == hash_file(path / file)


def _says_the_same(file: StorePath, content: bytes) -> bool:
    try:
        return bool(read_json(file) == json.loads(content))
    except CacheError:
        return False


def _create(path: StorePath, wanted: Manifest, index: bytes) -> None:
    ours = {LOCK, HOLDER, INDEX, HISTORY, USED, PREVIOUS}
    strangers = {file.split("/")[0] for file in storage(path).list_files()} - ours
    # A store that was set aside leaves files of the folder behind, and has to be continued.
    if strangers and not storage(path / PREVIOUS / GROUP).exists():
        raise CacheError(
            f"{path}: neither empty nor a store ({GROUP} is missing beside "
            f"{', '.join(sorted(strangers)[:3])}); delete the folder or give another --cache"
        )
    storage(path / INDEX).write(index)
    storage(path / GROUP).write(group_forms(path, wanted, {})[0])


@dataclass(frozen=True)
class Mismatch:
    """How a store differs from what is asked, one line per field; all empty when it does not."""

    fixed: tuple[str, ...] = ()
    """What makes it another store: identity, images per shard."""
    images: tuple[str, ...] = ()
    """Images that were added, removed or moved: the rows move with them."""
    other: tuple[str, ...] = ()
    """Label files and the description."""
    artifacts: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """The differing fields of each artifact, by its name."""

    @property
    def lines(self) -> list[str]:
        """All lines."""
        settings = [line for lines in self.artifacts.values() for line in lines]
        return [*self.fixed, *self.images, *self.other, *settings]


def find_mismatch(path: StorePath, wanted: Manifest, index: bytes) -> Mismatch:
    """Compare the store in a folder with what is asked; changes nothing."""
    stored = read_manifest(path)
    fixed = differing_fields(stored.identity, wanted.identity)
    fixed += differing_fields(stored.shard_rows, wanted.shard_rows, prefix="shard_rows")
    images, labels = _index_difference(path / INDEX, index)
    other = labels + differing_fields(_described(stored), _described(wanted), prefix="info")
    old = {artifact.name: artifact for artifact in stored.artifacts}
    new = {artifact.name: artifact for artifact in wanted.artifacts}
    made, asked = fingerprints(stored.artifacts), fingerprints(wanted.artifacts)
    artifacts = {
        name: tuple(_artifact_difference(name, old.get(name), new.get(name)))
        for name in {**new, **old}
        if made.get(name) != asked.get(name)
    }
    return Mismatch(tuple(fixed), tuple(images), tuple(other), artifacts)


def _reconcile(path: StorePath, wanted: Manifest, index: bytes, *, update: bool) -> None:
    found = find_mismatch(path, wanted, index)
    if found.fixed:
        raise CacheError(
            f"{path}: the store was made from other data or for other settings:",
            *_listed(found.lines),
            "This cannot be updated in place: give another --cache folder, or delete this store",
        )
    if not found.lines:
        return
    if not update:
        redone = [*found.artifacts, *(["what depends on changed labels"] if found.other else [])]
        todo = "compute the new images' rows" if found.images else "recompute "
        todo += "" if found.images else ", ".join(redone) or "only the description"
        raise CacheError(
            f"{path}: the store was made with other settings or images:",
            *_listed(found.lines),
            f"Add --update to {todo} in place (--dry-run says what it costs), or give another "
            "--cache folder",
        )
    if found.images:
        set_aside(path)
        _create(path, wanted, index)
        return
    stored = read_manifest(path)
    _drop(path, stored, wanted, found.artifacts)
    storage(path / INDEX).write(index)
    storage(path / GROUP).write(group_forms(path, wanted, {})[0])


def _described(manifest: Manifest) -> dict[str, Any]:
    """The description without names: the identity says which teacher and which size it is. Also
    without colours, which nothing in a store follows from."""
    names = ("teacher", AUTO_SIZE)
    info = {key: value for key, value in manifest.info.items() if key not in names}
    if isinstance(spec := info.get("spec"), Mapping):
        info["spec"] = {key: value for key, value in spec.items() if key != "colours"}
    return info


def _listed(lines: Sequence[str]) -> list[str]:
    more = [f"... and {len(lines) - _SHOWN} more"] if len(lines) > _SHOWN else []
    return [f"  {line}" for line in [*lines[:_SHOWN], *more]]


def _artifact_difference(name: str, old: Artifact | None, new: Artifact | None) -> list[str]:
    if old is None or new is None:
        return [f"{name}: {'not stored, asked' if old is None else 'stored, not asked'}"]
    before, after = description(old), description(new)
    lines = differing_fields(before.pop("recipe"), after.pop("recipe"), prefix=name)
    lines += differing_fields(before, after, prefix=name)
    return lines or [f"{name}: made from {', '.join(sorted(new.depends))}, where something differs"]


def _index_difference(path: StorePath, wanted: bytes) -> tuple[list[str], list[str]]:
    """Which images were added, removed or moved, and which have another label file.

    Another label file leaves the rows where they are: the index is written again, and the hashes of
    visible labels in the receipts say what has to be computed again.
    """
    if _is_one_of(path, [wanted]):
        return [], []
    try:
        old = {str(entry.get("id")): entry for entry in read_json_lines(path)}
    except CacheError as error:  # of an unfinished store: a seal would have proved what it was
        return [f"index: {error}"], []
    new = {str(entry["id"]): entry for entry in map(json.loads, wanted.splitlines())}
    images = _counted(
        {
            "no longer there": [image for image in old if image not in new],
            "new": [image for image in new if image not in old],
            "at another path": [
                image
                for image in new
                if image in old and old[image].get("image") != new[image]["image"]
            ],
        }
    )
    both = [image for image in new if image in old]
    relabelled = [i for i in both if old[i].get("label") != new[i].get("label")]
    if not images and not relabelled:
        moved = list(old) != list(new)
        images = ["index: the images in another order" if moved else f"index: {path} is damaged"]
    return images, _counted({"with another label file": relabelled})


def _counted(images: Mapping[str, Sequence[str]]) -> list[str]:
    return [
        f"index: {counted(len(ids), 'image')} {what}: {', '.join(map(str, ids[:3]))}"
        + (", ..." if len(ids) > 3 else "")
        for what, ids in images.items()
        if ids
    ]


def _drop(path: StorePath, stored: Manifest, wanted: Manifest, changed: Collection[str]) -> None:
    """Delete what changed artifacts cannot keep: first the seal, then receipts, then data.

    Artifacts whose arrays stay the same lose nothing: their receipts have another recipe's
    fingerprint, and crops that have not changed keep their tokens.
    """
    storage(path / SEAL).remove()
    asked = {artifact.name: artifact.arrays for artifact in wanted.artifacts}
    dropped = [
        artifact
        for artifact in stored.artifacts
        if artifact.name in changed and asked.get(artifact.name) != artifact.arrays
    ]
    folders = [path / LEDGER / artifact.name for artifact in dropped]
    folders += [path / spec.name for artifact in dropped for spec in artifact.arrays]
    for folder in folders:
        storage(folder).remove_folder()
