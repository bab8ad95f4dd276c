"""Reads a finished store, row by row or whole arrays; safe to pickle, to fork and to spawn."""

import time
from collections.abc import Callable
from typing import Any, Self, TypeAlias

import numpy as np

from zsseg.stages.cache.disk.json_files import newest, read_json_lines, sound_json_lines
from zsseg.stages.cache.disk.storage import storage
from zsseg.stages.cache.disk.store_path import StorePath, store_path
from zsseg.stages.cache.format import ledger
from zsseg.stages.cache.format.codec import DENSE, NOT_KEPT, decode, stored_format
from zsseg.stages.cache.format.manifest import (
    GROUP,
    HISTORY,
    INDEX,
    SEAL,
    Manifest,
    read_manifest,
    shard_file,
)
from zsseg.stages.cache.format.stored_rows import StoredRows, read_array, stored_rows
from zsseg.stages.cache.verify import verify_store
from zsseg.stages.errors import CacheError
from zsseg.stages.printable import counted

_SHOWN = 5

Values: TypeAlias = np.ndarray[Any, Any]


class Store:
    """A finished store, to read only. Made by `Store.open`; pickles as its path and manifest.

    `identity`, `info` and `recipes` (by artifact) are what the writer was given. `fingerprint` is
    the seal's root hash: it changes with any byte of content.
    """

    def __init__(self, path: StorePath, manifest: Manifest, fingerprint: str) -> None:
        self.path = path
        self.manifest = manifest
        self.fingerprint = fingerprint
        self._index: list[dict[str, Any]] | None = None
        self._rows: dict[str, StoredRows] = {}
        self._units: dict[str, Values] = {}
        self._seal: object = None
        """The state of the seal that was last found to be this store's."""
        self._next_look = 0.0

    @classmethod
    def open(cls, path: str | StorePath) -> Self:
        """Open a store; CacheError when it is missing, foreign, unfinished or damaged.

        `path`: the store's folder, or its URL ("s3://..."). Checks metadata, receipts
        and file sizes; `verify_store` also checks the hashes of the data.
        """
        path = store_path(path) if isinstance(path, str) else path
        with storage(path).read_ahead():
            manifest = read_manifest(path)
            seal = ledger.read_seal(path)
            problems = verify_store(path, read_data=False)
        if problems:
            found = counted(len(problems), "file of the store is", "files of the store are")
            raise CacheError(
                f"{path}: {found} damaged:",
                *(f"{path / problem.file}: {problem.reason}" for problem in problems[:_SHOWN]),
                f"`zsseg cache verify {path} --repair` computes what is damaged once more, and "
                "nothing else",
            )
        return cls(path, manifest, str(seal["root"]))

    @property
    def identity(self) -> dict[str, Any]:
        """Data set, split, classes and teacher: a store with another identity is another store."""
        return self.manifest.identity

    @property
    def info(self) -> dict[str, Any]:
        """What readers also need: class and prompt names, widths, the data set's description."""
        return self.manifest.info

    @property
    def recipes(self) -> dict[str, dict[str, Any]]:
        """The recipe of each artifact, by its name: all settings that decide its values."""
        return {artifact.name: dict(artifact.recipe) for artifact in self.manifest.artifacts}

    @property
    def rows(self) -> int:
        """Number of images."""
        return self.manifest.rows

    @property
    def shard_rows(self) -> int:
        """Images per shard."""
        return self.manifest.shard_rows

    @property
    def index(self) -> list[dict[str, Any]]:
        """`row`, `id`, `image` and `label` of every row, in their order.

        Paths are relative to the data set's root; `label` is None for an image without one.
        """
        if self._index is None:
            self._index = read_json_lines(self.path / INDEX, at_most=self.manifest.index_bytes)
        return self._index

    @property
    def history(self) -> list[dict[str, Any]]:
        """One entry per run of `zsseg precompute` (time, seconds, versions), oldest first."""
        return sound_json_lines(self.path / HISTORY)

    def last(self, key: str) -> Any:
        """The newest value of a key in the history, as `root` or `teacher`; None without one."""
        return newest(self.history, key)

    def has(self, array: str) -> bool:
        """Does the store hold this array?"""
        return array in self.manifest.arrays

    def read(self, array: str, row: int) -> Values:
        """One image's row of an array that has a row per image, without the leading N.

        `dense` is decoded to tokens (D, h, w): float16 from format fp16, else float32. CacheError
        when the store keeps none, when the file is missing or damaged, or the store was replaced.
        """
        self._check_kept(array)
        assert self.manifest.arrays[array][0].per_row, f"{array} has no rows; read_all reads it"
        assert 0 <= row < self.rows, f"row {row} of {self.rows}"
        return self._read(array, lambda part: self._stored(part, row))

    def read_all(self, array: str) -> Values:
        """A whole array: (N, ...), or the array of an artifact without rows, as `text` (C, D).

        For arrays that fit into memory. `dense` is decoded to tokens (N, D, h, w), see `read`.
        CacheError as for `read`.
        """
        self._check_kept(array)
        return self._read(array, lambda part: read_array(self.path, self.manifest, part))

    def receipt(self, artifact: str, shard: int) -> dict[str, Any]:
        """The receipt of a shard: its files, and the writer's notes (hashes, failures).

        CacheError when it is missing or damaged.
        """
        (what,) = (a for a in self.manifest.artifacts if a.name == artifact)
        advice = f"`zsseg cache verify {self.path} --repair` computes what is damaged once more"
        try:
            receipt = ledger.read_receipt(self.path, what, shard)
        except CacheError as error:
            raise CacheError(f"{error}; {advice}") from error
        if receipt is None:
            raise CacheError(
                f"{self.path}: the receipt of {artifact}, shard {shard}, is gone; {advice}"
            )
        return receipt

    def __reduce__(self) -> tuple[type[Self], tuple[StorePath, Manifest, str]]:
        return type(self), (self.path, self.manifest, self.fingerprint)

    def _check_not_replaced(self) -> None:
        """CacheError when another store has been written in its place since it was opened.

        A writer deletes the seal before it changes anything. So what was read before this look is
        of the store that was opened. At a URL, where a look is a request, some look only.
        """
        if time.monotonic() < self._next_look:
            return
        seal = storage(self.path / SEAL)
        try:
            found = seal.state()
        except FileNotFoundError:
            if not storage(self.path / GROUP).exists():
                return  # gone altogether: the message of what is read next says so
            self._raise_replaced("is being written again")
            return
        if found != self._seal and ledger.read_seal(self.path)["root"] != self.fingerprint:
            self._raise_replaced("is another one now")
        self._seal = found
        self._next_look = time.monotonic() + seal.seconds_between_looks

    def _raise_replaced(self, what: str) -> None:
        seconds = storage(self.path).seconds_between_looks
        used = f"rows read in the last {seconds:.0f} s may be" if seconds else "nothing was used"
        raise CacheError(
            f"{self.path}: the store {what}, not the one that was opened: `zsseg precompute "
            f"--update` or another command has changed it meanwhile ({used} of the new one). Wait "
            "until that has ended; begin again with the new store (`zsseg train` into another "
            "--out), or bring the old one back and go on with --resume"
        )

    def _check_kept(self, array: str) -> None:
        if array == DENSE and stored_format(self.recipes.get(DENSE, {})) == "none":
            raise CacheError(f"{self.path}: {NOT_KEPT}")

    def _read(self, array: str, read: Callable[[str], Values]) -> Values:
        """What `read` gives for an array, once it is sure that the store is still this one."""
        try:
            if array == DENSE:
                values = decode(self.manifest.arrays[DENSE][0].recipe, read)
            else:
                values = read(array)
        except CacheError:
            self._next_look = 0.0
            self._check_not_replaced()  # the better reason, where it is one
            raise
        self._check_not_replaced()
        return values

    def _stored(self, array: str, row: int) -> Values:
        """A row as it is stored; of an array without rows all of it, which stays in memory."""
        artifact, spec = self.manifest.arrays[array]
        if not artifact.per_row:
            if array not in self._units:
                self._units[array] = read_array(self.path, self.manifest, array)
            return self._units[array]
        if array not in self._rows:
            self._rows[array] = stored_rows(self.path, self.manifest, array)
        shard, within = divmod(row, self.shard_rows)
        return self._rows[array].read(shard_file(spec, artifact, shard), within)
