"""The manifest of a store (its zarr.json): what it holds, and in which files. Needs no zarr.

zarr.json     group; attributes: format, identity, info, artifacts, rows, shard_rows;
              consolidated metadata: the zarr.json of every array (not in stores of zsseg 0.1,
              and not in what the seal's hash is of: it says nothing that the arrays do not say)
index.jsonl   one line per row: row, id, image, label (paths relative to the data set's root)
<array>/      one zarr array each; zarr.json and one file per shard
ledger/<artifact>/<shard>.json   receipt: rows, bytes and hash of the files of one shard
seal.json     written last: hashes of everything above but the arrays' data
README.md     the card, for people; made from the files above, so it is no content
history.jsonl, sources.jsonl, .lock, .writer.json, .used   no content: differ between equal runs
"""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from math import prod
from typing import Any

import numpy as np

from zsseg.stages.cache.disk.json_files import json_lines, plain, read_json
from zsseg.stages.cache.disk.lock import HOLDER, LOCK
from zsseg.stages.cache.disk.storage import storage
from zsseg.stages.cache.disk.store_path import StorePath
from zsseg.stages.cache.format.recipe import fingerprint
from zsseg.stages.errors import CacheError

FORMAT = 1
GROUP = "zarr.json"
INDEX = "index.jsonl"
LEDGER = "ledger"
SEAL = "seal.json"
HISTORY = "history.jsonl"
VISIBLE_PIXELS = "visible_pixels"  # key of the history: pixels of each visible label value
AUTO_SIZE = "auto_size"  # key of the info: the size of dense tokens was chosen by dense.size=auto
SOURCES = "sources.jsonl"
CARD = "README.md"
USED = ".used"

TOP_FILES = frozenset({GROUP, INDEX, SEAL, HISTORY, SOURCES, CARD, USED, LOCK, HOLDER})
"""All files directly in a store's folder."""

REMOVING, IMPORTING = ".removing", ".importing"
"""Endings of folders that `zsseg cache rm` is deleting, and that `import` has not completed."""

_ADVICE = (
    "run the same `zsseg precompute` command again, which restores it if the store was finished, "
    "or delete the store"
)
_NAME = re.compile(r"[a-z][a-z0-9_]*")
_BELOW = re.compile(
    rf"[a-z][a-z0-9_]*/(zarr\.json|c(\.\d+)*)|{LEDGER}/[a-z][a-z0-9_]*/\d+\.json", re.ASCII
)
_BY_ZARR = re.compile(r"[a-z][a-z0-9_]*/(zarr|c(\.\d+)*)\.[0-9a-f]{32}", re.ASCII)
"""How zarr names a file while it writes it, less `.partial`: it replaces the last suffix."""
_LARGEST_ROW = 1 << 32  # bytes of one row of an array, or of an array without rows
_MOST_ROWS = 50_000_000
_MOST_SHARD_ROWS = 1_000_000  # `shard_images` is far below
_SHORTEST_LINE = 16  # bytes of an entry of the index, at least
_LONGEST_LINE = 1 << 14  # bytes of an entry of the index, on the average: three long paths
_FEW_ROWS = 100_000


