"""What this machine has of what zsseg needs, and what to do about what is missing; without torch.

Each check is a function of a `Place` that gives one `MachineFact`, in less than two seconds.
"""

import importlib.metadata
import importlib.util
import os
import platform
import re
import shutil
import subprocess
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from zsseg.pipeline.console import size_text
from zsseg.stages.machine_memory import memory_room
from zsseg.stages.offline import HUB, OFFLINE, switch_in, takes_connection
from zsseg.stages.printable import counted

_PATIENCE = 1.5  # seconds that one check waits for another program or for the network
_LITTLE_MEMORY = 6e9
_LITTLE_DISK = 10e9
_LITTLE_SHARED = 512e6
_PURPOSES = {
    "app": "a page to try a student on",
    "export": "students as ONNX files",
    "gpu": "k-means on the GPU",
    "s3": "stores at s3:// URLs",
    "video": "prediction of videos",
    **dict.fromkeys(("wandb", "mlflow", "trackio"), "zsseg train --log-to"),
}
_WEIGHTS = (".safetensors", ".bin", ".pt", ".pth")


@dataclass(frozen=True)
class Place:
    """Where to look; a test gives others."""

    root: Path = Path("/")
    """Where /proc, /sys and /dev are."""
    folder: Path = field(default_factory=Path.cwd)
    """Where stores and runs would be written."""
    environ: Mapping[str, str] = field(default_factory=lambda: dict(os.environ))


@dataclass(frozen=True)
class MachineFact:
    """One line of the report."""

    subject: str
    text: str
    advice: str = ""
    """What to do; empty where nothing is missing."""
    values: Mapping[str, object] = field(default_factory=dict)
    """The same as numbers and names."""


def machine_report(place: Place) -> list[MachineFact]:
    """All checks, side by side, in their order."""
    with ThreadPoolExecutor(len(CHECKS)) as threads:
        return list(threads.map(lambda check: check(place), CHECKS))


def _software(place: Place) -> MachineFact:
    versions = {"python": platform.python_version()}
    for name in ("zsseg", "torch", "open_clip_torch"):
        versions[name] = _version(name) or "missing"
    text = ", ".join(f"{name} {version}" for name, version in versions.items())
    missing = [name for name, version in versions.items() if version == "missing"]
    advice = f"{', '.join(missing)} missing: install zsseg again, pip install ." if missing else ""
    system = f"{platform.system()} {platform.machine()}"
    return MachineFact("software", f"{text}; {system}", advice, versions | {"system": system})


