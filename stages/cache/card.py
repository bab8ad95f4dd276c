"""The card: a store's README.md, written from what the store holds.

It has no time and no path of this machine, so equal stores have equal cards.
"""

import json
from collections.abc import Sequence
from typing import Any

import numpy as np

from zsseg.stages.cache.disk.store_path import StorePath
from zsseg.stages.cache.format.ledger import read_receipt
from zsseg.stages.cache.format.manifest import Artifact, Manifest, read_manifest
from zsseg.stages.cache.format.stored_rows import read_array
from zsseg.stages.errors import CacheError


def make_card(path: StorePath, *, fingerprint: str, command: str | None) -> bytes:
    """The card of a store whose shards are all there, in Markdown.

    `fingerprint`: the seal's root hash; `command`: the command that makes this store, if known.
    """
    manifest = read_manifest(path)
    identity, info, failed = manifest.identity, manifest.info, _failed(path, manifest)
    failures = "" if failed is None else f" ({failed} could not be used: their rows are zero)"
    facts = [
        f"- Data set: {_text(identity.get('dataset', '?'))}, split {_text(identity.get('split'))}",
        f"- Images: {manifest.rows}{failures}",
        *_classes(identity),
        f"- Teacher: {_text(info.get('teacher', '?'))}",
        f"- Fingerprint: {fingerprint}",
    ]
    rows = [_array_row(path, manifest, artifact) for artifact in manifest.artifacts]
    recipes = {artifact.name: artifact.recipe for artifact in manifest.artifacts}
    first = next(iter(manifest.arrays))
    parts = [
        f"# {_text(identity.get('dataset', '?'))}, {_text(identity.get('split', '?'))}",
        "A store of zsseg: what CLIP says of each image, computed once, for training without CLIP."
        " This file was generated when the store was finished. It is no content: it may be changed "
        "or deleted.",
        "\n".join(facts),
        *([f"Made by:\n\n```\n{command}\n```"] if command else []),
        "## What it holds\n\n| artifact | arrays | bytes |\n|---|---|---|\n" + "\n".join(rows),
        "## How to read it\n\n```python\n"
        "from pathlib import Path\n\n"
        "from zsseg.stages.cache.reader import Store\n\n"
        'store = Store.open(Path("THIS_FOLDER"))\n'
        "store.index[0]  # id, image and label of row 0\n"
        f'store.read_all("{first}")\n```\n\n'
        "Without zsseg, any zarr v3 reader does:\n\n```python\n"
        "import zarr\n\n"
        f'zarr.open_group("THIS_FOLDER", mode="r")["{first}"][:]\n```',
        "## Licence\n\nThe tokens are derived from the images of the data set and computed with "
        "the teacher's weights: the licences of both apply to them. zsseg adds none.",
        "## Recipes\n\n```json\n" + json.dumps(recipes, indent=1, sort_keys=True) + "\n```",
    ]
    return ("\n\n".join(parts) + "\n").encode()


def _failed(path: StorePath, manifest: Manifest) -> int | None:
    """Number of images that could not be used; None where the store does not say, or is damaged.

    A card is no reason to fail.
    """
    if "status" not in manifest.arrays:
        return None
    try:
        status_N = read_array(path, manifest, "status")
    except CacheError:
        return None
    return int(np.count_nonzero(status_N))


def _classes(identity: dict[str, Any]) -> list[str]:
    classes: Sequence[object] = identity.get("classes", [])
    unseen: Sequence[object] = identity.get("unseen", [])
    seen = [name for name in classes if name not in unseen]
    return [
        f"- {title} ({len(names)}): {', '.join(map(_text, names)) or 'none'}"
        for title, names in (("Seen classes", seen), ("Unseen classes", unseen))
    ]


def _array_row(path: StorePath, manifest: Manifest, artifact: Artifact) -> str:
    receipts = [read_receipt(path, artifact, shard) for shard in manifest.shards(artifact)]
    size = sum(file["bytes"] for one in receipts if one for file in one["files"].values())
    arrays = ", ".join(
        f"`{spec.name}` {'x'.join(map(str, manifest.shape(artifact, spec)))} {spec.dtype}"
        for spec in artifact.arrays
    )
    return f"| {artifact.name} | {arrays} | {size:,} |"


def _text(value: object) -> str:
    """The value as one line, escaped so that Markdown shows it unchanged."""
    plain = " ".join(str(value).split())
    return "".join(f"\\{sign}" if sign in r"\`*_[]<>|#" else sign for sign in plain)
