"""What a store of stage one holds: its identity, its artifacts with their recipes, its description.

Nothing here loads torch, so a run that finds everything done costs no model.
Legend: C classes, D CLIP width, K masks of an image, h w token grid.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from zsseg.stages.cache.disk.store_path import StorePath
from zsseg.stages.cache.format.codec import BASIS, basis_specs, components, dense_specs
from zsseg.stages.cache.format.manifest import ArraySpec, Artifact, read_manifest
from zsseg.stages.data.folders import names_below
from zsseg.stages.data.samples import Sample
from zsseg.stages.data.spec import DatasetSpec
from zsseg.stages.errors import CacheError, UserError
from zsseg.stages.precompute.precompute_config import BASIS_IMAGES, Precision, PrecomputeConfig
from zsseg.stages.precompute.teacher.teacher_files import TeacherFiles, Traits
from zsseg.stages.precompute.teacher.text_embeddings import load_templates


def stored_traits(path: StorePath) -> Traits | None:
    """The traits that an existing store keeps; None when there is no store that can tell."""
    try:
        return Traits(**read_manifest(path).info["traits"])
    except (CacheError, KeyError, TypeError):
        return None


def recipe_precision(recipe: Mapping[str, Any]) -> Precision:
    """The precision of the passes over images that an artifact was made by."""
    precision: Precision = recipe.get("precision", "fp32")
    return precision


def store_identity(
    spec: DatasetSpec, split: str, limit: int | None, files: TeacherFiles, config: PrecomputeConfig
) -> dict[str, Any]:
    """What makes it this store and no other: its folder is named after it."""
    return {
        "dataset": spec.name,
        "split": split,
        "limit": limit,
        "classes": list(spec.classes),
        "unseen": list(spec.unseen),
        "teacher": files.recipe(),
        "dense": {"size": list(config.dense.size), "path": config.dense.path},
    }


def store_info(spec: DatasetSpec, files: TeacherFiles, traits: Traits) -> dict[str, Any]:
    """What readers need besides. Free of paths: where things lay is said by the history."""
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


def store_artifacts(
    spec: DatasetSpec, files: TeacherFiles, config: PrecomputeConfig, traits: Traits
) -> tuple[Artifact, ...]:
    """The artifacts, each with all that its bytes follow from, in the order of their making.

    `config` is settled (see `choices.py`); what is `auto` in it all the same is taken for what it
    comes to without a GPU.
    Raises UserError for more principal components than tokens have numbers.
    """
    teacher, width, masks = files.recipe(), traits.width, config.local.max_masks
    height, columns = traits.grid
    smoothing = {"nacl_sigma": config.dense.nacl_sigma} if traits.dense_path == "nacl" else {}
    # fp16 was the only format once: naming it would make every store of then one of other settings.
    form = {"format": config.dense.format} if config.dense.format != "fp16" else {}
    # fp32 was once the only precision, and `auto` was written where scikit-learn was meant, for the
    # same reason. The crops' words are of before there were any.
    sight = {"precision": config.precision} if config.precision not in ("auto", "fp32") else {}
    library = "cuml" if config.regions.backend == "cuml" else "auto"
    crops = config.views.model_dump(mode="json") if config.views.number else "the whole image"
    number = components(config.dense.format)
    if number is not None and number > width:
        raise UserError(
            f"dense.format={config.dense.format}: the tokens of {files.spec} have {width} numbers. "
            f"Use at most pca:{width}, or another format"
        )
    tokens = {
        "teacher": teacher,
        "size": list(config.dense.size),
        "path": traits.dense_path,
        **smoothing,
        **sight,
    }
    basis = [
        Artifact(
            BASIS, {**tokens, "images": BASIS_IMAGES}, basis_specs(count, width), per_row=False
        )
        for count in ([] if number is None else [number])
    ]
    local = Artifact(
        "local",
        {
            "teacher": teacher,
            "size": traits.native_size,
            **config.local.model_dump(exclude={"enabled"}),
            **sight,
        },
        (ArraySpec("local", (masks, width), "float16"), ArraySpec("local_ids", (masks,), "int16")),
        depends=("index", "regions"),
    )
    return (
        Artifact(
            "text",
            {
                "teacher": teacher,
                "names": list(spec.prompt_names),
                "templates": config.text.templates,
                "prompts": list(load_templates(config.text.templates)),
            },
            (ArraySpec("text", (len(spec.classes), width), "float32"),),
            per_row=False,
        ),
        Artifact(
            "index",
            {"classes": list(spec.classes), "unseen": list(spec.unseen)},
            (ArraySpec("size", (2,), "int32"), ArraySpec("status", (), "uint8")),
        ),
        Artifact(
            "cls",
            {"teacher": teacher, "size": traits.native_size, "views": crops, **sight},
            (
                ArraySpec("views", (1 + config.views.number, 6), "float32"),
                ArraySpec("cls", (1 + config.views.number, width), "float16"),
            ),
            depends=("index",),
        ),
        *basis,
        Artifact(
            "dense",
            {**tokens, **form},
            dense_specs(config.dense.format, width=width, grid=(height, columns)),
            depends=("index", *(artifact.name for artifact in basis)),
        ),
        Artifact(
            "regions",
            config.regions.model_dump(mode="json") | {"backend": library},
            (ArraySpec("regions", (height, columns), "uint8", compressed=True),),
            depends=("dense", "index"),
        ),
        *([local] if config.local.enabled else []),
    )
