"""The table of artifacts, in the order of making. Planning, computing, `--dry-run`, reading a
store's settings back and `--repair` all walk it.

A new artifact is a file like its neighbours `*_artifact.py`, and its line here.
"""

from zsseg.stages.cache.format.codec import DENSE
from zsseg.stages.precompute.make.artifact_kind import ArtifactKind
from zsseg.stages.precompute.make.basis_artifact import PCA_BASIS
from zsseg.stages.precompute.make.cls_artifact import CLS
from zsseg.stages.precompute.make.dense_artifact import DENSE_TOKENS
from zsseg.stages.precompute.make.index_artifact import IMAGE_INDEX
from zsseg.stages.precompute.make.local_artifact import LOCAL
from zsseg.stages.precompute.make.names_artifact import PIXEL_NAMES
from zsseg.stages.precompute.make.regions_artifact import REGIONS
from zsseg.stages.precompute.make.text_artifact import TEXT

ARTIFACTS = (TEXT, IMAGE_INDEX, CLS, PCA_BASIS, DENSE_TOKENS, REGIONS, LOCAL, PIXEL_NAMES)

KINDS: dict[str, ArtifactKind] = {kind.name: kind for kind in ARTIFACTS}

FROM_TOKENS = tuple(kind.name for kind in ARTIFACTS if DENSE in kind.depends)
"""Names of those that are made from dense tokens: without any in the store, from some in memory."""

PER_ROW = tuple(kind.name for kind in ARTIFACTS if kind.per_row)
"""Names of those with one row per image."""


def dependents_of(name: str) -> tuple[str, ...]:
    """The artifacts that depend on this one, directly or not, in the order of making."""
    found = {name}
    for kind in ARTIFACTS:
        if found.intersection(kind.depends):
            found.add(kind.name)
    return tuple(kind.name for kind in ARTIFACTS if kind.name in found and kind.name != name)
