"""Writes a store: one shard at a time with its receipt, and the seal at the end.

The order of every commit is data, fsync, receipt, fsync. A receipt is removed before its shard is
written again, the seal before anything that it covers changes. A run that is killed at any point
can be repeated: it continues, and ends with the same bytes.
"""

import json
import logging
from collections.abc import Iterable, Mapping, Sequence
from types import TracebackType
from typing import Any, Self

import numpy as np

from zsseg.stages.cache import shards
from zsseg.stages.cache.card import make_card
from zsseg.stages.cache.disk.disk_errors import disk_errors
from zsseg.stages.cache.disk.json_files import (
    json_lines,
    newest,
    plain,
    read_bounded,
    read_json_lines,
    sound_json_lines,
)
from zsseg.stages.cache.disk.lock import LOCK, Lock, acquire
from zsseg.stages.cache.disk.storage import storage
from zsseg.stages.cache.disk.store_path import StorePath
from zsseg.stages.cache.format import ledger
from zsseg.stages.cache.format.manifest import (
    CARD,
    HISTORY,
    INDEX,
    SEAL,
    ArraySpec,
    Artifact,
    Manifest,
    fingerprints,
    index_lines,
    is_half_written,
    receipt_file,
)
from zsseg.stages.cache.reconcile import prepare_store
from zsseg.stages.cache.set_aside import discard_previous, previous_store
from zsseg.stages.errors import CacheError, ResourceError

__all__ = ["ArraySpec", "Artifact", "Writer"]

_log = logging.getLogger(__name__)


