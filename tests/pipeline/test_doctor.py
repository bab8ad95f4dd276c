"""`zsseg doctor`: each check with something there and with nothing, and what it says to do."""

import importlib.metadata
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers.zsseg_command import zsseg

from zsseg.pipeline import machine_report as report
from zsseg.pipeline.machine_report import MachineFact, Place, hub_folder, machine_report


def found(subject: str, place: Place) -> MachineFact:
    check = {each.__name__.strip("_"): each for each in report.CHECKS}[subject]
    return check(place)


def nvidia_smi(folder: Path, lines: str, *, seconds: int = 0) -> str:
    program = folder / "nvidia-smi"
    program.write_text(f"#!/bin/sh\nsleep {seconds}\nprintf '{lines}'\n")
    program.chmod(0o755)
    return f"{folder}:/usr/bin:/bin"


@pytest.fixture
def listening() -> Iterator[str]:
    """The address of a server on loopback that takes connections."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


def test_all_of_it_is_one_line_each(capsys: pytest.CaptureFixture[str]) -> None:
    assert zsseg("doctor") == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(report.CHECKS)
    assert lines[0].split()[0] == "software"


def test_json_has_every_check(capsys: pytest.CaptureFixture[str]) -> None:
    assert zsseg("doctor", "--json") == 0
    values = json.loads(capsys.readouterr().out)
    assert {*values} == {each.subject for each in machine_report(Place())}
    assert values["disk"]["free"] > 0
    assert values["processor"]["cores"] >= 1


def test_it_is_quick_and_loads_no_torch() -> None:
    code = (
        "import sys, time; started = time.monotonic(); sys.argv = ['zsseg', 'doctor']\n"
        "from zsseg.pipeline.cli.main import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "assert not {'torch', 'zarr', 'open_clip', 'numpy'} & set(sys.modules)"
    )
    started = time.monotonic()
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
    assert time.monotonic() - started < 20  # 2 s, on a machine that does ten other things


def test_a_gpu_and_a_torch_for_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", nvidia_smi(tmp_path, "NVIDIA H200, 140000, 143771\\n"))
    monkeypatch.setattr(report, "_cuda_of_torch", lambda: "13.0")
    there = found("gpu", Place(environ={}))
    assert there.text == "NVIDIA H200, 146.8 GB free of 150.8 GB; torch for CUDA 13.0"
    assert there.advice == ""
    hidden = found("gpu", Place(environ={"CUDA_VISIBLE_DEVICES": ""}))
    assert "Unset CUDA_VISIBLE_DEVICES" in hidden.advice
    monkeypatch.setattr(report, "_cuda_of_torch", lambda: None)
    assert "Install a torch built for CUDA" in found("gpu", Place(environ={})).advice


@pytest.mark.parametrize("lines", ["", "No devices were found\\n"])
def test_no_gpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, lines: str) -> None:
    monkeypatch.setenv("PATH", nvidia_smi(tmp_path, lines) if lines else str(tmp_path))
    nothing = found("gpu", Place(environ={}))
    assert nothing.text.startswith("none")
    assert nothing.advice


def test_a_hanging_driver_is_not_waited_for(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(report, "_PATIENCE", 0.2)
    monkeypatch.setenv("PATH", nvidia_smi(tmp_path, "x, 1, 2\\n", seconds=30))
    started = time.monotonic()
    assert found("gpu", Place(environ={})).text.startswith("none")
    assert time.monotonic() - started < 10


def test_memory_of_a_container(tmp_path: Path) -> None:
    for name, text in {
        "proc/meminfo": "MemTotal: 64000000 kB\nMemAvailable: 60000000 kB\n",
        "proc/self/cgroup": "0::/job\n",
        "sys/fs/cgroup/job/memory.max": "4000000000\n",
        "sys/fs/cgroup/job/memory.current": "1000000000\n",
        "sys/fs/cgroup/job/memory.stat": "inactive_file 0\n",
        "sys/fs/cgroup/cpu.max": "150000 100000\n",
    }.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    memory = found("memory", Place(root=tmp_path))
    assert memory.text == "3.0 GB can be taken, bound by the control group's limit of 4.0 GB"
    assert "--dry-run" in memory.advice
    assert found("processor", Place(root=tmp_path)).values["quota"] == 1.5
    assert found("memory", Place(root=tmp_path / "nowhere")).values["free"] is None
    assert found("shared_memory", Place(root=tmp_path / "nowhere")).values["free"] is None


def test_weights_in_the_hubs_folder(tmp_path: Path) -> None:
    place = Place(environ={"HF_HOME": str(tmp_path)})
    assert "no CLIP in" in found("weights", place).text
    for name in ("timm--vit_base_patch16_clip_224.openai", "nvidia--mit-b0", "org--empty-clip"):
        (tmp_path / f"hub/models--{name}/snapshots/abc").mkdir(parents=True)
    for name in ("timm--vit_base_patch16_clip_224.openai", "nvidia--mit-b0"):
        (tmp_path / f"hub/models--{name}/snapshots/abc/model.safetensors").write_bytes(b"")
    there = found("weights", place)
    assert there.text == "CLIP: timm/vit_base_patch16_clip_224.openai and 1 other model"
    assert there.advice == ""


def test_the_hubs_folder_by_its_own_rules() -> None:
    assert hub_folder({"HF_HUB_CACHE": "/a", "HF_HOME": "/b"}) == Path("/a")
    assert hub_folder({"HF_HOME": "/b"}) == Path("/b/hub")
    assert hub_folder({"XDG_CACHE_HOME": "/c"}) == Path("/c/huggingface/hub")
    assert hub_folder({}) == Path("~/.cache/huggingface/hub").expanduser()


def test_extras(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = [
        "numpy>=1",
        'pytest>=8; extra == "dev"',
        "numpy; extra == 's3'",
        'no-such-package>=26; sys_platform == "linux" and extra == "gpu"',
    ]
    monkeypatch.setattr(importlib.metadata, "requires", lambda name: lines)
    extras = found("extras", Place())
    assert extras.text == "s3 installed; not: gpu (k-means on the GPU)"
    assert "pip install 'zsseg[gpu]'" in extras.advice


def test_the_network(listening: str, monkeypatch: pytest.MonkeyPatch) -> None:
    reached = found("network", Place(environ={"HF_ENDPOINT": listening}))
    assert (reached.text, reached.advice) == (f"{listening} answers", "")
    through = Place(environ={"HTTPS_PROXY": listening})
    assert found("network", through).values["reachable"] is True
    off = found("network", Place(environ={"HF_HUB_OFFLINE": "1", "HF_ENDPOINT": listening}))
    assert (off.text, off.advice) == ("off (HF_HUB_OFFLINE)", "")
    monkeypatch.setattr(report, "_PATIENCE", 0.5)
    gone = found("network", Place(environ={"HF_ENDPOINT": "http://127.0.0.1:9"}))
    assert "is not reached" in gone.text
    assert "ZSSEG_OFFLINE=1" in gone.advice
    assert "is not reached" in found("network", Place(environ={"HF_ENDPOINT": "x:y"})).text


def test_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert str(tmp_path) in found("disk", Place(folder=tmp_path)).text
    monkeypatch.setattr(report, "_LITTLE_DISK", float("inf"))
    assert "--dry-run says how much" in found("disk", Place(folder=tmp_path)).advice
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    assert "cannot be written to" in found("disk", Place(folder=tmp_path)).advice
