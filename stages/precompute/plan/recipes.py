"""The content of a store's manifest: its identity, its artifacts with their recipes, its info.

Nothing here loads torch, so a run that finds everything done costs no model.
"""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from zsseg.stages.cache.disk.store_path import StorePath
from zsseg.stages.cache.format.manifest import Artifact, read_manifest
from zsseg.stages.data.folders import names_below
from zsseg.stages.data.samples import Sample
from zsseg.stages.data.spec import DatasetSpec
from zsseg.stages.errors import CacheError, UserError
from zsseg.stages.precompute.make.artifact_kind import RecipeInputs
from zsseg.stages.precompute.make.artifacts import ARTIFACTS
from zsseg.stages.precompute.precompute_config import PrecomputeConfig
from zsseg.stages.precompute.teacher.teacher_files import TeacherFiles, Traits

_log = logging.getLogger(__name__)


def stored_traits(path: StorePath) -> Traits | None:
    """The traits that an existing store keeps; None when there is none, or it cannot be read."""
    try:
        return Traits(**read_manifest(path).info["traits"])
    except (CacheError, KeyError, TypeError):
        return None


def with_known_tokenizer(files: TeacherFiles, path: StorePath) -> TeacherFiles:
    """The teacher as the store at `path` knows it: older ones do not record the tokenizer.

    Their text embeddings stay what they are; with a warning, as nothing shows whether the tokenizer
    is still the one that they were made with.
    """
    try:
        recipes = {each.name: each.recipe for each in read_manifest(path).artifacts}
    except CacheError:
        return files
    text = recipes.get("text")
    if (
        files.kind != "clip"
        or files.tokenizer_hash is None
        or text is None
        or "tokenizer" in text["teacher"]
    ):
        return files
    _log.warning(
        "%s: made before stores recorded the teacher's tokenizer: whether its text embeddings are "
        "of the tokenizer that is there now is not known. A store in another --cache records it",
        path,
    )
    return replace(files, tokenizer_hash=None)


def store_identity(
    spec: DatasetSpec, split: str, limit: int | None, files: TeacherFiles, config: PrecomputeConfig
) -> dict[str, Any]:
    """What makes it this store and no other; the folder's name has a fingerprint of it."""
    return {
        "dataset": spec.name,
        "split": split,
        "limit": limit,
        "classes": list(spec.classes),
        "unseen": list(spec.unseen),
        "teacher": files.recipe(),
        "dense": {"size": list(config.dense.pixels), "path": config.dense.path},
    }


def store_info(spec: DatasetSpec, files: TeacherFiles, traits: Traits) -> dict[str, Any]:
    """What readers need besides. Without paths, which the history has."""
    return {
        "teacher": files.slug,
        "traits": asdict(traits),
        "names": list(spec.prompt_names),
        "spec": spec.model_dump(mode="json"),
    }


def store_index(samples: Sequence[Sample], root: Path) -> Iterator[dict[str, Any]]:
    """One entry per row: id, image and label, as paths relative to the data set's root."""
    name_of = names_below(root)
    for sample in samples:
        label = name_of(sample.label_file) if sample.label_file else None
        yield {"id": sample.id, "image": name_of(sample.image_file), "label": label}


def _refuse_for_maps(files: TeacherFiles, config: PrecomputeConfig) -> None:
    """Raise UserError for settings that say how a model sees images: maps are there already."""
    asked = [] if config.dense.plain else ["dense.scales, dense.flip or dense.windows"]
    asked += ["views.number"] if config.views.number else []
    if asked:
        raise UserError(
            f"{files.spec}: {' and '.join(asked)} are set, but its maps are of whole images and "
            "were made by another system, which alone can make others. Leave them at their defaults"
        )


def store_artifacts(
    spec: DatasetSpec, files: TeacherFiles, config: PrecomputeConfig, traits: Traits
) -> tuple[Artifact, ...]:
    """The artifacts, each with all that its bytes follow from, in the order of making.

    `config` is resolved (see `resolve_auto`). Raises UserError for settings that do not fit the
    teacher.
    """
    if files.kind == "tokens":
        _refuse_for_maps(files, config)
    inputs = RecipeInputs(spec, files, config, traits)
    kinds = [kind for kind in ARTIFACTS if kind.in_store(config)]
    names = {kind.name for kind in kinds}
    return tuple(
        Artifact(
            kind.name,
            kind.recipe(inputs),
            kind.arrays(inputs),
            depends=tuple(name for name in kind.depends if name in names),
            per_row=kind.per_row,
        )
        for kind in kinds
    )
