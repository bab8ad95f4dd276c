"""The names of encoders: those of segmentation_models_pytorch (smp), and timm's after `tu-`.

A name is looked up before anything is built: timm would take `hf-hub:...` or `local-dir:...` for
an order to fetch a network from elsewhere.
"""

from collections.abc import Collection
from difflib import get_close_matches

import timm
import torch
from torch import Tensor

TIMM = "tu-"
"""Before the names of timm's networks, where smp's have names too."""

_FORMER = "timm-"
"""What smp wrote there before; it still takes many of those names."""


def encoder_exists(name: str, smp_names: Collection[str]) -> bool:
    """Is this one of smp's encoders, or `tu-` and a network of timm?"""
    former = name.startswith(_FORMER) and name.removeprefix(_FORMER)
    return (
        name in smp_names
        or (name.startswith(TIMM) and timm_has(name.removeprefix(TIMM)))
        or (bool(former) and (timm_has(f"{former}") or timm_has(f"tf_{former}")))
    )


def timm_has(name: str) -> bool:
    """Is this a network of timm, with or without the tag of its weights (`NAME.TAG`)?"""
    return bool(timm.is_model(name))


def near_encoders(name: str, smp_names: Collection[str]) -> list[str]:
    """Encoders with names like this one, the likeliest first, as smp takes them."""
    plain = name.removeprefix(TIMM).removeprefix(_FORMER)
    exact = [f"{TIMM}{plain}"] if timm_has(plain) else []
    timms = [f"{TIMM}{each}" for each in near_timm(plain)]
    return list(dict.fromkeys([*exact, *get_close_matches(plain, smp_names, n=3), *timms]))


def near_timm(name: str) -> list[str]:
    """timm's networks with names like this one, the likeliest first."""
    return get_close_matches(name, timm.list_models(), n=6)


def whole_network(name: str) -> dict[str, Tensor]:
    """Shapes by name of all that a network of timm holds before its classifier, in file order.

    A student's encoder ends where its last map is made; published weights go on. The tensors hold
    no values.
    """
    with torch.device("meta"):
        state: dict[str, Tensor] = timm.create_model(name, num_classes=0).state_dict()
    return state


def timm_repository(name: str) -> str | None:
    """The hub's repository of the weights that timm takes for a network; None: it knows none."""
    known = timm.get_pretrained_cfg(name, allow_unregistered=False) if timm_has(name) else None
    return getattr(known, "hf_hub_id", None)
