"""A job, which is one shard to compute, and its result.

Everything here can be pickled and sent to another machine: plain values, and paths that must mean
the same there.
"""

from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self

from zsseg.stages.cache.disk.store_path import StorePath
from zsseg.stages.cache.format.manifest import Manifest
from zsseg.stages.cache.shards import Files
from zsseg.stages.data.samples import Sample
from zsseg.stages.data.spec import DatasetSpec
from zsseg.stages.precompute.make.artifacts import KINDS
from zsseg.stages.precompute.make.pictures import OldRow
from zsseg.stages.precompute.precompute_config import PrecomputeConfig
from zsseg.stages.precompute.progress import Phase

KILLED = "its process died at this image"
"""Prefix of the failure reason of an image that kills its reader."""


@dataclass(frozen=True)
class RunContext:
    """What is the same for all jobs of a run."""

    path: StorePath
    manifest: Manifest
    spec: DatasetSpec
    root: Path
    config: PrecomputeConfig


@dataclass(frozen=True)
class OldValues:
    """Values of an earlier store that need not be computed again."""

    path: StorePath
    manifest: Manifest
    valid: frozenset[str]
    """Artifacts of the same recipe: their values are copied for unchanged rows."""
    rows: Mapping[int, OldRow]
    """By place in the shard."""
    files: Mapping[str, Files] = field(default_factory=dict)
    """By artifact that the job overwrites in place: its files as its receipt has them."""

    def without(self, artifacts: Collection[str]) -> Self:
        """The same without the old values of these artifacts."""
        if "local" not in artifacts:
            return replace(self, valid=self.valid.difference(artifacts))
        rows = {place: replace(row, crops=()) for place, row in self.rows.items()}
        return replace(self, valid=self.valid.difference(artifacts), rows=rows)


@dataclass(frozen=True)
class Job:
    """One shard."""

    shard: int
    samples: tuple[Sample, ...]
    todo: tuple[str, ...]
    """Artifacts to write, each after those that it is made from."""
    old: OldValues | None = None
    left_out: Mapping[int, str] = field(default_factory=dict)
    """Place in the shard -> reason, of images that are not opened: they count as failed."""

    def without(self, reasons: Mapping[int, str]) -> Self:
        """The same job without these images (place -> reason)."""
        return replace(self, left_out={**self.left_out, **reasons})

    def copies(self, place: int, artifact: str) -> OldRow | None:
        """The old row whose values of an artifact are still valid, if there is one."""
        if self.old is None or artifact not in self.old.valid or place in self.left_out:
            return None
        row = self.old.rows.get(place)
        if row is None or row.same:
            return row
        return row if row.relabelled and not KINDS[artifact].from_labels else None

    def reads(self, place: int) -> bool:
        """Must the image be read?"""
        return any(self.copies(place, artifact) is None for artifact in self.todo)


@dataclass(frozen=True)
class ShardResult:
    """What a job has written; it counts once the receipts are written (`Writer.commit`)."""

    job: Job
    files: Mapping[str, Files]
    """By artifact, in the order of the job."""
    notes: Mapping[str, Mapping[str, Any]]
    failures: Mapping[int, str]
    """Row -> reason."""
    seconds: Mapping[Phase, float]
    forwards: Mapping[str, int]
    """Images and crops that passed the teacher, by artifact."""
    kept: Mapping[str, int]
    """Rows copied, by artifact; of `local` crops whose token was known."""
    read: int = 0
    """Rows whose files were opened."""
    visible: Counter[int] = field(default_factory=Counter)
    """Pixels of those rows by value of the visible label."""

    @property
    def bytes(self) -> int:
        """Bytes written."""
        return sum(file["bytes"] for files in self.files.values() for file in files.values())