@dataclass(frozen=True)
class ArraySpec:
    """One array of an artifact.

    `shape` is the shape of one row (of the whole array, where the artifact is not per row).
    `compressed`: zstd, for integer maps; floating-point tokens gain too little by it.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    compressed: bool = False

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name) or self.name == LEDGER:
            raise ValueError(f"not a name for an array: {self.name!r}")
        if any(side < 1 for side in self.shape):
            raise ValueError(f"array {self.name} of an empty shape: {self.shape}")
        if np.dtype(self.dtype).kind not in "biuf":  # no code runs to decode a number
            raise ValueError(f"array {self.name} of {self.dtype}, which is no number")
        if prod(self.shape) * np.dtype(self.dtype).itemsize > _LARGEST_ROW:
            raise ValueError(f"array {self.name} of {self.shape}, which no memory holds")


@dataclass(frozen=True)
class Artifact:
    """Arrays that are computed together, and the recipe that they are computed from.

    `depends` names the artifacts that it is made from: when their recipe changes, its fingerprint
    does too. `per_row`: one row per image, written shard by shard; otherwise all is shard 0.
    """

    name: str
    recipe: Mapping[str, Any]
    arrays: tuple[ArraySpec, ...]
    depends: tuple[str, ...] = ()
    per_row: bool = True

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise ValueError(f"not a name for an artifact: {self.name!r}")


def fingerprints(artifacts: Sequence[Artifact]) -> dict[str, str]:
    """Fingerprint of each artifact: its recipe, its arrays and its dependencies' fingerprints."""
    by_name = {artifact.name: artifact for artifact in artifacts}
    assert len(by_name) == len(artifacts), "two artifacts of one name"

    def of(name: str) -> str:
        return fingerprint(description(by_name[name]) | {"depends": list(map(of, depends[name]))})

    depends = {artifact.name: sorted(artifact.depends) for artifact in artifacts}
    return {name: of(name) for name in by_name}


def description(artifact: Artifact) -> dict[str, Any]:
    """An artifact as plain values, without its name: that is the key that it is stored under."""
    value: dict[str, Any] = plain(asdict(artifact))
    del value["name"]
    return value


