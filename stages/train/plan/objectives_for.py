"""Chooses the method: what a student learns from, by the classes that have labels."""

from collections.abc import Mapping
from typing import Any

from zsseg.stages.cache.format.codec import DENSE
from zsseg.stages.errors import CacheError
from zsseg.stages.train.plan.facts import NAME_MAPS, StoreFacts, flat
from zsseg.stages.train.plan.planned import Decision
from zsseg.stages.yaml_files import packaged_values

_SOURCE, _LOCAL, _SDD = "self_training.source", "objectives.local_distillation", "objectives.sdd"
_RELATION = "objectives.dense_relation"


def choose_method(store: StoreFacts, *, protocol: str) -> Decision:
    """The objectives of `best`, `free`, or of labels alone.

    What the store has no tokens for is left out. Raises CacheError where all classes are unseen and
    the store has nothing by which the teacher could name pixels.
    """
    if not store.unseen and store.labelled >= store.images:
        return Decision(
            "method",
            "cross-entropy on the labels",
            {"objectives.cross_entropy": 1.0},
            "every class has labels on every image, beside which the teacher adds nothing",
        )
    name = "best" if store.seen else "free"
    settings = _of_experiment(name)
    if not store.unseen:
        settings = {key: value for key, value in settings.items() if "self_training" not in key}
        reason = (
            f"every class has labels, but only {store.labelled:,} of {store.images:,} images: the "
            "teacher teaches on the others"
        )
        return _with_tokens(f"distillation of {name}", settings, store, reason)
    if protocol == "inductive":
        settings = {key: value for key, value in settings.items() if "self_training" not in key}
        reason = "the inductive protocol knows no names of unseen classes, so no pseudo labels"
        return _with_tokens(f"distillation of {name}", settings, store, reason)
    if DENSE not in store.holds and not store.holds & set(NAME_MAPS):
        if not store.seen:
            raise CacheError(
                "plan: no class has labels, and the store has neither dense tokens nor a map of "
                "names, by which the teacher would name pixels. Make the store again with "
                "`zsseg precompute --update --set pixel_names.enabled=true`"
            )
        settings |= {_SOURCE: "student", "self_training.start": 0.5}
    if store.seen:
        reason = f"{store.seen} classes have labels, {store.unseen} have none"
    else:
        reason = f"none of the {store.unseen} classes has labels"
    return _with_tokens(name, settings, store, reason)


def _of_experiment(name: str) -> dict[str, Any]:
    """The method's part of an experiment that comes with zsseg."""
    values: Mapping[str, Any] = packaged_values(f"experiments/{name}.yaml")
    return flat({part: values[part] for part in ("objectives", "self_training")})


def _with_tokens(said: str, settings: dict[str, Any], store: StoreFacts, reason: str) -> Decision:
    """The choice with what the store's tokens allow, and why."""
    if settings.get(_LOCAL) and not {"local", "regions"} <= store.holds:
        settings[_LOCAL] = 0.0
        reason += "; the store has no local tokens, so no local distillation"
    if settings.get(_RELATION) and DENSE not in store.holds:
        settings[_RELATION] = 0.0
        reason += "; the store has no dense tokens, so no relational distillation"
    if settings.get(_SDD) and DENSE in store.holds:
        settings["objectives.token"] = "pooled"
        reason += "; SDD looks at the dense tokens in the crop, as was measured"
    elif settings.get(_SDD) and "cls" not in store.holds:
        settings[_SDD] = 0.0
        reason += "; the store has no tokens for SDD"
    return Decision("method", said, settings, reason)
