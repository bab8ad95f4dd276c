"""The rules of the house that no linter knows."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

import zsseg

ROOT = Path(__file__).resolve().parents[1]
PRODUCT = {
    path.relative_to(ROOT).as_posix(): path.read_text()
    for folder in ("zsseg", "pipeline", "stages", "configs")
    for path in sorted((ROOT / folder).rglob("*.py"))
    if folder != "zsseg" or path.parent.name == "zsseg"  # what is below are links
}
TREES = {file: ast.parse(text) for file, text in PRODUCT.items()}
COMMANDS = "pipeline/cli/"


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
        (
            "PIL",
            {  # files, drawing, and the script that lies beside an export
                "stages/data/images.py",
                "stages/demo/canvas.py",
                "stages/export/standalone.py",
            },
        ),
        ("av", {"stages/data/video.py"}),
        (
            "onnxruntime",
            {f"stages/export/{name}.py" for name in ("agreement", "small_numbers", "standalone")},
        ),
        ("fsspec", {"stages/cache/disk/store_path.py", "stages/cache/disk/bucket_requests.py"}),
        ("jinja2", {"pipeline/html_page.py"}),
        ("albumentations", {"stages/train/batches/photometric.py"}),
        ("cuml", {"stages/precompute/make/kmeans.py"}),
        ("dask", {"stages/precompute/engine/dask_client.py"}),
        (
            "distributed",
            {
                f"stages/precompute/engine/{name}.py"
                for name in ("dask_client", "dask_engine", "dask_worker")
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
        (
            "timm",
            {f"stages/train/students/{name}.py" for name in ("encoder_names", "mscan", "setr")},
        ),
        ("upath", {"stages/cache/disk/store_path.py"}),
        ("yaml", {"stages/yaml_files.py"}),
        ("zarr", {"stages/cache/format/arrays.py"}),
        (
            "open_clip",  # the teacher: found, loaded, its last block taken apart; and the demo's
            {
                f"stages/precompute/teacher/{name}.py"
                for name in (
                    "teacher_files",
                    "teacher_names",
                    "clip_teacher",
                    "dense_tokens",
                    "open_clip_parts",
                )
            }
            | {"stages/demo/train_clip.py"},
        ),
    ],
)
def test_a_heavy_package_has_one_door(package: str, doors: set[str]) -> None:
    pattern = re.compile(rf"^\s*(from|import) {package}\b", re.MULTILINE)
    assert {file for file, text in PRODUCT.items() if pattern.search(text)} == doors


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


def functions() -> Iterator[tuple[str, ast.FunctionDef, bool]]:
    """Each function of the product: its file, itself, and whether it is a method."""
    for file, tree in TREES.items():
        methods = {
            id(function)
            for each in ast.walk(tree)
            if isinstance(each, ast.ClassDef)
            for function in each.body
        }
        for each in ast.walk(tree):
            if isinstance(each, ast.FunctionDef):
                yield file, each, id(each) in methods


def parameters(function: ast.FunctionDef) -> list[str]:
    every = function.args
    return [each.arg for each in (*every.posonlyargs, *every.args, *every.kwonlyargs)]


def repeated(names: Iterable[tuple[str, str]]) -> dict[str, list[str]]:
    """Name -> the files that have it, of those that several have."""
    files: dict[str, list[str]] = {}
    for name, file in names:
        files.setdefault(name, []).append(file)
    return {name: found for name, found in files.items() if len(found) > 1}


def test_source_files_stay_readable() -> None:
    lengths = {file: len(text.splitlines()) for file, text in PRODUCT.items()}
    long = {file: length for file, length in lengths.items() if length > 330}
    assert not long, f"look for the second subject in: {long}"


def test_no_two_modules_have_one_name() -> None:
    """But for the commands: a file of pipeline/cli is named after its command."""
    files = [file for file in PRODUCT if not file.startswith(COMMANDS)]
    named = ((Path(file).stem, file) for file in files if not file.endswith("__init__.py"))
    assert repeated(named) == {}


def test_no_two_public_classes_have_one_name() -> None:
    named = (
        (each.name, file)
        for file, tree in TREES.items()
        for each in tree.body
        if isinstance(each, ast.ClassDef) and not each.name.startswith("_")
    )
    assert repeated(named) == {}


def test_functions_are_read_on_one_screen() -> None:
    long = {
        f"{file}:{function.name}"
        for file, function, _ in functions()
        if (function.end_lineno or 0) - function.lineno + 1 > 60
    }
    assert long == set()


def test_what_belongs_together_is_handed_over_together() -> None:
    """At most seven parameters; a command's are its options, as are those of the function of the
    same name that it calls."""
    called_by_commands = {"precompute", "train", "evaluate"}
    wide = {
        f"{file}:{function.name}"
        for file, function, method in functions()
        if len(parameters(function)) - method > 7
        and not (file.startswith(COMMANDS) and not function.name.startswith("_"))
        and not (file.startswith("pipeline/face/") and function.name in called_by_commands)
    }
    assert wide == set()


def test_disk_or_url_is_decided_where_a_path_is_opened() -> None:
    asked = [
        f"{file}: {line.strip()}"
        for file, text in PRODUCT.items()
        for line in text.splitlines()
        if re.search(r"isinstance\([a-z_]+, Path\)", line)
    ]
    assert len(asked) <= 6, asked


def test_no_function_only_hands_on_its_arguments() -> None:
    found = []
    for file, function, method in functions():
        *before, last = function.body
        checks = not all(isinstance(each, ast.Expr) for each in before)  # more than a docstring
        if method or checks or not isinstance(last, ast.Return):
            continue
        call = last.value
        if isinstance(call, ast.Call) and isinstance(call.func, ast.Name):
            handed = [*call.args, *(keyword.value for keyword in call.keywords)]
            names = [each.id if isinstance(each, ast.Name) else None for each in handed]
            if names == parameters(function) != []:
                found.append(f"{file}:{function.name}")
    assert not found


@pytest.mark.parametrize(
    "package",
    [file for file in PRODUCT if file.endswith("__init__.py") and file != "zsseg/__init__.py"],
)
def test_a_package_names_all_that_is_in_it(package: str) -> None:
    folder = package.removesuffix("__init__.py")
    inside = {
        file.removeprefix(folder).split("/")[0] for file in PRODUCT if file.startswith(folder)
    }
    names = {name.removesuffix(".py") for name in inside} - {"__init__"}
    text = ast.get_docstring(TREES[package]) or ""
    assert {name for name in names if not re.search(rf"`{name}(\.py|/)?`", text)} == set()