class Writer:
    """An open store under this process's lock. Made by `Writer.open`; use it in a `with`."""

    def __init__(self, path: StorePath, manifest: Manifest, lock: Lock) -> None:
        self.path = path
        self.manifest = manifest
        self._fingerprints = fingerprints(manifest.artifacts)
        self._artifacts = {artifact.name: artifact for artifact in manifest.artifacts}
        self._lock = lock

    @classmethod
    def open(
        cls,
        path: StorePath,
        *,
        identity: Mapping[str, Any],
        artifacts: Sequence[Artifact],
        index: Iterable[Mapping[str, Any]],
        shard_rows: int,
        info: Mapping[str, Any],
        update: bool = False,
    ) -> Self:
        """Create a store, or open the one that is there to continue it.

        `index`: one entry per row with `id`, `image`, `label` (paths relative to the data set's
        root). `identity` holds `dataset` and `split`, `info` holds `teacher`: the catalogue shows
        them; another name of the `teacher` is no difference. `shard_rows`: images per shard.
        CacheLocked when another process writes the store, CacheError with every differing field
        when it was made with other settings. With `update` what differs is computed again instead,
        and a store of other images is set aside to copy rows from (`set_aside`).
        """
        lines = index_lines(index)
        manifest = Manifest(
            identity=plain(dict(identity)),
            info=plain(dict(info)),
            artifacts=tuple(artifacts),
            rows=lines.count(b"\n"),
            shard_rows=shard_rows,
        )
        assert manifest.rows > 0, "a store of no images"
        assert sum(len(a.arrays) for a in artifacts) == len(manifest.arrays), "an array named twice"
        try:
            storage(path).make_folder()
        except OSError as error:
            raise ResourceError(
                f"{path}: cannot make this folder: {error}. Give a --cache folder "
                "that can be written"
            ) from error
        with disk_errors(path, f"its {LOCK}"):
            lock = acquire(path)
        if lock.died:
            _log.warning(
                "%s: the last run, %s, did not end properly; this one continues from what was "
                "committed. If an image kills it again, --workers 1 finds which",
                path,
                lock.died,
            )
        try:
            with disk_errors(path, "what describes the store"):
                ledger.refuse_linked_folders(path)
                storage(path).remove_partial_files(is_half_written)
                prepare_store(path, manifest, lines, update=update)
        except BaseException:
            lock.release(path)
            raise
        return cls(path, manifest, lock)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Release the lock."""
        self._lock.release(self.path)

    def missing(self) -> dict[str, list[int]]:
        """Numbers of the shards still to write, by artifact.

        Those without a receipt, with one of another recipe, or with missing files.
        """
        with storage(self.path).read_ahead():
            return {
                artifact.name: [
                    s for s in self.manifest.shards(artifact) if self._lost(artifact, s)
                ]
                for artifact in self.manifest.artifacts
            }

    def rows_of(self, shard: int) -> range:
        """Rows of one shard of the per-row artifacts."""
        return self.manifest.rows_of(shard)

    def receipt(self, artifact: str, shard: int) -> dict[str, Any] | None:
        """The receipt of a shard with its notes; None when it is missing or damaged."""
        try:
            return ledger.read_receipt(self.path, self._artifacts[artifact], shard)
        except CacheError:  # `missing` lists the shard and logs why
            return None

    def read(self, array: str, shard: int) -> np.ndarray[Any, Any]:
        """One committed shard of an array: (rows, ...), or all of an array without rows.

        `dense` is decoded to tokens (rows, D, h, w).
        """
        artifact, _ = self.manifest.arrays[array]
        assert self._why(artifact, shard if artifact.per_row else 0) is None, (array, shard)
        return shards.load_shard(self.path, self.manifest, array, shard)

    def write(
        self,
        artifact: str,
        shard: int,
        arrays: Mapping[str, np.ndarray[Any, Any]],
        *,
        notes: Mapping[str, Any] | None = None,
    ) -> None:
        """Write and commit one whole shard of every array of an artifact.

        `arrays`: (rows, ...) of each array, or the whole array where the artifact is not per row.
        NonFiniteError for NaN or infinity, before anything is written; ResourceError when it
        cannot be written.
        """
        what = self._artifacts[artifact]
        ids: list[str] = []
        if what.per_row:
            rows = self.rows_of(shard)
            index = read_json_lines(self.path / INDEX, at_most=self.manifest.index_bytes)
            ids = [str(entry["id"]) for entry in index[rows.start : rows.stop]]
        self.withdraw(artifact, shard)
        files = shards.save_shard(self.path, self.manifest, what, shard, arrays, ids=ids)
        self.commit(artifact, shard, files, notes=notes)

    def withdraw(self, artifact: str, shard: int) -> None:
        """Remove seal and receipt before a shard is written again, in this process or another."""
        with disk_errors(self.path, f"shard {shard} of {artifact}"):
            storage(self.path / SEAL).remove()
            storage(self.path / receipt_file(self._artifacts[artifact], shard)).remove()

    def withdraw_all(self, artifacts: Iterable[str]) -> None:
        """Remove every valid receipt of artifacts, here and in a store that was set aside.

        For artifacts that depend on something about to change although its recipe stays the same: a
        run that continues after a kill must not take the old values for new ones.
        """
        aside = previous_store(self.path)
        stores = [(self.path, self.manifest), *([aside] if aside is not None else [])]
        for artifact in map(self._artifacts.__getitem__, artifacts):
            fingerprint = self._fingerprints[artifact.name]
            with disk_errors(self.path, f"the receipts of {artifact.name}"):
                storage(self.path / SEAL).remove()
                for path, manifest in stores:
                    for shard in manifest.shards(artifact):
                        if not ledger.why_recompute(
                            path, artifact, shard, artifact_fingerprint=fingerprint
                        ):
                            storage(path / receipt_file(artifact, shard)).remove()

    def commit(
        self,
        artifact: str,
        shard: int,
        files: Mapping[str, Mapping[str, Any]],
        *,
        notes: Mapping[str, Any] | None = None,
    ) -> None:
        """Declare a shard complete whose files `save_shard` has written, in whatever process.

        `notes` (JSON) go into the receipt: per-row content hashes, failures. ResourceError when it
        cannot be written.
        """
        with disk_errors(self.path, f"shard {shard} of {artifact}"):
            ledger.write_receipt(
                self.path,
                self.manifest,
                self._artifacts[artifact],
                shard,
                artifact_fingerprint=self._fingerprints[artifact],
                files=files,
                notes=notes or {},
            )

    def seal(self, *, command: str | None = None) -> None:
        """Declare the store complete, and write its card; files that stay the same are not written.

        `command`: the command that makes this store, for the card. CacheError when the lock was
        taken away meanwhile; AssertionError while shards are missing.
        """
        missing = {name: lost for name, lost in self.missing().items() if lost}
        assert not missing, f"{self.path}: not to be sealed, missing {missing}"
        self._lock.check_held(self.path)
        with storage(self.path).read_ahead(), disk_errors(self.path, f"{SEAL} and {CARD}"):
            seal = ledger.make_seal(self.path, self.manifest)
            card = make_card(self.path, fingerprint=json.loads(seal)["root"], command=command)
            for path, content in ((self.path / CARD, card), (self.path / SEAL, seal)):
                if not storage(path).exists() or storage(path).read() != content:
                    storage(path).write(content)
            discard_previous(self.path)

    def log(self, entry: Mapping[str, Any]) -> None:
        """Append an entry about a run (time, seconds, versions) to history.jsonl."""
        path = self.path / HISTORY
        with disk_errors(self.path, HISTORY):
            before = read_bounded(path) if storage(path).exists() else b""
            cut_short = bool(before) and not before.endswith(b"\n")
            storage(path).write(before + b"\n" * cut_short + json_lines([entry]))

    def last(self, key: str) -> Any:
        """The newest value of a key in the history; None without one."""
        return newest(sound_json_lines(self.path / HISTORY), key)

    def _why(self, artifact: Artifact, shard: int) -> str | None:
        fingerprint = self._fingerprints[artifact.name]
        return ledger.why_recompute(self.path, artifact, shard, artifact_fingerprint=fingerprint)

    def _lost(self, artifact: Artifact, shard: int) -> bool:
        reason = self._why(artifact, shard)
        if reason not in (None, ledger.ABSENT, ledger.STALE):
            _log.warning("%s; its shard is computed again", reason)
        return reason is not None
