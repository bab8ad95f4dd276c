"""The writer of a store: one shard at a time, receipt, seal.

Order of every commit: data, fsync, receipt, fsync. The receipt is removed before its shard is
written again, the seal before anything that it covers changes. Killed at any point, the same run
continues and ends with the same bytes.
"""

import json
import logging
import shutil
from collections.abc import Collection, Iterable, Mapping, Sequence
from graphlib import TopologicalSorter
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from filelock import FileLock

from stages.cache import ledger
from stages.cache.arrays import open_array, place, read, write_shard
from stages.cache.card import make_card
from stages.cache.codec import DENSE, decode
from stages.cache.files import (
    append_durably,
    json_lines,
    newest,
    read_json_lines,
    remove_durably,
    sweep,
    write_durably,
)
from stages.cache.lock import acquire, release
from stages.cache.manifest import (
    CARD,
    HISTORY,
    INDEX,
    SEAL,
    SOURCES,
    ArraySpec,
    Artifact,
    Manifest,
    fingerprints,
    receipt_file,
    shard_file,
)
from stages.cache.recipe import plain
from stages.cache.reconcile import prepare
from stages.errors import CacheError, NonFiniteError, ResourceError

__all__ = ["ArraySpec", "Artifact", "Writer"]

_SHOWN = 10  # images named in one message

_log = logging.getLogger(__name__)


