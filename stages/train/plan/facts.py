"""What a plan is made from: facts of the store, of the machine, and what the user has set."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from zsseg.stages.cache.format.codec import DENSE, stored_format
from zsseg.stages.cache.reader import Store
from zsseg.stages.data.spec import DatasetSpec
from zsseg.stages.device import choose_device
from zsseg.stages.errors import DatasetError
from zsseg.stages.train.foretell.memory_check import free_memory
from zsseg.stages.train.processes import processes
from zsseg.stages.train.student_precision import autocast_type

_PRECISIONS = {torch.float32: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16"}
NAME_MAPS = ("unseen_names", "pixel_names")
"""Arrays of a store that are a map of names."""


@dataclass(frozen=True)
class StoreFacts:
    """What a training has to learn from."""

    images: int
    """That stage one could use."""
    labelled: int
    """Of these, with a label file."""
    size: tuple[int, int]
    """Median height and width of the images in pixels."""
    seen: int
    unseen: int
    """Numbers of classes."""
    holds: frozenset[str]
    """The arrays of tokens, regions and names that can be read."""
    width: int
    """D, CLIP's."""


@dataclass(frozen=True)
class MachineFacts:
    """What a training runs on."""

    device: str
    """`cpu` or `cuda`."""
    memory: int | None
    """Free bytes of the device, for this process; None: not known."""
    cores: int
    """For this process."""
    precision: str
    """The number format that the device is fastest in without losing results."""
    processes: int
    """That train together."""


def store_facts(store: Store, spec: DatasetSpec) -> StoreFacts:
    """The facts of a store. Raises DatasetError where no image of it can be used."""
    usable_N = store.read_all("status") == 0
    if not usable_N.any():
        raise DatasetError(
            f"{store.path}: no image of it could be read by precompute. Mend the images "
            "(`zsseg dataset verify` names them), and run its `zsseg precompute` command again"
        )
    height, width = np.median(store.read_all("size")[usable_N], axis=0).astype(int).tolist()
    holds = {name for name in ("cls", "local", "regions", *NAME_MAPS) if store.has(name)}
    if store.has(DENSE) and stored_format(store.recipes.get(DENSE, {})) != "none":
        holds.add(DENSE)
    return StoreFacts(
        images=int(usable_N.sum()),
        labelled=sum(
            entry["label"] is not None
            for entry, usable in zip(store.index, usable_N, strict=True)
            if usable
        ),
        size=(height, width),
        seen=len(spec.seen_ids),
        unseen=len(spec.unseen_ids),
        holds=frozenset(holds),
        width=int(store.read_all("text").shape[-1]),
    )


def machine_facts(given: Mapping[str, Any]) -> MachineFacts:
    """The facts of this machine; of the device that the user's settings ask for.

    Raises ResourceError for a GPU that is not there.
    """
    device = choose_device(given.get("train.device", "auto"))
    room = free_memory(device)
    here = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    return MachineFacts(
        device=device.type,
        memory=None if room is None else room.free,
        cores=max(len(os.sched_getaffinity(0)) // here, 1),
        precision=_PRECISIONS[autocast_type("auto", device)],
        processes=processes()[1],
    )


def flat(values: Mapping[str, Any], within: str = "") -> dict[str, Any]:
    """Nested settings by dotted name: {'train': {'steps': 5}} gives {'train.steps': 5}."""
    found: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            found |= flat(value, f"{within}{name}.")
        else:
            found[f"{within}{name}"] = value
    return found
