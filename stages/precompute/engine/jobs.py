"""What a process of stage one is asked to compute, and what it answers.

Everything here can be sent to another machine: plain values, and paths that must mean the same
there.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self

from zsseg.stages.cache.disk.store_path import StorePath
from zsseg.stages.cache.format.manifest import Manifest
from zsseg.stages.cache.shards import Files
from zsseg.stages.data.samples import Sample
from zsseg.stages.data.spec import DatasetSpec
from zsseg.stages.precompute.make.pictures import Hashes
from zsseg.stages.precompute.precompute_config import PrecomputeConfig
from zsseg.stages.precompute.progress import Phase

FROM_LABELS = ("index", "regions", "local")
"""The artifacts that visible labels decide."""
KILLED = "its process died at this image"
"""How the reason of an image begins that no process survives."""


@dataclass(frozen=True)
class Commission:
    """What is the same for all jobs of a run."""

    path: StorePath
    manifest: Manifest
    spec: DatasetSpec
    root: Path
    config: PrecomputeConfig


@dataclass(frozen=True)
class OldRow:
    """What a store knows already of a row's image."""

    row: int
    """Its row there."""
    hashes: Hashes
    failure: str | None
    crops: tuple[str, ...] = ()
    """Hash of the crop of each of its local tokens, in their order."""
    left_out: int = 0
    """Masks without a token, for want of room."""
    same: bool = True
    """Image and visible label are what they were then."""
    relabelled: bool = False
    """Only the visible label is another."""


@dataclass(frozen=True)
class Old:
    """Where values lie that need not be computed again."""

    path: StorePath
    manifest: Manifest
    valid: frozenset[str]
    """Artifacts of the same recipe: their values are copied for rows that are the same."""
    rows: Mapping[int, OldRow]
    """By place in the shard."""
    files: Mapping[str, Files] = field(default_factory=dict)
    """Of each artifact that the job replaces where its old values lie, what they were."""

    def without(self, artifacts: Collection[str]) -> Self:
        """What is known when the old values of these artifacts are not to be had."""
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
    old: Old | None = None
    left_out: Mapping[int, str] = field(default_factory=dict)
    """Place -> reason of images that are not to be touched: they count as failed."""

    def without(self, reasons: Mapping[int, str]) -> Self:
        """The job that leaves these images alone."""
        return replace(self, left_out={**self.left_out, **reasons})

    def copies(self, place: int, artifact: str) -> OldRow | None:
        """The old row whose values of an artifact are still right, if there is one."""
        if self.old is None or artifact not in self.old.valid or place in self.left_out:
            return None
        row = self.old.rows.get(place)
        if row is None or row.same:
            return row
        return row if row.relabelled and artifact not in FROM_LABELS else None

    def reads(self, place: int) -> bool:
        """Has the image itself to be read?"""
        return any(self.copies(place, artifact) is None for artifact in self.todo)


@dataclass(frozen=True)
class Outcome:
    """What became of a job: files are written, nothing is declared yet."""

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
    """Rows copied, by artifact; of `local` crops whose token was there."""

    @property
    def bytes(self) -> int:
        """Written."""
        return sum(file["bytes"] for files in self.files.values() for file in files.values())
