"""Which library mines regions: by what is asked for, what is there, and which is the faster."""

import importlib.util
import logging
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from zsseg.stages.errors import ResourceError
from zsseg.stages.precompute.make import backend_choice
from zsseg.stages.precompute.make.backend_choice import choose_backend


def installed(monkeypatch: pytest.MonkeyPatch, *, gpu: bool, package: bool) -> None:
    """Pretend that torch sees a GPU and that cuML can be found, or not."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object() if package else None)


@pytest.mark.parametrize(
    ("gpu", "package", "device", "chosen"),
    [
        (True, True, "cuda", "the faster"),
        (True, True, "cpu", "cuml"),
        (True, False, "cuda", "torch"),
        (True, False, "cpu", "sklearn"),
        (False, True, "cpu", "sklearn"),
        (False, False, "cpu", "sklearn"),
    ],
)
def test_auto_takes_what_is_there(
    monkeypatch: pytest.MonkeyPatch, *, gpu: bool, package: bool, device: str, chosen: str
) -> None:
    installed(monkeypatch, gpu=gpu, package=package)
    monkeypatch.setattr(backend_choice, "faster_backend", lambda: "the faster")
    assert choose_backend("auto", device) == chosen
    assert choose_backend("sklearn", device) == "sklearn"
    assert choose_backend("torch", device) == "torch"


@pytest.mark.parametrize("faster", ["cuml", "torch"])
def test_the_faster_is_taken_and_told(
    faster: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Stand-ins of both libraries, one of which takes longer; each is tried before it is timed."""
    clock, calls = [0.0], list[str]()

    def takes(name: str, images: int) -> None:
        calls.append(name)
        clock[0] += images * (0.001 if name == faster else 0.016)

    monkeypatch.setattr(
        backend_choice, "mine_batch", lambda dense, *_, **__: takes("torch", len(dense))
    )
    monkeypatch.setattr(backend_choice, "mine_regions", lambda *_, **__: takes("cuml", 1))
    monkeypatch.setattr("time.perf_counter", lambda: clock[0])
    with caplog.at_level(logging.INFO):
        assert backend_choice.faster_backend() == faster
    assert f"regions.backend={faster} is taken" in caplog.text
    assert "16.0" in caplog.text
    assert calls.count("torch") == 2
    assert calls.count("cuml") == 2 * 16


def test_cuml_asked_for_and_absent_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    installed(monkeypatch, gpu=True, package=False)
    with pytest.raises(ResourceError, match=r"pip install 'zsseg\[gpu\]'"):
        choose_backend("cuml", "cuda")


def test_cuml_asked_for_without_a_gpu_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    installed(monkeypatch, gpu=False, package=True)
    with pytest.raises(ResourceError, match="no CUDA GPU"):
        choose_backend("cuml", "cpu")


def test_choosing_does_not_import_cuml(tmp_path: Path) -> None:
    """An installed cuML without a GPU costs five seconds to import and fails late."""
    (tmp_path / "cuml").mkdir()
    (tmp_path / "cuml" / "__init__.py").write_text("raise RuntimeError('imported')\n")
    code = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "from zsseg.stages.precompute.make.backend_choice import choose_backend\n"
        "assert choose_backend('auto', 'cpu') in ('cuml', 'sklearn')\n"
        "assert 'cuml' not in sys.modules\n"
    )
    root = Path(__file__).resolve().parents[2]
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], cwd=root, check=True)
