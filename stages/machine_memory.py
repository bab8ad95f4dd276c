"""How much memory this process has, and how much more the machine lets it take.

Linux says both in files below /proc and /sys; elsewhere nothing is known, and None is returned. All
numbers are bytes.
"""

import ctypes
import resource
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

_NO_LIMIT = 2**60
"""A control group without a limit says a number near 2^63."""


@dataclass(frozen=True)
class Room:
    """Memory that can still be taken, and what bounds it."""

    free: int
    bound: str
    """Such as `the control group's limit of 24.0 GB`."""


def gigabytes(size: float) -> str:
    """Bytes as text, in 10^9."""
    return f"{size / 1e9:.1f} GB"


def memory_room(root: Path = Path("/")) -> Room | None:
    """The memory that this process and its children can still take; the tightest bound counts.

    Bounds are the limits of its control groups (version 1 or 2, that of any group above it too),
    what the machine has free (MemAvailable), and the limit of its addresses (RLIMIT_AS, `ulimit
    -v`). `root`: where /proc and /sys are.
    """
    rooms = [*_group_rooms(root), *_machine_room(root), *_address_room(root)]
    return min(rooms, key=lambda room: room.free, default=None)


def gpu_room(device: "torch.device") -> Room | None:
    """The memory of a GPU that this process can still take."""
    import torch

    free, total = torch.cuda.mem_get_info(device)
    # What torch keeps for itself and does not use now is free for it.
    kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return Room(free + kept, f"the GPU's {gigabytes(total)}")


def resident_bytes(root: Path = Path("/")) -> int:
    """What this process has in memory now; 0 where the system does not say."""
    return _status(root).get("VmRSS", 0)


def peak_bytes(root: Path = Path("/")) -> int:
    """The most that this process has had in memory; 0 where the system does not say."""
    return _status(root).get("VmHWM", 0)


def return_freed_memory() -> None:
    """Have the C library give freed memory back to the system, where it can (glibc)."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


def _status(root: Path) -> dict[str, int]:
    """Sizes in /proc/self/status; there they are in KiB."""
    return _sizes(root / "proc/self/status")


def _sizes(file: Path) -> dict[str, int]:
    """The lines `Name:   123 kB` of a file."""
    try:
        rows = [line.split() for line in file.read_text().splitlines()]
    except OSError:
        return {}
    return {row[0].rstrip(":"): int(row[1]) * 1024 for row in rows if row[2:] == ["kB"]}


def _machine_room(root: Path) -> Iterator[Room]:
    found = _sizes(root / "proc/meminfo")
    if "MemAvailable" in found:
        total = gigabytes(found.get("MemTotal", 0))
        yield Room(found["MemAvailable"], f"the machine's {total}, less what is used")


def _address_room(root: Path) -> Iterator[Room]:
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    if limit != resource.RLIM_INFINITY:
        used = _status(root).get("VmSize", 0)
        yield Room(max(limit - used, 0), f"the limit of {gigabytes(limit)} (RLIMIT_AS, ulimit -v)")


def _group_rooms(root: Path) -> Iterator[Room]:
    """The rooms in the control groups of this process and in all groups above them."""
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    mounts = root / "sys/fs/cgroup"
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if not controllers:
            version_2 = ("memory.max", "memory.current", "inactive_file")
            yield from _rooms_upwards(mounts, path, version_2)
        elif "memory" in controllers.split(","):
            version_1 = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
            yield from _rooms_upwards(mounts / "memory", path, version_1)


def _rooms_upwards(mount: Path, path: str, files: tuple[str, str, str]) -> Iterator[Room]:
    """`files`: of the limit and of the usage, and the line of memory.stat that can be given up."""
    limit_file, usage_file, cached = files
    # Inside a container the path may be that of the host, and the mount the group itself.
    folder = mount / path.strip("/")
    for group in (folder, *folder.parents):
        with suppress(OSError, ValueError):
            limit = int((group / limit_file).read_text())
            if limit < _NO_LIMIT:
                used = int((group / usage_file).read_text()) - _cached(group, cached)
                bound = f"the control group's limit of {gigabytes(limit)}"
                yield Room(max(limit - used, 0), bound)
        if group == mount:
            return


def _cached(group: Path, name: str) -> int:
    """Bytes of files that the kernel drops when memory is short."""
    rows = [line.split() for line in (group / "memory.stat").read_text().splitlines()]
    return next((int(row[1]) for row in rows if row[0] == name), 0)
