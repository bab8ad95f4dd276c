"""The command of each stage, as words that a shell takes."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from zsseg.stages.cache.disk.store_path import StorePath


@dataclass(frozen=True)
class WholeRunRequest:
    """What `zsseg run` is asked for."""

    dataset: str
    """Name or file of the description."""
    root: Path
    teacher: str
    cache: StorePath
    out: Path
    minutes: float | None
    """Of training; None: as `zsseg train` chooses."""


@dataclass(frozen=True)
class StageCommand:
    """A stage: its command, and why it is this one."""

    stage: str
    words: tuple[str, ...]
    """After `zsseg`."""
    reason: str


def precompute_command(
    request: WholeRunRequest, settings: Sequence[str], reason: str
) -> StageCommand:
    """Stage one, into the cache."""
    sets = [word for setting in settings for word in ("--set", setting)]
    words = ("--dataset", request.dataset, "--root", str(request.root), "--split", "train")
    place = ("--teacher", request.teacher, "--cache", str(request.cache))
    return StageCommand("precompute", ("precompute", *words, *place, *sets), reason)


def train_command(request: WholeRunRequest, store: StorePath, *, begun: bool) -> StageCommand:
    """Stage two, planned; or going on, if a run is `begun`."""
    words = ("train", "--cache", str(store), "--root", str(request.root), "--out", str(request.out))
    if begun:
        return StageCommand("train", (*words, "--resume"), "goes on with its own plan")
    minutes = () if request.minutes is None else ("--minutes", f"{request.minutes:g}")
    return StageCommand("train", (*words, *minutes), "makes a plan and trains")


def evaluate_command(request: WholeRunRequest, split: str) -> StageCommand:
    """The scores on images that were not trained on."""
    words = ("evaluate", "--run", str(request.out), "--root", str(request.root), "--split", split)
    return StageCommand("evaluate", words, f"scores the images of '{split}', which has labels")


def report_command(request: WholeRunRequest, split: str) -> StageCommand:
    """A page with scores and pictures."""
    words = ("report", str(request.out), "--root", str(request.root), "--split", split)
    return StageCommand("report", words, "puts scores and pictures on a page")
