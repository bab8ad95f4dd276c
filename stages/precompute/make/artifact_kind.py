"""What stage one has to know of an artifact, and the inputs of the functions that make it.

Legend: N images of the shard that are made.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from zsseg.stages.cache.disk.store_path import StorePath
from zsseg.stages.cache.format.manifest import ArraySpec, Manifest
from zsseg.stages.cache.shards import load_shard
from zsseg.stages.data.samples import Sample
from zsseg.stages.data.spec import DatasetSpec
from zsseg.stages.precompute.make.pictures import OldRow, Picture, PictureOnDisk, ShardRow
from zsseg.stages.precompute.precompute_config import Precision, PrecomputeConfig, Resize
from zsseg.stages.precompute.progress import Clock
from zsseg.stages.precompute.teacher.teacher_files import TeacherFiles, Traits

if TYPE_CHECKING:
    from zsseg.stages.precompute.make.kmeans import Backend
    from zsseg.stages.precompute.teacher.teacher_protocol import Teacher

Arrays = Mapping[str, NDArray[Any]]
Recipe = Mapping[str, Any]
Advance = Callable[[int], None]
"""Called with the number of images that are done, counted from the last call."""


@dataclass(frozen=True)
class RecipeInputs:
    """What recipes and shapes follow from."""

    spec: DatasetSpec
    files: TeacherFiles
    config: PrecomputeConfig
    """Resolved; an `auto` that is left stands for its value without a GPU."""
    traits: Traits

    @property
    def passes(self) -> dict[str, str]:
        """The recipe's entries for passes over images: precision, and what resizes for them.

        None for fp32 and Pillow: they were once the only ones, and the fingerprints of those stores
        must not change.
        """
        precision, resize = self.config.precision, self.config.resize
        entries: dict[str, str] = {} if precision in ("auto", "fp32") else {"precision": precision}
        if resize == "torch" and self.files.kind != "tokens":
            entries["resize"] = resize
        return entries


@dataclass(frozen=True)
class StoreInputs:
    """What an artifact that a store has once is made from."""

    spec: DatasetSpec
    root: Path
    samples: Sequence[Sample]
    """At most BASIS_IMAGES, evenly spread over the data set."""
    config: PrecomputeConfig


@dataclass(frozen=True)
class ShardInputs:
    """What an artifact of one shard is made from."""

    path: StorePath
    manifest: Manifest
    shard: int
    config: PrecomputeConfig
    ids: Sequence[str]
    """Of all images of the shard."""
    rows: Sequence[ShardRow]
    """All images of the shard, as they were read."""
    fresh: Sequence[int]
    """Places in the shard of the N rows to make; others are copied, or empty after a failure."""
    copied: Mapping[int, OldRow]
    """By place in the shard: the rows whose values are copied."""
    old: Mapping[int, OldRow]
    """By place in the shard: all rows that an earlier store knows."""
    old_values: Callable[[str, OldRow], NDArray[Any]]
    """Values of an array in an old row; raises CacheError where they are damaged."""
    teacher: "Teacher"
    backend: "Backend"
    clock: Clock
    unkept: dict[int, NDArray[Any]] = field(default_factory=dict)
    """By place in the shard: dense tokens (D, h, w) that were made and that the store does not
    keep, for the artifacts that come after."""

    @property
    def first(self) -> int:
        """Number of the shard's first row."""
        return self.manifest.rows_of(self.shard).start

    @property
    def pictures(self) -> list[Picture | PictureOnDisk]:
        """(N,) the images to make, where those that could not be read are none of them."""
        return [picture for place in self.fresh if (picture := self.rows[place].picture)]

    def stored(self, array: str) -> NDArray[Any]:
        """(N, ...) an array of this shard that is stored already."""
        rows: NDArray[Any] = load_shard(self.path, self.manifest, array, self.shard)[
            list(self.fresh)
        ]
        return rows

    def stored_once(self, *arrays: str) -> dict[str, NDArray[Any]]:
        """Those of these arrays that the store has, of artifacts that it has once."""
        names = [name for name in arrays if name in self.manifest.arrays]
        return {name: load_shard(self.path, self.manifest, name, 0) for name in names}


@dataclass(frozen=True)
class Made:
    """What was made of a shard."""

    arrays: Arrays
    """The N rows to make."""
    notes: Mapping[str, Any] = field(default_factory=dict)
    """What the receipt keeps, of all rows of the shard."""
    kept: int | None = None
    """How many values were used again; None: as many as rows are copied."""


def recipe_precision(recipe: Recipe) -> Precision:
    """The precision of the passes over images that an artifact was made by."""
    precision: Precision = recipe.get("precision", "fp32")
    return precision


def recipe_resize(recipe: Recipe) -> Resize:
    """What resized images for the passes that an artifact was made by."""
    resize: Resize = recipe.get("resize", "pillow")
    return resize


def no_settings(_: Recipe) -> dict[str, dict[str, Any]]:
    """`ArtifactKind.settings` of a recipe that has no setting of its own."""
    return {}


def _always(_: PrecomputeConfig) -> bool:
    return True


@dataclass(frozen=True, kw_only=True)
class ArtifactKind:
    """One kind of artifact: arrays that are made together."""

    name: str
    depends: tuple[str, ...] = ()
    """The kinds that it is made from; those that a store does not have are left out."""
    recipe: Callable[[RecipeInputs], dict[str, Any]]
    """All that its bytes follow from, besides the images and what it depends on."""
    arrays: Callable[[RecipeInputs], tuple[ArraySpec, ...]]
    settings: Callable[[Recipe], dict[str, dict[str, Any]]]
    """Back from its recipe to sections of PrecomputeConfig."""
    settings_without: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """The same where a store has no such artifact."""
    in_store: Callable[[PrecomputeConfig], bool] = _always
    """Does a store of these settings have it?"""
    from_labels: bool = False
    """Do visible labels change it?"""
    from_unseen: bool = False
    """Does it change with the list of unseen classes, though labels do not change it?"""
    empty: Mapping[str, int] = field(default_factory=dict)
    """By array: the value that fills the rows of failed images, where it is not 0."""
    make: Callable[[ShardInputs], Made] | None = None
    """Makes it for a shard; None where a store has it once."""
    make_once: "Callable[[Teacher, StoreInputs], Arrays] | None" = None
    """Makes it for a store; None where it has one row per image."""
    steps: Callable[[Manifest], int] = lambda _: 1
    """How many steps of progress `make_once` takes."""

    @property
    def per_row(self) -> bool:
        """Has it one row per image?"""
        return self.make is not None
