"""`zsseg run`: one command from images to a scored student, that goes on where it was ended."""

import json
import shlex
import shutil
from pathlib import Path
from typing import Any

import pytest
from helpers.drawn_world import draw_world
from helpers.tiny_training import train_tiny_students
from helpers.zsseg_command import zsseg

from zsseg.pipeline.whole_run.scored_split import scored_split
from zsseg.pipeline.whole_run.stage_commands import WholeRunRequest
from zsseg.pipeline.whole_run.store_choice import choose_settings
from zsseg.stages.data.spec import load_spec
from zsseg.stages.machine_memory import Room
from zsseg.stages.train.foretell import memory_check
from zsseg.stages.train.losses.batch_losses import batch_losses

SMALL = ("--set", "dense.size=[64,96]", "--set", "text.templates=single")


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory, tiny_clip: str) -> Path:
    """A folder with a data set of two splits, and a store of its own settings."""
    here = tmp_path_factory.mktemp("whole")
    draw_world(here / "world", images=4)
    world = draw_world(here / "world", split="val", images=2, seed=1)
    words = ("--dataset", world, "--root", world.parent, "--teacher", tiny_clip, "-q")
    assert zsseg("precompute", *words, "--cache", here / "cache", *SMALL) == 0
    return here


@pytest.fixture
def here(prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it, for trainings of a tiny student in seconds on a CPU."""
    shutil.copytree(prepared, tmp_path / "here")
    train_tiny_students(monkeypatch)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setenv("COLUMNS", "400")
    monkeypatch.setattr("zsseg.stages.train.plan.make_plan._CPU_MINUTES", 0.001)
    with_memory(monkeypatch, 4 * 10**9)
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "here"


def with_memory(monkeypatch: pytest.MonkeyPatch, free: int) -> None:
    rooms = (Room(free, "a limit of the test"), None)
    monkeypatch.setattr(memory_check, "_rooms", lambda _: rooms)


@pytest.fixture
def words(here: Path, tiny_clip: str) -> tuple[object, ...]:
    world = here / "world" / "world.yaml"
    place = ("--root", here / "world", "--cache", here / "cache", "--out", here / "run")
    return ("run", world, "--teacher", tiny_clip, *place)


def steps_of(run: Path) -> list[int]:
    lines = (run / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line)["step"] for line in lines]


def commands_in(text: str) -> list[list[str]]:
    return [shlex.split(line)[1:] for line in text.splitlines() if line.startswith("$ zsseg ")]


def test_every_stage_is_told_as_its_command_and_done_once(
    here: Path, words: tuple[object, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    assert zsseg(*words) == 0
    shown = capsys.readouterr()
    told = commands_in(shown.err)
    assert [each[1] for each in told] == ["precompute", "train", "evaluate", "report"]
    assert "dense.size=[64, 96]" in told[0]
    assert "is there, and is used" in shown.err
    assert "method: best" in shown.err
    assert "hIoU" in shown.out
    assert f"scores: {here / 'run' / 'evaluation-val.json'}" in shown.out
    assert (here / "run" / "plan.yaml").is_file()
    page = (here / "run" / "report.html").read_text()
    assert f"--config {here / 'run' / 'plan.yaml'}" in page  # a plan is no experiment by name
    assert len(list((here / "cache").iterdir())) == 1
    (look,) = (line for line in shown.out.splitlines() if line.startswith("look at"))
    assert zsseg(*shlex.split(look.partition("zsseg ")[2])) == 0
    assert list((here / "run" / "predictions").glob("scene_*"))

    before = (here / "run" / "metrics.jsonl").read_bytes()
    capsys.readouterr()
    assert zsseg(*words, "--minutes", 5) == 0
    assert commands_in(capsys.readouterr().err)[1][-1] == "--resume"
    assert (here / "run" / "metrics.jsonl").read_bytes() == before
    # A person who types them reaches the same.
    for command in told[:1] + told[2:]:
        assert zsseg(*command[1:], "-q") == 0


def interrupting(after: int) -> Any:
    done = 0

    def losses(*given: Any, **options: Any) -> Any:
        nonlocal done
        if (done := done + 1) > after:
            raise KeyboardInterrupt
        return batch_losses(*given, **options)

    return losses


def test_after_ctrl_c_in_training_the_same_command_goes_on(
    here: Path,
    words: tuple[object, ...],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr("zsseg.stages.train.step.batch_losses", interrupting(16))
        assert zsseg(*words) == 130
    assert "run the same command again" in capsys.readouterr().err
    assert zsseg(*words, "-q") == 0
    shown = capsys.readouterr()
    assert not shown.err
    assert "hIoU" in shown.out
    assert (here / "run" / "resumed.jsonl").is_file()
    assert steps_of(here / "run") == list(range(1, 21))


def test_after_ctrl_c_in_stage_one_too(
    here: Path, words: tuple[object, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    (store,) = (here / "cache").iterdir()
    (store / "seal.json").unlink()
    with monkeypatch.context() as patched:
        patched.setattr("zsseg.stages.precompute.run.precompute", lambda *_, **__: interrupted())
        assert zsseg(*words, "-q") == 130
    assert not (here / "run").exists()
    assert zsseg(*words, "-q") == 0


def interrupted() -> None:
    raise KeyboardInterrupt


def test_without_labels_it_says_what_is_missing(
    here: Path, words: tuple[object, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    world = here / "world" / "world.yaml"
    world.write_text(world.read_text().replace("[ball]", "all").replace("tiny-world", "free"))
    shutil.rmtree(here / "world" / "labels")
    assert zsseg("precompute", "--dataset", world, *words[4:8], *words[2:4], *SMALL, "-q") == 0
    assert zsseg(*words) == 0
    shown = capsys.readouterr()
    assert "method: free" in shown.err
    assert "stage 3 of 4, evaluate: left out: no image of the split 'val' has a label" in shown.err
    assert "no scores: " in shown.out


def test_labels_for_some_images_of_every_class(
    here: Path, words: tuple[object, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    world = here / "world" / "world.yaml"
    text = world.read_text().replace("unseen: [ball]", "labelled: some")
    world.write_text(text.replace("tiny-world", "some"))
    for number in (1, 2):
        (here / "world" / "labels" / "train" / f"scene_{number:03d}.png").unlink()
    assert zsseg("precompute", "--dataset", world, *words[4:8], *words[2:4], *SMALL, "-q") == 0
    assert zsseg(*words) == 0
    shown = capsys.readouterr()
    assert "only 2 of 4 images" in shown.err
    assert "mIoU" in shown.out


def test_errors_name_their_stage(
    words: tuple[object, ...],
    here: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with_memory(monkeypatch, 1000)
    assert zsseg(*words, "-q") == 7
    assert "error: stage 2 of 4, train: plan: out of memory" in capsys.readouterr().err
    assert not (here / "run").exists()
    assert zsseg(*words[:3], "local-dir:nowhere", *words[4:], "-q") != 0
    assert "error: stage 1 of 4, precompute: " in capsys.readouterr().err
    (here / "cache").rename(here / "other")
    for image in (here / "world" / "images" / "train").iterdir():
        image.write_bytes(b"no image")
    assert zsseg(*words, "-q") != 0
    assert "stage 1 of 4, precompute: " in capsys.readouterr().err


def test_a_folder_of_something_else_is_refused_before_anything_is_computed(
    words: tuple[object, ...],
    here: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert zsseg(*words, "-q") == 0
    world = here / "world" / "world.yaml"
    world.write_text(world.read_text().replace("unseen: [ball]", "unseen: [box]"))
    capsys.readouterr()
    monkeypatch.setattr(
        "zsseg.stages.precompute.run.precompute", lambda *_, **__: pytest.fail("computed")
    )
    assert zsseg(*words, "-q") == 2
    assert "holds a run of 'tiny-world' with other classes" in capsys.readouterr().err
    (here / "notes").mkdir()
    (here / "notes" / "diary.txt").write_text("mine")
    assert zsseg(*words[:-1], here / "notes", "-q") == 2
    assert "exists and is no run" in capsys.readouterr().err


def test_several_stores_are_listed(
    words: tuple[object, ...], here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (store,) = (here / "cache").iterdir()
    shutil.copytree(store, here / "cache" / f"{store.name}-copy")
    assert zsseg(*words, "-q") == 5
    assert "several stores of 'tiny-world' fit" in capsys.readouterr().err


def test_several_processes_are_refused(
    words: tuple[object, ...],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert zsseg(*words) == 2
    assert "with torchrun instead" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("device", "minutes", "teacher", "several"),
    [
        ("cpu", None, "a", False),
        ("cpu", 600.0, "a", False),
        ("cuda", 5.0, "a", False),
        ("cuda", 60.0, "a", True),
        ("cuda", None, "a", True),
        ("cuda", None, "tokens:maps", False),
    ],
)
def test_passes_of_the_teacher_follow_from_the_time(
    device: str, minutes: float | None, teacher: str, several: bool
) -> None:
    asked = WholeRunRequest("world", Path("w"), teacher, Path("cache"), Path("out"), minutes)
    found = choose_settings(None, device=device, request=asked)
    assert bool(found.settings) == several
    assert found.reason


@pytest.fixture
def divided(tmp_path: Path) -> Path:
    return draw_world(tmp_path / "world", images=2)


def test_the_split_to_score_is_not_the_trained_one(divided: Path) -> None:
    spec, root = load_spec(str(divided)), divided.parent
    found = scored_split(spec, root)
    assert found.name is None
    assert "no images are held out" in found.missing
    assert found.images == root / "images" / "train"
    for split in ("night", "test", "val"):
        draw_world(root, split=split, images=1)
        assert scored_split(spec, root).name == split
    shutil.rmtree(root / "labels" / "val")
    assert scored_split(spec, root).name == "test"
