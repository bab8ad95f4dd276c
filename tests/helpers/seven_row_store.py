"""A store of seven images with every kind of array, for the tests of the store."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from zsseg.stages.cache.disk.store_path import StorePath
from zsseg.stages.cache.writer import ArraySpec, Artifact, Writer

ROWS, SHARD_ROWS = 7, 3
IDENTITY = {"dataset": "tiny-world", "split": "train", "classes": ["sky", "ball"]}
INFO = {"teacher": "local-dir:clip", "names": {"ball": "toy ball"}}
INDEX = [
    {"id": f"scene {n}é", "image": f"images/scene {n}é.png", "label": f"labels/{n}.png"}
    for n in range(ROWS)
]
Arrays = dict[str, np.ndarray[Any, Any]]
Place = TypeVar("Place", bound=StorePath)


def artifacts(*, dense: int = 96, threshold: float = 0.9) -> tuple[Artifact, ...]:
    """Four artifacts: text is one unit; regions is made from dense, dense from index.

    `dense` rows are 48 KiB in shards beyond 64 KiB, so that they are sharded; the others are not.
    """
    return (
        Artifact("index", {"label": "visible"}, (ArraySpec("status", (), "uint8"),)),
        Artifact("text", {"templates": "one"}, (ArraySpec("text", (2, 8), "float32"),), (), False),
        Artifact(
            "dense",
            {"size": [dense, dense], "path": "raw"},
            (ArraySpec("dense", (8, 48, 64), "float16"), ArraySpec("norm", (), "float32")),
            ("index",),
        ),
        Artifact(
            "regions",
            {"merge_threshold": threshold},
            (ArraySpec("regions", (4, 4), "uint8", compressed=True),),
            ("dense", "index"),
        ),
    )


def values(artifact: str, rows: range) -> Arrays:
    """What the tests write: drawn per row, so that it does not depend on the order of writing."""
    if artifact == "text":
        return {"text": np.arange(16, dtype=np.float32).reshape(2, 8)}

    def stacked(shape: tuple[int, ...]) -> np.ndarray[Any, Any]:
        return np.stack([np.random.default_rng(row).normal(size=shape) for row in rows])

    if artifact == "dense":
        dense = stacked((8, 48, 64)).astype(np.float16)
        dense[[row == 4 for row in rows]] = 0  # an image that failed
        return {"dense": dense, "norm": np.array(rows, np.float32)}
    if artifact == "regions":
        return {"regions": (np.abs(stacked((4, 4))) * 2).astype(np.uint8)}
    return {"status": np.array([row == 4 for row in rows], np.uint8)}


def open_writer(path: StorePath, **changes: Any) -> Writer:
    """Open the store with some of its settings changed."""
    settings: dict[str, Any] = {
        "identity": IDENTITY,
        "artifacts": artifacts(),
        "index": INDEX,
        "shard_rows": SHARD_ROWS,
        "info": INFO,
    }
    return Writer.open(path, **(settings | changes))


def fill(writer: Writer) -> dict[str, list[int]]:
    """Write what is missing, in the order of the artifacts; returns what that was."""
    missing = writer.missing()
    for artifact, shards in missing.items():
        for shard in shards:
            notes: Mapping[str, Any] = {"failed": {"4": "cut short"}} if artifact == "index" else {}
            writer.write(artifact, shard, values(artifact, writer.rows_of(shard)), notes=notes)
    return {artifact: shards for artifact, shards in missing.items() if shards}


def make_store(path: Place) -> Place:
    """A finished store."""
    with open_writer(path) as writer:
        fill(writer)
        writer.seal()
    return path


def content(path: StorePath) -> dict[str, bytes]:
    """Every file of a store on the disk that counts as content."""
    assert isinstance(path, Path)
    besides = {"README.md", "history.jsonl", "sources.jsonl", ".lock", ".writer.json", ".used"}
    return {
        file.relative_to(path).as_posix(): file.read_bytes()
        for file in sorted(path.rglob("*"))
        if file.is_file() and file.name not in besides
    }
