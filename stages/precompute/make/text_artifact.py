"""Artifact `text`: an embedding of each class name, once per store.

Legend: C classes, D CLIP width.
"""

from typing import TYPE_CHECKING, Any

from zsseg.stages.cache.format.manifest import ArraySpec, Manifest
from zsseg.stages.data.class_names import every_name
from zsseg.stages.precompute.make.artifact_kind import (
    Arrays,
    ArtifactKind,
    Recipe,
    RecipeInputs,
    StoreInputs,
)
from zsseg.stages.precompute.teacher.text_embeddings import embed_classes, load_templates

if TYPE_CHECKING:
    from zsseg.stages.precompute.teacher.teacher_protocol import Teacher


def _recipe(inputs: RecipeInputs) -> dict[str, Any]:
    templates, names = inputs.config.text.templates, inputs.spec.prompt_names
    # Of classes of one name each it says nothing: their stores keep the recipe of before.
    several = {"synonyms": "mean"} if len(every_name(names)) > len(names) else {}
    prompts = ("{}",) if inputs.files.kind == "tokens" else load_templates(templates)
    return {
        "teacher": inputs.files.text_recipe(),
        "names": list(names),
        "templates": templates,
        "prompts": list(prompts),
        **several,
    }


def _arrays(inputs: RecipeInputs) -> tuple[ArraySpec, ...]:
    return (ArraySpec("text", (len(inputs.spec.classes), inputs.traits.width), "float32"),)


def _settings(recipe: Recipe) -> dict[str, dict[str, Any]]:
    return {"text": {"templates": recipe["templates"]}}


def _make(teacher: "Teacher", inputs: StoreInputs) -> Arrays:
    """(C, D)"""
    return {"text": embed_classes(teacher, inputs.spec.prompt_names, inputs.config.text.templates)}


def _classes(manifest: Manifest) -> int:
    _, spec = manifest.arrays["text"]
    return spec.shape[0]


TEXT = ArtifactKind(
    name="text",
    recipe=_recipe,
    arrays=_arrays,
    settings=_settings,
    make_once=_make,
    steps=_classes,
)
