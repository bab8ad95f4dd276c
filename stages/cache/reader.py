"""Reads a finished store, row by row or whole arrays; safe to pickle, to fork and to spawn."""

import os
from typing import Any, Self

import numpy as np

from zsseg.stages.cache.disk.json_files import newest, read_json_lines, sound_json_lines
from zsseg.stages.cache.disk.storage import storage
from zsseg.stages.cache.disk.store_path import StorePath
from zsseg.stages.cache.format import ledger
from zsseg.stages.cache.format.arrays import ZarrArray, open_array, read_rows
from zsseg.stages.cache.format.codec import DENSE, NOT_KEPT, decode, stored_format
from zsseg.stages.cache.format.fast_rows import DirectRows, direct_rows, lost_shard
from zsseg.stages.cache.format.manifest import (
    GROUP,
    HISTORY,
    INDEX,
    SEAL,
    Manifest,
    read_manifest,
    shard_file,
)
from zsseg.stages.cache.verify import verify_store
from zsseg.stages.errors import CacheError

_SHOWN = 5


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
        self._arrays: dict[str, ZarrArray] = {}
        self._rows: dict[str, DirectRows | None] = {}
        self._units: dict[str, np.ndarray[Any, Any]] = {}
        self._found: set[StorePath] = set()
        self._process = os.getpid()
        self._seal: tuple[int, ...] | None = None
        """Size, time and inode of the seal that was last found to be this store's."""

    @classmethod
    def open(cls, path: StorePath) -> Self:
        """Open a store; CacheError when it is missing, foreign, unfinished or damaged.

        `path`: the store's folder, or its URL (`store_path("s3://...")`). Checks metadata, receipts
        and file sizes; `verify_store` also checks the hashes of the data.
        """
        with storage(path).read_ahead():
            manifest = read_manifest(path)
            seal = ledger.read_seal(path)
            problems = verify_store(path, read_data=False)
        if problems:
            raise CacheError(
                f"{path}: {len(problems)} files of the store are damaged:",
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
            self._index = read_json_lines(self.path / INDEX)
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

    def read(self, array: str, row: int) -> np.ndarray[Any, Any]:
        """One image's row of an array that has a row per image, without the leading N.

        `dense` is decoded to tokens (D, h, w): float16 from format fp16, else float32. CacheError
        when the store keeps none, or when the file is missing or damaged.
        """
        self._check_kept(array)
        artifact, _ = self.manifest.arrays[array]
        assert artifact.per_row, f"{array} has no rows; read_all reads it"
        assert 0 <= row < self.rows, f"row {row} of {self.rows}"
        self._check_not_replaced()
        if array == DENSE:
            return decode(artifact.recipe, lambda part: self._stored(part, row))
        return self._stored(array, row)

    def read_all(self, array: str) -> np.ndarray[Any, Any]:
        """A whole array: (N, ...), or the array of an artifact without rows, as `text` (C, D).

        For arrays that fit into memory. `dense` is decoded to tokens (N, D, h, w), see `read`.
        CacheError when a file is missing or damaged.
        """
        self._check_kept(array)
        artifact, _ = self.manifest.arrays[array]
        self._check_not_replaced()
        if array == DENSE:
            return decode(artifact.recipe, self._stored_whole)
        return self._stored_whole(array)

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

        Not at a URL, where every look would be a request.
        """
        if storage(self.path).remembers_files:
            return
        try:
            found = os.stat(f"{self.path}/{SEAL}")  # noqa: PTH116 (before every row)
        except FileNotFoundError:
            if not storage(self.path / GROUP).exists():
                return  # gone altogether: the message of what is read next says so
            self._raise_replaced("is being written again")
            return
        state = (found.st_size, found.st_mtime_ns, found.st_ino)
        if state == self._seal:
            return
        if ledger.read_seal(self.path)["root"] != self.fingerprint:
            self._raise_replaced("is another one now")
        self._seal = state

    def _raise_replaced(self, what: str) -> None:
        raise CacheError(
            f"{self.path}: the store {what}, not the one that was opened: `zsseg precompute "
            "--update` or another command has changed it meanwhile, and nothing of the new one was "
            "used. Wait until that has ended; begin again with the new store (`zsseg train` into "
            "another --out), or bring the old one back and go on with --resume"
        )

    def _check_kept(self, array: str) -> None:
        if array == DENSE and stored_format(self.recipes.get(DENSE, {})) == "none":
            raise CacheError(f"{self.path}: {NOT_KEPT}")

    def _stored(self, array: str, row: int) -> np.ndarray[Any, Any]:
        """A row as it is stored; of an array without rows all of it, which stays in memory."""
        if not self.manifest.arrays[array][0].per_row:
            if array not in self._units:
                self._units[array] = self._stored_whole(array)
            return self._units[array]
        opened = self._open(array)
        shard, within = divmod(row, self.shard_rows)
        if (rows := self._rows[array]) is not None:
            artifact, spec = self.manifest.arrays[array]
            return rows.read(shard_file(spec, artifact, shard), within)
        return read_rows(opened, row, where=self._file(array, shard))

    def _stored_whole(self, array: str) -> np.ndarray[Any, Any]:
        artifact, _ = self.manifest.arrays[array]
        shards = self.manifest.shards(artifact)
        storage(self.path).map(lambda shard: self._file(array, shard), shards)
        return read_rows(self._open(array), slice(None), where=str(self.path / array))

    def _open(self, array: str) -> ZarrArray:
        if self._process != os.getpid():  # forked: zarr's handles stay with the parent
            self._arrays, self._process = {}, os.getpid()
        if array not in self._arrays:
            self._arrays[array] = open_array(self.path, self.manifest, array)
            self._rows[array] = direct_rows(self.path, array)
        return self._arrays[array]

    def _file(self, array: str, shard: int) -> str:
        """Path of a shard; CacheError when it is missing, which zarr would read as zeros."""
        artifact, spec = self.manifest.arrays[array]
        file = self.path / shard_file(spec, artifact, shard)
        if file in self._found:
            return str(file)
        if not storage(file).size():
            raise CacheError(lost_shard(file))
        if storage(file).remembers_files:
            self._found.add(file)
        return str(file)
