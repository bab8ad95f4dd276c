"""`ZSSEG_OFFLINE=1`: nothing asks the network for weights or data, or sends anything.

Stores at URLs are read all the same: who names one means it.
"""

import os
from collections.abc import Mapping

from zsseg.stages.errors import ResourceError

OFFLINE = "ZSSEG_OFFLINE"
HUB_OFFLINE = "HF_HUB_OFFLINE"
"""The switch of huggingface_hub, which reads it when it is loaded."""
_TRUE = frozenset({"1", "on", "true", "yes"})


def switch_in(environ: Mapping[str, str]) -> str | None:
    """The variable that keeps weights from being fetched; None: they may be."""
    switches = (OFFLINE, HUB_OFFLINE)
    return next((name for name in switches if environ.get(name, "").casefold() in _TRUE), None)


def obey_offline() -> None:
    """Switch the hub's library off where `ZSSEG_OFFLINE` asks for it; call before it is loaded."""
    if switch_in(os.environ) == OFFLINE:
        os.environ[HUB_OFFLINE] = "1"


def refuse_offline(what: str, advice: str) -> None:
    """Raise ResourceError where `ZSSEG_OFFLINE` is set: `what` would need the network."""
    if switch_in(os.environ) == OFFLINE:
        raise ResourceError(f"{what}: {OFFLINE} is set, so the network is not asked. {advice}")
