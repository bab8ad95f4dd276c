"""How much memory there is: control groups of both versions, the machine, addresses."""

import resource
from pathlib import Path

import pytest
import torch

from zsseg.stages import machine_memory
from zsseg.stages.machine_memory import Room, gpu_room, memory_room, peak_bytes, resident_bytes

GB = 10**9


def write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


def machine(free: int) -> dict[str, str]:
    return {
        "proc/meminfo": f"MemTotal: {32 * GB // 1024} kB\nMemAvailable:  {free // 1024} kB\n"
        "HugePages_Total:       0\n",
        "proc/self/status": "Name:\tpython\nVmSize:\t 3000000 kB\nVmHWM:\t 20 kB\nVmRSS:\t 10 kB\n",
    }


def version_1(limit: int, used: int, cached: int, path: str = "job/one") -> dict[str, str]:
    group = f"sys/fs/cgroup/memory/{path}"
    return {
        "proc/self/cgroup": "5:cpu:/x\n4:cpuset,memory:/job/one\n0::/\n",
        f"{group}/memory.limit_in_bytes": f"{limit}\n",
        f"{group}/memory.usage_in_bytes": f"{used}\n",
        f"{group}/memory.stat": f"inactive_file 1\ntotal_inactive_file {cached}\n",
    }


def version_2(limit: str, used: int, cached: int, path: str) -> dict[str, str]:
    group = f"sys/fs/cgroup/{path}"
    return {
        "proc/self/cgroup": "0::/job/one\n",
        f"{group}/memory.max": f"{limit}\n",
        f"{group}/memory.current": f"{used}\n",
        f"{group}/memory.stat": f"anon 7\ninactive_file {cached}\n",
    }


@pytest.mark.parametrize(
    ("files", "free", "bound"),
    [
        (machine(9 * GB), 9 * GB, "machine"),
        # What is cached of files is given up when memory is short.
        (machine(9 * GB) | version_1(8 * GB, 5 * GB, 1 * GB), 4 * GB, "limit of 8.0 GB"),
        (machine(3 * GB) | version_1(8 * GB, 5 * GB, 1 * GB), 3 * GB, "machine"),
        (machine(9 * GB) | version_1(2**63 - 4096, 5 * GB, 0), 9 * GB, "machine"),
        # In a container the path is the host's, and the group lies at the mount.
        (machine(9 * GB) | version_1(4 * GB, 2 * GB, 0, path=""), 2 * GB, "limit of 4.0 GB"),
        (machine(9 * GB) | version_2(str(8 * GB), 6 * GB, 1 * GB, "job/one"), 3 * GB, "8.0 GB"),
        (machine(9 * GB) | version_2(str(8 * GB), 6 * GB, 0, "job"), 2 * GB, "8.0 GB"),  # above it
        (machine(9 * GB) | version_2("max", 6 * GB, 0, "job/one"), 9 * GB, "machine"),
        (machine(9 * GB) | version_1(4 * GB, 5 * GB, 0), 0, "4.0 GB"),
    ],
)
def test_the_tightest_bound_counts(
    tmp_path: Path, files: dict[str, str], free: int, bound: str
) -> None:
    room = memory_room(write(tmp_path, files))
    assert room is not None
    assert room.free // 1024 == free // 1024
    assert bound in room.bound


def test_the_limit_of_addresses_counts_less_what_is_mapped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (4 * GB, 4 * GB))
    room = memory_room(write(tmp_path, machine(9 * GB)))
    assert room is not None
    assert room.free == 4 * GB - 3_000_000 * 1024
    assert "ulimit" in room.bound


def test_where_the_system_does_not_say_nothing_is_known(tmp_path: Path) -> None:
    assert memory_room(tmp_path) is None
    assert resident_bytes(tmp_path) == peak_bytes(tmp_path) == 0


def test_this_machine_says_something() -> None:
    room = memory_room()
    assert room is not None
    assert room.free > 0
    assert 0 < resident_bytes() <= peak_bytes()
    machine_memory.return_freed_memory()


def test_a_gpu_s_room_is_what_is_free_and_what_torch_holds_unused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (5 * GB, 24 * GB))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda _: 3 * GB)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda _: 2 * GB)
    assert gpu_room(torch.device("cuda")) == Room(6 * GB, "the GPU's 24.0 GB")
