"""What the commands make of a small data set when nothing comes in between, state by state."""

import hashlib
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

from PIL import Image

from helpers.drawn_world import draw_world
from helpers.small_project import (
    Project,
    Said,
    evaluate_words,
    label_maps,
    predict_words,
    scores_in,
)

NAMES = ("a", "b", "c", "d")
"""Of the images that there can be; at the beginning there are all but the last."""
PICTURES = 4
BROKEN = PICTURES
"""The number of a picture that ends in the middle."""


def key_of(data: dict[str, bytes]) -> str:
    """Names a state of a data set."""
    return hashlib.blake2b(repr(sorted(data.items())).encode(), digest_size=8).hexdigest()


class Undisturbed:
    """What the commands make of one state of a data set when nothing comes in between.

    Store and run are made when they are first asked for, in a folder of their own.
    """

    def __init__(self, folder: Path, clip: str, world: Path) -> None:
        self._project = Project(folder, clip)
        shutil.copytree(world, self._project.world)
        self.made = self._project.do(*self._project.precompute())
        """How stage one ended."""
        self.store = self._project.content() if self.made.code in (0, 3) else {}
        self._trained: Said | None = None
        self._scores: dict[int, dict[str, Any]] = {}
        self._labels: dict[int, dict[str, bytes]] = {}

    @property
    def trained(self) -> Said:
        """How stage two ended."""
        if self._trained is None:
            self._trained = self._project.do(*self._project.train(resume=False))
        return self._trained

    @property
    def run(self) -> Path:
        """The finished run."""
        assert self.trained.code == 0, self.trained.text
        return self._project.run

    def scores(self, step: int) -> dict[str, Any]:
        """The evaluation on val after that many steps."""
        if step not in self._scores:
            self._scores[step] = evaluation(self._at(step))
        return self._scores[step]

    def labels(self, step: int) -> dict[str, bytes]:
        """The label maps of val after that many steps."""
        if step not in self._labels:
            self._labels[step] = predictions(self._at(step), self._project.folder / f"of-{step}")
        return self._labels[step]

    def _at(self, step: int) -> Project:
        """A project whose run has had that many steps."""
        early = Project(self._project.folder.with_name(f"{self._project.folder.name}-{step}"), "")
        early.world = self._project.world
        if not early.run.exists():
            shutil.copytree(self.run, early.run)
            for later in early.checkpoints()[step:]:
                shutil.rmtree(later)
        return early


def evaluation(project: Project) -> dict[str, Any]:
    """What `evaluate` gives; it must not fail."""
    said = project.do(*evaluate_words(project))
    assert said.code == 0, said.text
    return scores_in(project.run)


def predictions(project: Project, out: Path) -> dict[str, bytes]:
    """The label maps that `predict` writes; it must not fail."""
    said = project.do(*predict_words(project, out))
    assert said.code == 0, said.text
    return label_maps(out)


class Drawn:
    """What all sequences begin with, and what the undisturbed results of each state are."""

    def __init__(self, folder: Path, clip: str) -> None:
        self.folder, self.clip = folder, clip
        self.ended: Counter[tuple[str, int]] = Counter()
        self._known: dict[str, Undisturbed] = {}
        self.pictures = folder / "pictures"
        draw_world(self.pictures, images=PICTURES)
        draw_world(self.pictures, split="val", images=2, seed=1)
        for file in self.pictures.rglob("*.png"):  # of one size in bytes
            Image.open(file).save(file, compress_level=0)
        whole = self.picture("images", 0).read_bytes()
        self.picture("images", BROKEN).write_bytes(whole[: len(whole) // 2])
        shutil.copy(self.picture("labels", 0), self.picture("labels", BROKEN))

    def picture(self, kind: str, number: int) -> Path:
        return self.pictures / kind / "train" / f"scene_{number:03d}.png"

    def project(self) -> Project:
        """A new folder with all images but one, not computed yet."""
        project = Project(self.folder / "project", self.clip)
        for kind in ("images", "labels"):
            shutil.copytree(self.pictures / kind / "val", project.world / kind / "val")
            (project.world / kind / "train").mkdir()
            for number, name in enumerate(NAMES[:-1]):
                shutil.copy(self.picture(kind, number), file_of(project, kind, name))
        project.describe("cardboard box")
        return project

    def of(self, world: Path, key: str) -> Undisturbed:
        """The undisturbed results of the data set as it is now."""
        if key not in self._known:
            self._known[key] = Undisturbed(self.folder / f"of-{key}", self.clip, world)
        return self._known[key]


def file_of(project: Project, kind: str, name: str) -> Path:
    return project.world / kind / "train" / f"{name}.png"