class Writer:
    """An open store under this process's lock. Made by `Writer.open`; use it in a `with`."""

    def __init__(self, path: Path, manifest: Manifest, lock: FileLock) -> None:
        self.path = path
        self.manifest = manifest
        self._fingerprints = fingerprints(manifest.artifacts)
        self._artifacts = {artifact.name: artifact for artifact in manifest.artifacts}
        self._lock = lock

    @classmethod
    def open(
        cls,
        path: Path,
        *,
        identity: Mapping[str, Any],
        artifacts: Sequence[Artifact],
        index: Sequence[Mapping[str, Any]],
        shard_rows: int,
        info: Mapping[str, Any],
        update: bool = False,
    ) -> Self:
        """Create a store, or open the one that is there to continue it.

        `index`: one entry per row with `id`, `image`, `label` (paths relative to the data set's
        root). `identity` holds `dataset` and `split`, `info` holds `teacher`: the catalogue shows
        them; a `teacher` of another name is no difference. Raises CacheLocked when another process
        writes the store, and CacheError with every differing field when it was made with other
        settings; with `update` the artifacts that differ are dropped, to be computed again, and
        the index gets the labels' new paths.
        """
        manifest = Manifest(
            identity=plain(dict(identity)),
            info=plain(dict(info)),
            artifacts=tuple(artifacts),
            rows=len(index),
            shard_rows=shard_rows,
        )
        assert manifest.rows > 0, "a store of no images"
        assert sum(len(a.arrays) for a in artifacts) == len(manifest.arrays), "an array named twice"
        assert all(entry.get("row", row) == row for row, entry in enumerate(index))
        lines = json_lines({"row": row} | dict(entry) for row, entry in enumerate(index))
        try:
            path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ResourceError(f"{path}: cannot make this folder: {error}") from error
        lock = acquire(path)
        try:
            sweep(path)
            prepare(path, manifest, lines, update=update)
        except BaseException:
            release(path, lock)
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
        release(self.path, self._lock)

    def missing(self) -> dict[str, list[int]]:
        """Shards still to write, by artifact: no receipt, one of another recipe, or lost files."""
        return {
            artifact.name: [s for s in self.manifest.shards(artifact) if self._lost(artifact, s)]
            for artifact in self.manifest.artifacts
        }

    def rows_of(self, shard: int) -> range:
        """Rows of one shard of the per-row artifacts."""
        return self.manifest.rows_of(shard)

    def receipt(self, artifact: str, shard: int) -> dict[str, Any] | None:
        """The receipt of a shard with its notes; None when there is none that can be read."""
        try:
            return ledger.read_receipt(self.path, self._artifacts[artifact], shard)
        except CacheError:  # `missing` lists the shard and logs why
            return None

    def read(self, array: str, shard: int) -> np.ndarray[Any, Any]:
        """One committed shard of an array: (rows, ...), or the whole array of a unit artifact.

        `dense` as tokens (rows, D, h, w), whatever the format that they are stored in.
        """
        artifact, _ = self.manifest.arrays[array]
        if array == DENSE:
            return decode(artifact.recipe, lambda part: self._stored(part, shard))
        return self._stored(array, shard)

    def _stored(self, array: str, shard: int) -> np.ndarray[Any, Any]:
        """A shard as it lies in the store, or all of an array without rows."""
        artifact, spec = self.manifest.arrays[array]
        shard = shard if artifact.per_row else 0
        where = str(self.path / shard_file(spec, artifact, shard))
        assert not self._lost(artifact, shard), f"{where} is not committed"
        values = open_array(self.path, self.manifest, array)
        return read(values, place(self.manifest, artifact, shard), where=where)

    def write(
        self,
        artifact: str,
        shard: int,
        arrays: Mapping[str, np.ndarray[Any, Any]],
        *,
        notes: Mapping[str, Any] | None = None,
    ) -> None:
        """Write and commit one whole shard of every array of an artifact.

        `notes` (JSON) go into the receipt: per-row content hashes, failures. Raises
        NonFiniteError on NaN or infinity before anything is written, ResourceError when the disk
        refuses.
        """
        what = self._artifacts[artifact]
        assert arrays.keys() == {spec.name for spec in what.arrays}, (artifact, list(arrays))
        for spec in what.arrays:
            self._check(what, spec, shard, arrays[spec.name])
        try:
            remove_durably(self.path / SEAL)
            remove_durably(self.path / receipt_file(what, shard))
            write_shard(self.path, self.manifest, what, shard, arrays)
            ledger.publish(
                self.path,
                self.manifest,
                what,
                shard,
                made_from=self._fingerprints[artifact],
                notes=notes or {},
            )
        except OSError as error:
            free = shutil.disk_usage(self.path).free / 2**20
            raise ResourceError(
                f"{self.path}: cannot write shard {shard} of {artifact}: {error} ({free:.0f} MiB "
                "free). What is committed is safe: free space, or mend the disk, and run the same "
                "command again"
            ) from error

    def forget(self, shards: Iterable[int], *, only: Collection[str] | None = None) -> None:
        """Withdraw the receipts of these shards: they become missing.

        In all per-row artifacts, or in those of `only`. Dependents go first, so that what a killed
        call leaves still shows the reason for it.
        """
        remove_durably(self.path / SEAL)
        depends = {artifact.name: artifact.depends for artifact in self.manifest.artifacts}
        order = [self._artifacts[name] for name in TopologicalSorter(depends).static_order()]
        for shard in shards:
            for artifact in reversed(order):
                if artifact.per_row and (only is None or artifact.name in only):
                    remove_durably(self.path / receipt_file(artifact, shard))

    def seal(self, *, command: str | None = None) -> None:
        """Declare the store complete, and write its card; what is unchanged is not written again.

        `command` is what makes this store, for the card.
        """
        missing = {name: shards for name, shards in self.missing().items() if shards}
        assert not missing, f"{self.path}: not to be sealed, missing {missing}"
        seal = ledger.make_seal(self.path, self.manifest)
        card = make_card(self.path, fingerprint=json.loads(seal)["root"], command=command)
        for path, content in ((self.path / CARD, card), (self.path / SEAL, seal)):
            if not path.exists() or path.read_bytes() != content:
                write_durably(path, content)

    def log(self, entry: Mapping[str, Any]) -> None:
        """Append what a run says about itself (time, seconds, versions) to history.jsonl."""
        path = self.path / HISTORY
        before = path.read_bytes() if path.exists() else b""
        write_durably(path, before + json_lines([entry]))

    def last(self, key: str) -> Any:
        """The newest value of a key in the history; None when never said."""
        return newest(read_json_lines(self.path / HISTORY), key)

    def sources(self) -> list[dict[str, Any]]:
        """The stat cache of the data set's files as last saved; empty when it cannot be read."""
        try:
            return read_json_lines(self.path / SOURCES)
        except CacheError as error:  # its last line cut short by a crash, at worst
            _log.info("%s; the data set's files are hashed again", error)
            return []

    def save_sources(self, entries: Iterable[Mapping[str, Any]]) -> None:
        """Replace the stat cache (sources.jsonl)."""
        write_durably(self.path / SOURCES, json_lines(entries))

    def add_sources(self, entries: Iterable[Mapping[str, Any]]) -> None:
        """Append to the stat cache; the last entry of an id is the one that counts."""
        append_durably(self.path / SOURCES, json_lines(entries))

    def _lost(self, artifact: Artifact, shard: int) -> bool:
        try:
            receipt = ledger.read_receipt(self.path, artifact, shard)
        except CacheError as error:
            _log.warning("%s; its shard is computed again", error)
            return True
        if receipt is None or receipt.get("fingerprint") != self._fingerprints[artifact.name]:
            return True
        for file, entry in receipt["files"].items():
            if reason := ledger.damage(self.path, file, entry, read_data=False):
                _log.warning("%s: %s; its shard is computed again", self.path / file, reason)
                return True
        return False

    def _check(
        self, artifact: Artifact, spec: ArraySpec, shard: int, values: np.ndarray[Any, Any]
    ) -> None:
        rows = self.manifest.rows_of(shard)
        shape = (len(rows), *spec.shape) if artifact.per_row else spec.shape
        assert values.shape == shape, f"{spec.name}: {values.shape} instead of {shape}"
        assert values.dtype == np.dtype(spec.dtype), f"{spec.name}: {values.dtype}"
        if np.issubdtype(values.dtype, np.floating):
            self.check_finite(spec.name, shard, values, per_row=artifact.per_row)

    def check_finite(
        self, array: str, shard: int, values: np.ndarray[Any, Any], *, per_row: bool = True
    ) -> None:
        """Raise NonFiniteError, with the images' ids, when rows of a shard are not finite."""
        bad = np.flatnonzero(~np.isfinite(values.reshape(len(values), -1)).all(axis=1))
        if not len(bad):
            return
        named = [f"row {i}" for i in bad[:_SHOWN]]
        if per_row:
            rows, index = self.rows_of(shard), read_json_lines(self.path / INDEX)
            named = [f"row {rows[i]} ({index[rows[i]]['id']})" for i in bad[:_SHOWN]]
        raise NonFiniteError(
            f"{self.path}: NaN or infinity in array {array}, {len(bad)} rows: "
            + ", ".join(named)
            + (", ..." if len(bad) > _SHOWN else "")
            + f". Nothing of shard {shard} was written. "
            + ("float16 ends at 65504: " if values.dtype == np.float16 else "")
            + "look at these images and at the teacher's weights"
        )
