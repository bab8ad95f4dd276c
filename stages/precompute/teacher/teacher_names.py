"""open_clip's models and their published weights by name; a wrong name is answered with right ones.

What is offered is a whole teacher, `NAME/PRETRAINED` or `NAME@FILE`, that would be taken.
"""

import json
from collections.abc import Mapping
from difflib import get_close_matches
from itertools import islice
from typing import Any

from zsseg.stages.errors import UserError
from zsseg.stages.precompute.teacher.teacher_config import CONFIG_FILE, builtin_configs

_OFFERS = 4
_QUICK = "-quickgelu"


def builtin_config(name: str, spec: str) -> dict[str, Any]:
    """The architecture of one of open_clip's models. Raises UserError with near teachers."""
    known = builtin_configs()
    if name not in known:
        close = _close_teachers(name, spec)
        raise UserError(
            f"{spec}: open_clip has no model {name!r}"
            + (f"; close: {', '.join(close)}" if close else "")
            + ". Forms: NAME/PRETRAINED, NAME@FILE, hf-hub:ORG/REPOSITORY, local-dir:FOLDER"
        )
    config: dict[str, Any] = json.loads(known[name].read_text(encoding="utf-8"))
    return config


def published_weights(name: str, tag: str, spec: str) -> tuple[str, Mapping[str, Any]]:
    """The tag of a model's published weights (`tag` "": its only one) and what open_clip knows.

    Raises UserError for a tag that there is not, and for weights of another activation function.
    """
    from open_clip.pretrained import get_pretrained_cfg, list_pretrained_tags_by_model

    config = builtin_config(name, spec)
    tags = list_pretrained_tags_by_model(name)
    if not tag and len(tags) == 1:
        tag = tags[0]
    published: Mapping[str, Any] = get_pretrained_cfg(name, tag)
    # The commonest mistake is a tag of this model with the other activation: suggest that model.
    sibling = name.removesuffix(_QUICK) if name.endswith(_QUICK) else f"{name}{_QUICK}"
    there = tag in _fitting_tags(sibling)
    if tag and there and (not published or not _fits(published, config)):
        kinds = ("plain GELU", "QuickGELU")
        built = bool(config.get("quick_gelu"))
        raise UserError(
            f"{spec}: the weights {tag!r} were trained with {kinds[not built]}, {name} has "
            f"{kinds[built]}, which gives wrong embeddings. Ask for {sibling}/{tag}"
        )
    if not published or not _fits(published, config):
        offers = [f"{name}/{each}" for each in _fitting_tags(name)]
        offers = offers or [f"{sibling}/{each}" for each in _fitting_tags(sibling)]
        raise UserError(
            f"{spec}: {f'no weights {tag!r}' if tag else 'say which weights'} for {name}. "
            f"There are: {', '.join(offers) or 'none; give NAME@FILE'}"
        )
    return tag, published


def quickgelu_advice(name: str, file: str) -> str:
    """What to do with a file of OpenAI's activation and a model without it."""
    if f"{name}{_QUICK}" in builtin_configs():
        return f"Ask for {name}{_QUICK}@{file}"
    return f'Use local-dir:FOLDER with "quick_gelu": true in the "model_cfg" of its {CONFIG_FILE}'


def _close_teachers(name: str, spec: str) -> list[str]:
    """Teachers with names like this one: with its file, its tag, or the first that fits."""
    _, at, file = spec.partition("@")
    tag = "" if at else spec.removeprefix(name).removeprefix("/")
    # OpenAI writes ViT-B/16 what open_clip calls ViT-B-16.
    written = [name, *([f"{name}-{tag.split('/')[0]}"] if tag else [])]
    known = sorted(builtin_configs())
    near = [each for word in written[::-1] for each in get_close_matches(word, known, 8, 0.5)]
    near = list(dict.fromkeys(near))
    if at:
        return [f"{each}@{file}" for each in near[:_OFFERS]]
    both = [name for each in near for name in (each, f"{each}{_QUICK}")]
    tagged = ((each, _fitting_tags(each)) for each in dict.fromkeys(both))
    wanted = tag.split("/")[-1]
    offers = (f"{each}/{wanted if wanted in tags else tags[0]}" for each, tags in tagged if tags)
    return list(islice(offers, _OFFERS))


def _fitting_tags(name: str) -> list[str]:
    """Tags of a model whose weights have the model's activation function."""
    from open_clip.pretrained import get_pretrained_cfg, list_pretrained_tags_by_model

    known = builtin_configs()
    if name not in known:
        return []
    config = json.loads(known[name].read_text(encoding="utf-8"))
    tags = list_pretrained_tags_by_model(name)
    return [tag for tag in tags if _fits(get_pretrained_cfg(name, tag), config)]


def _fits(published: Mapping[str, Any], config: Mapping[str, Any]) -> bool:
    """Were published weights trained with the activation function that the model has?"""
    return bool(published.get("quick_gelu")) == bool(config.get("quick_gelu"))
