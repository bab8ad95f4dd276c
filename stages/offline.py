"""`ZSSEG_OFFLINE=1`: nothing asks the network for weights or data, or sends anything.

Stores at URLs are read all the same: who names one means it.
"""

import os
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from threading import Thread
from urllib.parse import urlsplit
from urllib.request import getproxies

from zsseg.stages.errors import ResourceError

OFFLINE = "ZSSEG_OFFLINE"
HUB_OFFLINE = "HF_HUB_OFFLINE"
"""The switch of huggingface_hub, which reads it when it is loaded."""
HUB = "https://huggingface.co"
_PATIENCE = 1.5  # seconds that one attempt waits
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


@contextmanager
def hub_at_once(*, wanted: bool = True) -> Iterator[None]:
    """Within, a hub that cannot be reached is asked for nothing: what is here is found, the rest
    fails at once. Its library tries six times for each file, for half a minute.

    `wanted` False: nothing of a hub is needed, and none is asked.
    """
    from huggingface_hub import constants

    before = constants.HF_HUB_OFFLINE
    through = getproxies()
    address = through.get("https") or through.get("all") or os.environ.get("HF_ENDPOINT") or HUB
    if wanted and not before:
        off = switch_in(os.environ) or not takes_connection(address, patience=_PATIENCE)
        constants.HF_HUB_OFFLINE = bool(off)
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before


def takes_connection(address: str, *, patience: float) -> bool:
    """Does the host of an address take a connection within so many seconds? Nothing is sent."""
    found: list[bool] = []

    def attempt() -> None:
        try:
            parts = urlsplit(address if "://" in address else f"http://{address}")
            port = parts.port or (443 if parts.scheme == "https" else 80)
            socket.create_connection((parts.hostname or "", port), timeout=patience).close()
            found.append(True)
        except (OSError, ValueError):
            pass  # not reached, like those that do not answer in time

    # Looking up a name has no time limit of its own.
    thread = Thread(target=attempt, daemon=True)
    thread.start()
    thread.join(patience)
    return bool(found)
