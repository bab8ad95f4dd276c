"""Artifact `text`: an embedding of each class, or of each of its names, once per store.

Legend: C classes, S names of a class at most, D CLIP width.
"""

from typing import TYPE_CHECKING, Any

from zsseg.stages.cache.format.manifest import ArraySpec, Manifest
from zsseg.stages.data.class_names import every_name, names_of
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
    several = len(every_name(names)) > len(names)
    prompts = ("{}",) if inputs.files.kind == "tokens" else load_templates(templates)
    return {
        "teacher": inputs.files.text_recipe(),
        "names": list(names),
        "templates": templates,
        "prompts": list(prompts),
        **({"synonyms": inputs.config.text.synonyms} if several else {}),
    }


def _arrays(inputs: RecipeInputs) -> tuple[ArraySpec, ...]:
    names, width = inputs.spec.prompt_names, inputs.traits.width
    most = max(len(names_of(text)) for text in names)
    each = (most,) if most > 1 and inputs.config.text.synonyms == "max" else ()
    return (ArraySpec("text", (len(names), *each, width), "float32"),)


def _settings(recipe: Recipe) -> dict[str, dict[str, Any]]:
    fields = ("templates", "synonyms")
    return {"text": {name: recipe[name] for name in fields if name in recipe}}


def _make(teacher: "Teacher", inputs: StoreInputs) -> Arrays:
    """(C, D), or (C, S, D): see `embed_classes`."""
    config = inputs.config.text
    names = inputs.spec.prompt_names
    return {"text": embed_classes(teacher, names, config.templates, synonyms=config.synonyms)}


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
