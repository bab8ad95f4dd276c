"""A small data set, its store and its run in one folder, with the commands that make them.

Commands run in this process, or in one of its own that is killed at a point of `killable_process`.
"""

import io
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from helpers.clip_store import IN_ORDER, content
from helpers.drawn_world import WORLD
from helpers.killable_process import Death, started
from helpers.zsseg_command import zsseg

STEPS = 2
MOST_SECONDS = 60.0
"""Of a command that is to be killed; one that has not ended by then is killed too."""
PRECOMPUTE = IN_ORDER.model_copy(update={"shard_images": 2, "batch": 2})
TRAIN: dict[str, Any] = {
    "student": {"architecture": "fpn", "encoder": "mit_b0", "weights": "none"},
    "objectives": {
        "focal": 0.5,
        "sdd": 1.0,
        "local_distillation": 1.0,
        "dense": 1.0,
        "dense_stride": 8,
    },
    "self_training": {"method": "rst", "start": 0.5},
    "augmentation": {"short_side": 48, "crop": [32, 32]},
    "train": {
        "steps": STEPS,
        "batch": 2,
        "workers": 0,
        "warmup_steps": 0,
        "log_every": 1,
        "checkpoint_every": 1,  # both are kept
        "device": "cpu",
        "learning_rate": 1e-3,
    },
    "evaluate": {"short_side": 48, "window": 32, "stride": 32},
}


@dataclass(frozen=True)
class Said:
    """How a command ended: its exit code (negative: the signal that killed it) and its words."""

    code: int
    text: str


class Project:
    """`world/`, `cache/`, `run/` and what else the commands need, in one folder."""

    def __init__(self, folder: Path, clip: str) -> None:
        self.folder, self.clip = folder, clip
        self.world, self.cache, self.run = folder / "world", folder / "cache", folder / "run"
        folder.mkdir(exist_ok=True)
        (folder / "precompute.yaml").write_text(yaml.safe_dump(PRECOMPUTE.model_dump(mode="json")))
        (folder / "train.yaml").write_text(yaml.safe_dump(TRAIN))

    def describe(self, box: str) -> None:
        """Write the data set's description; `box` is what one class is called in prompts."""
        (self.world / "world.yaml").write_text(WORLD.replace("cardboard box", box))

    @property
    def store(self) -> Path | None:
        """The store, or what is left of it."""
        found = sorted(self.cache.iterdir()) if self.cache.exists() else []
        return next((path for path in found if path.is_dir() and path.suffix == ""), None)

    def content(self) -> dict[str, bytes]:
        """What equal stores have in common."""
        return {} if self.store is None else stored(self.store)

    def checkpoints(self) -> list[Path]:
        """Folders of checkpoints, oldest first."""
        found = (self.run / "checkpoints").glob("step-*")
        return sorted(path for path in found if path.name.removeprefix("step-").isdecimal())

    def precompute(self, *more: str) -> tuple[str, ...]:
        """The words of stage one."""
        world = ("--dataset", str(self.world / "world.yaml"), "--root", str(self.world))
        made = ("--teacher", self.clip, "--config", str(self.folder / "precompute.yaml"))
        return ("precompute", *world, *made, "--cache", str(self.cache), *more)

    def train(self, *, resume: bool) -> tuple[str, ...]:
        """The words of stage two."""
        config = ("--config", str(self.folder / "train.yaml"), "--out", str(self.run))
        return ("train", "--cache", str(self.cache), *config, *["--resume"] * resume)

    def do(self, *words: str) -> Said:
        """Run a command here. What it raises is no message, and is raised."""
        said = io.StringIO()
        with redirect_stderr(said), redirect_stdout(said):
            code = zsseg(*words)
        return Said(code, said.getvalue())

    def killed(self, death: Death, *words: str) -> Said:
        """Run a command in a process of its own, which dies at a point if it comes there."""
        file = self.folder / "said.txt"
        process = started(words, file, death=death, patched=True)
        process.join(MOST_SECONDS)
        process.kill()
        process.join()
        text = file.read_text() if file.exists() else ""
        return Said(process.exitcode or 0, text)

    def data(self) -> dict[str, bytes]:
        """Every file of the data set, by its path."""
        found = (path for path in sorted(self.world.rglob("*")) if path.is_file())
        return {path.relative_to(self.world).as_posix(): path.read_bytes() for path in found}


def stored(store: Path) -> dict[str, bytes]:
    """The content of a store, less the card, which anybody may edit."""
    return {name: value for name, value in content(store).items() if name != "README.md"}


def evaluate_words(project: Project) -> tuple[str, ...]:
    return ("evaluate", "--run", str(project.run), "--root", str(project.world))


def predict_words(project: Project, out: Path) -> tuple[str, ...]:
    images = str(project.world / "images" / "val")
    return ("predict", "--run", str(project.run), images, "--out", str(out))


def scores_in(run: Path) -> dict[str, Any]:
    """The written result, less where it comes from."""
    found: dict[str, Any] = yaml.safe_load((run / "evaluation-val.json").read_text())
    return {name: value for name, value in found.items() if name != "source"}


def label_maps(out: Path) -> dict[str, bytes]:
    """The files in a folder of predictions."""
    found = (path for path in sorted(out.rglob("*")) if path.is_file())
    return {path.relative_to(out).as_posix(): path.read_bytes() for path in found}
