"""The rules of the house that no linter knows."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

import zsseg

ROOT = Path(__file__).resolve().parents[1]


def modules_after(code: str) -> set[str]:
    """Top-level modules that a fresh interpreter has loaded after running `code`."""
    script = (
        f"{code}\nimport sys\nprint('\\n'.join({{name.split('.')[0] for name in sys.modules}}))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=ROOT
    )
    return set(done.stdout.splitlines())


def test_help_loads_no_torch() -> None:
    code = (
        "import sys; sys.argv = ['zsseg', '--help']\n"
        "from zsseg.pipeline.cli.main import main\n"
        "try: main()\n"
        "except SystemExit: pass"
    )
    loaded = modules_after(code)
    assert "typer" in loaded
    assert not {"torch", "open_clip", "zarr", "fsspec", "segmentation_models_pytorch"} & loaded


def test_import_zsseg_loads_no_torch() -> None:
    assert not {"torch", "zarr"} & modules_after("import zsseg")


@pytest.mark.parametrize("name", zsseg.__all__)
def test_every_public_name_is_there(name: str) -> None:
    assert getattr(zsseg, name) is not None


def test_cache_and_data_load_no_torch() -> None:
    code = (
        "import zsseg.stages.cache.writer, zsseg.stages.cache.reader\n"
        "import zsseg.stages.data.dataset_check, zsseg.stages.data.visible"
    )
    loaded = modules_after(code)
    assert "zarr" in loaded
    assert "torch" not in loaded


@pytest.mark.parametrize(
    ("package", "doors"),
    [
        ("PIL", {"stages/data/images.py", "stages/demo/canvas.py"}),  # files, and drawing
        ("fsspec", {"stages/cache/disk/place.py", "stages/cache/disk/remote.py"}),
        ("jinja2", {"pipeline/demo/demo_report.py"}),
        ("albumentations", {"stages/train/batches/photometric.py"}),
        ("cuml", {"stages/precompute/make/kmeans.py"}),
        ("dask", {"stages/precompute/engine/dask_client.py"}),
        (
            "distributed",
            {
                f"stages/precompute/engine/{name}.py"
                for name in ("cluster", "dask_client", "dask_worker")
            },
        ),
        ("segmentation_models_pytorch", {"stages/train/students/networks.py"}),
        (
            "sklearn",
            {  # clusters, and the score that compares them
                "stages/precompute/make/kmeans.py",
                "stages/precompute/check/against_teacher.py",
            },
        ),
        ("timm", {"stages/train/students/mscan.py", "stages/train/students/setr.py"}),
        ("upath", {"stages/cache/disk/place.py"}),
        ("yaml", {"stages/yaml_files.py"}),
        ("zarr", {"stages/cache/format/arrays.py"}),
        (
            "open_clip",  # the teacher: found, loaded, its last block taken apart; and the demo's
            {
                f"stages/precompute/teacher/{name}.py"
                for name in ("teacher_files", "clip_teacher", "dense_tokens")
            }
            | {"stages/demo/train_clip.py"},
        ),
    ],
)
def test_a_heavy_package_has_one_door(package: str, doors: set[str]) -> None:
    pattern = re.compile(rf"^\s*(from|import) {package}\b", re.MULTILINE)
    found = {
        path.relative_to(ROOT).as_posix()
        for folder in ("zsseg", "pipeline", "stages")
        for path in (ROOT / folder).rglob("*.py")
        if pattern.search(path.read_text())
    }
    assert found == doors


def test_nothing_is_committed_that_belongs_to_a_person_or_a_run() -> None:
    tracked = subprocess.run(
        ["git", "ls-files"], capture_output=True, text=True, cwd=ROOT, check=False
    ).stdout.splitlines()
    if not tracked:
        pytest.skip("not a git checkout")
    endings = (".pyc", ".pth", ".pt", ".npy", ".zip", ".jpg")
    ours = [name for name in tracked if not name.startswith("tests/fixtures/released_")]
    assert not [name for name in ours if name.endswith(endings) or name.startswith("runs/")]
    assert [name for name in tracked if name.startswith("data_cache/")] == ["data_cache/README.md"]


def test_source_files_stay_readable() -> None:
    long = {
        str(path.relative_to(ROOT)): count
        for folder in ("zsseg", "pipeline", "stages")
        for path in (ROOT / folder).rglob("*.py")
        if (count := len(path.read_text().splitlines())) > 330
    }
    assert not long, f"look for the second subject in: {long}"