@dataclass(frozen=True)
class Manifest:
    """The attributes of a store's group."""

    identity: dict[str, Any]
    info: dict[str, Any]
    artifacts: tuple[Artifact, ...]
    rows: int
    shard_rows: int

    @property
    def arrays(self) -> dict[str, tuple[Artifact, ArraySpec]]:
        """Every array by name, with the artifact that it belongs to."""
        return {
            spec.name: (artifact, spec) for artifact in self.artifacts for spec in artifact.arrays
        }

    @property
    def index_bytes(self) -> int:
        """Bytes that index.jsonl has at most."""
        return self.rows * _LONGEST_LINE

    def shards(self, artifact: Artifact) -> range:
        """Numbers of the artifact's shards."""
        return range(-(-self.rows // self.shard_rows) if artifact.per_row else 1)

    def rows_of(self, shard: int) -> range:
        """Rows that shard `shard` of a per-row artifact holds; the last one may be short."""
        first = shard * self.shard_rows
        return range(first, min(first + self.shard_rows, self.rows))

    def shape(self, artifact: Artifact, spec: ArraySpec) -> tuple[int, ...]:
        """Shape of the whole array."""
        return (self.rows, *spec.shape) if artifact.per_row else spec.shape


def shard_file(spec: ArraySpec, artifact: Artifact, shard: int) -> str:
    """Path of one shard's data, relative to the store, as zarr names it."""
    place = [shard, *(0 for _ in spec.shape)] if artifact.per_row else [0 for _ in spec.shape]
    return f"{spec.name}/{'.'.join(['c', *map(str, place)])}"


def receipt_file(artifact: Artifact, shard: int) -> str:
    """Path of one shard's receipt, relative to the store."""
    return f"{LEDGER}/{artifact.name}/{shard:06d}.json"


def group_json(manifest: Manifest, *, arrays: Mapping[str, object] | None = None) -> bytes:
    """Content of the group's zarr.json: zarr reads it, and equal manifests give equal bytes.

    `arrays`: what each array's zarr.json says. With them zarr knows the arrays without looking at
    the folder, where it warns of every file that is none of its own. None: as zsseg 0.1 wrote it.
    """
    prints = fingerprints(manifest.artifacts)
    attributes = {
        "zsseg_format": FORMAT,
        "identity": plain(manifest.identity),
        "info": plain(manifest.info),
        "artifacts": {
            artifact.name: description(artifact) | {"fingerprint": prints[artifact.name]}
            for artifact in manifest.artifacts
        },
        "rows": manifest.rows,
        "shard_rows": manifest.shard_rows,
    }
    group: dict[str, Any] = {"zarr_format": 3, "node_type": "group", "attributes": attributes}
    if arrays is not None:
        group["consolidated_metadata"] = {
            "kind": "inline",
            "must_understand": False,
            "metadata": dict(arrays),
        }
    return (json.dumps(group, indent=1, sort_keys=True, allow_nan=False) + "\n").encode("ascii")


def index_lines(entries: Iterable[Mapping[str, Any]]) -> bytes:
    """Content of index.jsonl: the entries, each with its row number."""
    content = bytearray()  # line by line: there may be very many
    for row, entry in enumerate(entries):
        content += json_lines([{"row": row} | dict(entry)])
    return bytes(content)


def read_manifest(store: StorePath) -> Manifest:
    """Read a store's zarr.json; CacheError when missing, foreign, damaged or of another format."""
    path = store / GROUP
    if storage(path).size() is None:
        raise CacheError(
            f"{store}: no store here ({GROUP} is missing); `zsseg precompute` makes one"
        )
    try:
        attributes = read_json(path).get("attributes")
    except CacheError as error:
        raise CacheError(f"{error}; {_ADVICE}") from error
    if not isinstance(attributes, dict) or "zsseg_format" not in attributes:
        raise CacheError(
            f"{path}: a zarr group, but not one that `zsseg precompute` wrote. Give another folder"
        )
    if attributes["zsseg_format"] != FORMAT:
        raise CacheError(
            f"{path}: format {attributes['zsseg_format']!r}, this version of zsseg reads "
            f"format {FORMAT}; use the version that wrote it, or run `zsseg precompute` into "
            "another --cache folder"
        )
    try:
        manifest = Manifest(
            identity=dict(attributes["identity"]),
            info=dict(attributes["info"]),
            artifacts=tuple(_artifact(*item) for item in attributes["artifacts"].items()),
            rows=int(attributes["rows"]),
            shard_rows=int(attributes["shard_rows"]),
        )
        stored = {name: entry["fingerprint"] for name, entry in attributes["artifacts"].items()}
        made = fingerprints(manifest.artifacts)
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
        raise CacheError(f"{path}: damaged, {reason}; {_ADVICE}") from error
    if manifest.rows < 1 or manifest.shard_rows < 1:
        raise CacheError(f"{path}: damaged, fewer than one row; {_ADVICE}")
    if manifest.shard_rows > _MOST_SHARD_ROWS:
        raise CacheError(
            f"{path}: damaged, it claims {manifest.shard_rows:,} rows in a shard; {_ADVICE}"
        )
    if _too_many(store, manifest.rows):
        raise CacheError(
            f"{path}: damaged, it claims {manifest.rows:,} rows, more than {INDEX} has; {_ADVICE}"
        )
    if stored != made:
        names = ", ".join(name for name in made if stored[name] != made[name])
        raise CacheError(f"{path}: damaged, the fingerprint of {names} is wrong; {_ADVICE}")
    return manifest


def _too_many(store: StorePath, rows: int) -> bool:
    """Does a manifest claim more rows than there can be? Lists of their files would be endless."""
    if rows <= _FEW_ROWS:
        return False
    size = storage(store / INDEX).size()
    return rows > _MOST_ROWS or (size is not None and rows * _SHORTEST_LINE > size)


def is_store_file(name: str) -> bool:
    """Has a path, relative to a store, the form of those that zsseg writes?"""
    return name in TOP_FILES or _BELOW.fullmatch(name) is not None


def is_half_written(name: str) -> bool:
    """Is a path, relative to a store and less `.partial`, that of a file which zsseg or zarr was
    writing?"""
    return is_store_file(name) or _BY_ZARR.fullmatch(name) is not None


def _artifact(name: str, entry: dict[str, Any]) -> Artifact:
    arrays = tuple(
        ArraySpec(
            name=array["name"],
            shape=tuple(array["shape"]),
            dtype=array["dtype"],
            compressed=array["compressed"],
        )
        for array in entry["arrays"]
    )
    return Artifact(
        name=name,
        recipe=entry["recipe"],
        arrays=arrays,
        depends=tuple(entry["depends"]),
        per_row=entry["per_row"],
    )