def _version(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def _processor(place: Place) -> MachineFact:
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    quota = _quota(place.root)
    text = counted(count or 1, "core")
    if quota is not None and quota < (count or 1):
        text += f", of which the control group allows {quota:g}"
    return MachineFact("processor", text, values={"cores": count, "quota": quota})


def _quota(root: Path) -> float | None:
    """Cores that the control group allows (version 2); None where it does not say."""
    try:
        limit, period = (root / "sys/fs/cgroup/cpu.max").read_text().split()
        return int(limit) / int(period)
    except (OSError, ValueError):
        return None


def _gpu(place: Place) -> MachineFact:
    cuda = _cuda_of_torch()
    gpus = _gpus()
    values: dict[str, object] = {"gpus": gpus, "torch_cuda": cuda}
    if not gpus:
        return MachineFact(
            "GPU",
            "none: everything runs on the processor",
            "Take a small student (mit_b0) and few steps; precompute --dry-run and train --dry-run "
            "say how long they take",
            values,
        )
    text = "; ".join(gpus)
    if place.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1"):
        return MachineFact("GPU", f"{text}, hidden", "Unset CUDA_VISIBLE_DEVICES to use it", values)
    if cuda is None:
        return MachineFact(
            "GPU",
            f"{text}, which this torch cannot use",
            "Install a torch built for CUDA (pytorch.org/get-started)",
            values,
        )
    return MachineFact("GPU", f"{text}; torch for CUDA {cuda}", values=values)


def _gpus() -> list[str]:
    """Name and memory of each GPU, from nvidia-smi."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return []
    asked = ["--query-gpu=name,memory.free,memory.total", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(
            [program, *asked], capture_output=True, text=True, timeout=_PATIENCE, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return []
    found = []
    for line in done.stdout.splitlines():
        name, *sizes = [each.strip() for each in line.split(",")]
        if len(sizes) == 2:  # otherwise a message, such as that there are no devices
            free, total = (
                size_text(int(each) << 20) if each.isdecimal() else "?" for each in sizes
            )
            found.append(f"{name}, {free} free of {total}")
    return found


def _cuda_of_torch() -> str | None:
    """The CUDA version that torch was built for, read from its files: importing it takes long."""
    found = importlib.util.find_spec("torch")
    if found is None or found.origin is None:
        return None
    try:
        text = (Path(found.origin).parent / "version.py").read_text(encoding="utf-8")
    except OSError:
        return None
    version = re.search(r"^cuda\b[^=]*= '([^']+)'", text, re.MULTILINE)
    return version[1] if version else None


def _memory(place: Place) -> MachineFact:
    room = memory_room(place.root)
    if room is None:
        return MachineFact(
            "memory", "not known on this system", values={"free": None, "bound": None}
        )
    advice = ""
    if room.free < _LITTLE_MEMORY:
        advice = (
            "Take a small student and crop, and --set train.batch=2; zsseg train --dry-run "
            "says what would fit"
        )
    text = f"{size_text(room.free)} can be taken, bound by {room.bound}"
    return MachineFact("memory", text, advice, {"free": room.free, "bound": room.bound})


def _shared_memory(place: Place) -> MachineFact:
    try:
        free = shutil.disk_usage(place.root / "dev/shm").free
    except OSError:
        return MachineFact("shared memory", "not known on this system", values={"free": None})
    advice = ""
    if free < _LITTLE_SHARED:
        advice = (
            "Loader workers hand batches over through it: in docker start with --ipc=host, or "
            "train with --set train.workers=0"
        )
    return MachineFact("shared memory", f"{size_text(free)} free", advice, {"free": free})


def _disk(place: Place) -> MachineFact:
    usage = shutil.disk_usage(place.folder)
    advice = ""
    if not os.access(place.folder, os.W_OK):
        advice = "This folder cannot be written to: change into another"
    elif usage.free < _LITTLE_DISK:
        advice = (
            "Little for a store: zsseg precompute --dry-run says how much one needs, "
            "zsseg cache ls what there is"
        )
    text = f"{size_text(usage.free)} free of {size_text(usage.total)} in {place.folder}"
    return MachineFact("disk", text, advice, {"free": usage.free, "total": usage.total})


def hub_folder(environ: Mapping[str, str]) -> Path:
    """Where models of the Hugging Face hub are kept, by the rules of huggingface_hub."""
    if given := environ.get("HF_HUB_CACHE") or environ.get("HUGGINGFACE_HUB_CACHE"):
        return Path(given).expanduser()
    if home := environ.get("HF_HOME"):
        return Path(home).expanduser() / "hub"
    base = Path(environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
    return base / "huggingface" / "hub"


def _weights(place: Place) -> MachineFact:
    folder = hub_folder(place.environ)
    models = sorted(
        each.name.removeprefix("models--").replace("--", "/", 1)
        for each in folder.glob("models--*")
        if any(file.suffix in _WEIGHTS for file in each.glob("snapshots/*/*"))
    )
    clips = [name for name in models if "clip" in name.casefold()]
    others = len(models) - len(clips)
    values = {"folder": str(folder), "clip": clips, "others": others}
    rest = f" and {counted(others, 'other model')}" if others else ""
    if clips:
        return MachineFact("weights", f"CLIP: {', '.join(clips)}{rest}", values=values)
    return MachineFact(
        "weights",
        f"no CLIP in {folder}{rest}",
        "zsseg precompute downloads the teacher's on first use; without a network bring a folder "
        "with weights and give --teacher local-dir:FOLDER. zsseg demo brings its own",
        values,
    )


def _extras(place: Place) -> MachineFact:
    needed: dict[str, list[str]] = {}
    for line in importlib.metadata.requires("zsseg") or ():
        name = re.match(r"[\w.-]+", line)
        extra = re.search(r"extra == ['\"]([\w-]+)['\"]", line)
        if name and extra and extra[1] != "dev":
            needed.setdefault(extra[1], []).append(name[0])
    there = [extra for extra, names in needed.items() if all(map(_version, names))]
    missing = sorted(set(needed) - set(there))
    text = f"{', '.join(there) or 'none'} installed"
    if missing:
        text += f"; not: {', '.join(map(_with_purpose, missing))}"
    advice = f"Where you need one: pip install 'zsseg[{missing[0]}]'" if missing else ""
    return MachineFact("extras", text, advice, {"installed": there, "missing": missing})


def _with_purpose(extra: str) -> str:
    return f"{extra} ({_PURPOSES[extra]})" if extra in _PURPOSES else extra


def _network(place: Place) -> MachineFact:
    if off := switch_in(place.environ):
        return MachineFact("network", f"off ({off})", values={"reachable": False, "set_by": off})
    address = place.environ.get("HF_ENDPOINT") or HUB
    through = place.environ.get("HTTPS_PROXY") or place.environ.get("https_proxy")
    reached = takes_connection(through or address, patience=_PATIENCE)
    values: dict[str, object] = {"reachable": reached, "set_by": None}
    if reached:
        return MachineFact("network", f"{address} answers", values=values)
    return MachineFact(
        "network",
        f"{address} is not reached" + (f" through {through}" if through else ""),
        f"Set {OFFLINE}=1, so that no command waits for it; what is here can be used",
        values,
    )


CHECKS: tuple[Callable[[Place], MachineFact], ...] = (
    _software,
    _processor,
    _gpu,
    _memory,
    _shared_memory,
    _disk,
    _weights,
    _extras,
    _network,
)
