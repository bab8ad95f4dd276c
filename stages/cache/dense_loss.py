"""How much dense tokens lose by being stored in fewer bytes: measured by stage one.

The measurement is a line of the store's history, which is no content: equal stores stay equal byte
for byte, and new text embeddings leave the receipts of the dense tokens unchanged. It holds a
fingerprint of what was measured, so that it is not shown for other content.
"""

from dataclasses import asdict, dataclass
from typing import Any

from zsseg.stages.cache.disk.json_files import newest, sound_json_lines
from zsseg.stages.cache.disk.store_path import StorePath
from zsseg.stages.cache.format import ledger
from zsseg.stages.cache.format.codec import BASIS, DENSE
from zsseg.stages.cache.format.manifest import HISTORY, LEDGER, Manifest
from zsseg.stages.cache.format.recipe import fingerprint
from zsseg.stages.errors import CacheError

_KEY = "dense_loss"
_MADE_OF = (DENSE, BASIS, "text")


@dataclass(frozen=True)
class DenseLoss:
    """Stored dense tokens compared with the teacher's own, on a sample of images."""

    format: str
    bytes: float
    """Size of the dense tokens' files over that of half precision."""
    cosine_mean: float
    cosine_worst: float
    """Cosine similarity of a stored token and its original: the mean, and the lowest."""
    agreement: float
    """Share of tokens (0 to 1) that are nearest to the same class name as their original."""
    images: int
    tokens: int


def recorded_loss(store: StorePath, manifest: Manifest) -> DenseLoss | None:
    """The measurement of what the store holds now; None without one, or when it is not sealed."""
    try:
        entry = newest(sound_json_lines(store / HISTORY), _KEY)
        if entry is None or entry.pop("made_of") != _made_of(store, manifest):
            return None
        return DenseLoss(**entry)
    except (CacheError, KeyError, TypeError):  # the seal is missing, or a line of the history
        return None


def loss_entry(store: StorePath, manifest: Manifest, loss: DenseLoss) -> dict[str, Any]:
    """The entry of the history that records a measurement of a sealed store."""
    return {_KEY: asdict(loss) | {"made_of": _made_of(store, manifest)}}


def dense_bytes(store: StorePath, manifest: Manifest) -> int:
    """Bytes of the files that dense tokens are read from, by their receipts."""
    total = 0
    for artifact in manifest.artifacts:
        if artifact.name not in (DENSE, BASIS):
            continue
        for shard in manifest.shards(artifact):
            receipt = ledger.read_receipt(store, artifact, shard)
            assert receipt is not None, f"{store}: measured before shard {shard} was written"
            total += sum(entry["bytes"] for entry in receipt["files"].values())
    return total


def _made_of(store: StorePath, manifest: Manifest) -> str:
    """Fingerprint of the receipts, and so of the data, that a measurement depends on."""
    sealed = ledger.read_seal(store)["files"]
    folders = tuple(f"{LEDGER}/{name}/" for name in _MADE_OF)
    return fingerprint({file: hash_ for file, hash_ in sealed.items() if file.startswith(folders)})
