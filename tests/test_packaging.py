"""What is installed is `zsseg` alone, and it works beside a user's own modules of any name."""

import os
import shutil
import site
import subprocess
import sys
import venv
from pathlib import Path
from zipfile import ZipFile

import pytest

ROOT = Path(__file__).resolve().parents[1]
LINKS = ("configs", "pipeline", "stages")
SHORT = ("train.steps=2", "train.warmup_steps=1", "train.batch=2", "train.workers=0")


def run(*words: object, folder: Path, **environment: str) -> str:
    """Run a command in a folder with nothing on Python's path but what is installed; its output."""
    clean = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [str(word) for word in words],
        cwd=folder,
        env=clean | environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def files_below(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of what a wheel is built from: setuptools writes beside it."""
    copy = tmp_path_factory.mktemp("source")
    for name in ("zsseg", *LINKS):
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / name, copy / name, symlinks=True, ignore=ignored)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy / name)
    return copy


@pytest.fixture(scope="module")
def wheel(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("wheel")
    options = ("--no-deps", "--no-build-isolation", "--no-index", "--quiet", "--wheel-dir", out)
    run(sys.executable, "-m", "pip", "wheel", *options, source, folder=out)
    (built,) = out.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The `bin` of an environment with the wheel, and with our dependencies as they are here."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, with_pip=False, symlinks=True)
    python = folder / "bin" / "python"
    options = ("--no-deps", "--no-index", "--quiet", "--disable-pip-version-check")
    run(sys.executable, "-m", "pip", "--python", python, "install", *options, wheel, folder=folder)
    (packages,) = folder.glob("lib/python*/site-packages")
    # Folders named in a .pth file are searched last, and the .pth files in them are not read, so
    # the editable install of the environment that runs this test stays out.
    (packages / "dependencies.pth").write_text("\n".join(site.getsitepackages()) + "\n")
    found = run(python, "-c", "import zsseg; print(zsseg.__file__)", folder=folder)
    assert found.strip() == str(packages / "zsseg" / "__init__.py")
    return python.parent


def own_modules(folder: Path, text: str) -> Path:
    """A user's folder with modules that are called as folders of ours are."""
    (folder / "configs").mkdir()
    for name in ("stages.py", "pipeline.py", "configs/mine.py"):
        (folder / name).write_text(text)
    return folder


def test_a_wheel_holds_zsseg_alone_and_all_of_it(source: Path, wheel: Path) -> None:
    with ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if not name.endswith("/")}
    described = {name for name in names if name.split("/")[0].endswith(".dist-info")}
    expected = {f"zsseg/{link}/{name}" for link in LINKS for name in files_below(source / link)}
    assert names - described == expected | {"zsseg/__init__.py", "zsseg/py.typed"}
    for name in (
        "py.typed",
        "configs/datasets/camvid.yaml",
        "pipeline/demo/report.html",
        "stages/demo/clip/open_clip_model.safetensors",
    ):
        assert f"zsseg/{name}" in names


@pytest.mark.parametrize("where", ["wheel", "here"])
def test_a_user_s_own_modules_and_ours_do_not_meet(
    where: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """`python -c` and notebooks look for modules in the working directory first."""
    own_modules(tmp_path, "OWNER = 'user'\n")
    python = sys.executable
    if where == "wheel":
        python = str(request.getfixturevalue("installed") / "python")
    code = (
        "import sys, zsseg\n"
        "assert zsseg.Model.__name__ == 'Model'\n"
        "assert zsseg.Prediction.__name__ == 'Prediction'\n"
        "assert not {'configs', 'stages', 'pipeline'} & sys.modules.keys()\n"
        "import configs.mine, pipeline, stages\n"
        "print(configs.mine.OWNER, pipeline.OWNER, stages.OWNER)"
    )
    assert run(python, "-c", code, folder=tmp_path) == "user user user\n"


def test_the_installed_demo_runs_among_a_user_s_modules(installed: Path, tmp_path: Path) -> None:
    own_modules(tmp_path, "raise ImportError('this is not a module of zsseg')\n")
    sets = [word for setting in SHORT for word in ("--set", setting)]
    command = (installed / "zsseg", "demo", "--scenes", 5, "--quiet", *sets)
    printed = run(*command, folder=tmp_path, PYTHONPATH=str(tmp_path), OMP_NUM_THREADS="1")
    assert "teacher: dense tokens" in printed
    assert (tmp_path / "demo" / "report.html").is_file()


def test_the_folders_of_the_package_are_links_in_git() -> None:
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    listed = run("git", "ls-files", "--stage", "zsseg", folder=ROOT).splitlines()
    links = {line.split("\t")[1] for line in listed if line.startswith("120000 ")}
    assert links == {f"zsseg/{name}" for name in LINKS}
    for name in LINKS:
        assert (ROOT / "zsseg" / name).readlink() == Path("..", name)


def test_a_checkout_without_links_says_what_to_do(tmp_path: Path) -> None:
    """As git leaves it on Windows: the links are files that hold their targets."""
    (tmp_path / "zsseg").mkdir()
    shutil.copy(ROOT / "zsseg" / "__init__.py", tmp_path / "zsseg")
    for name in LINKS:
        (tmp_path / "zsseg" / name).write_text(f"../{name}")
    code = "try: import zsseg\nexcept ImportError as error: print(error)"
    shown = run(sys.executable, "-c", code, folder=tmp_path)
    assert "git config core.symlinks true" in shown
