"""One evaluation by several processes has the files of one process, and they end together."""

import shutil
import sys
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.colour_run import colour_run, record
from helpers.drawn_world import draw_world
from helpers.random_store import write_store
from helpers.several_processes import together
from helpers.zsseg_command import zsseg
from numpy.typing import NDArray

from zsseg.stages.evaluate.inference import predict_scores
from zsseg.stages.evaluate.trained_run import load_run
from zsseg.stages.train.processes import joined_processes
from zsseg.stages.train.run import checkpoint
from zsseg.stages.train.run.checkpoint import LoadedStudent, load_student
from zsseg.stages.train.run.run_folder import write_record
from zsseg.stages.train.run_config import RunConfig, TrainConfig
from zsseg.stages.train.validation_config import Which

pytestmark = pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")

FILES = [
    "evaluation-val-gamma0.1.csv",
    "evaluation-val-gamma0.1.json",
    "evaluation-val.csv",
    "evaluation-val.json",
]


@pytest.fixture(autouse=True)
def often_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zsseg.stages.evaluate.evaluation.IMAGES_BETWEEN_CHECKS", 2)


def void(_: int) -> None:
    """Nothing."""


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder for a world and results, with a run whose student sees colours."""
    description = draw_world(tmp_path / "world", split="val", images=0)
    made = colour_run(tmp_path / "run", description)
    config = RunConfig(evaluate=made.evaluate, train=TrainConfig(steps=made.step))
    write_record(made.path, record(made.spec, config), made.text_CD)
    checkpoint.save(made.path, made.step, student=made.student, training={})
    monkeypatch.setattr(checkpoint, "build_student", lambda *_, **__: made.student)
    return tmp_path


def ended(
    count: int, place: Path, *words: object, prepare: Callable[[int], None] = void
) -> list[tuple[int, str]]:
    """How so many processes end that evaluate into `place / COUNT / NUMBER` together.

    What each prints is in the file `printed` there.
    """
    folder = place / str(count)

    def work(number: int) -> None:
        prepare(number)
        (folder / str(number)).mkdir()
        with (folder / str(number) / "printed").open("w") as file, redirect_stdout(file):
            code = zsseg("evaluate", *words, "--out", folder / str(number))
        sys.exit(code)

    return together(count, work, folder)


def of_run(place: Path) -> tuple[object, ...]:
    return "--run", place / "run", "--root", place / "world"


def written(folder: Path) -> dict[str, bytes]:
    """Every file of a result, and what was printed but for the paths of the files."""
    found = {path.name: path.read_bytes() for path in sorted(folder.iterdir())}
    found["printed"] = found["printed"].partition(b"written")[0]
    return found


def as_one(
    place: Path, *words: object, count: int = 2, prepare: Callable[[int], None] = void
) -> None:
    """Do several processes what one does? The first one speaks and writes, the others do not."""
    ((code, message),) = ended(1, place, *words)
    assert code == 0, message
    (code, message), *others = ended(count, place, *words, prepare=prepare)
    assert code == 0, message
    assert others == [(0, "")] * (count - 1)
    one, several = written(place / "1" / "0"), written(place / str(count) / "0")
    assert b"hIoU" in one["printed"]
    assert several == one
    for number in range(1, count):
        assert written(place / str(count) / str(number)) == {"printed": b""}


@pytest.mark.parametrize(("images", "count"), [(5, 2), (3, 2), (1, 2), (7, 3)])
def test_a_run_has_the_result_of_one_process(place: Path, images: int, count: int) -> None:
    draw_world(place / "world", split="val", images=images)
    as_one(place, *of_run(place), "--calibration", 0.1, count=count)
    assert sorted(written(place / "1" / "0")) == [*FILES, "printed"]
    assert f"evaluate {images}/{images}," in (place / str(count) / "0.err").read_text()


def test_a_teacher_has_the_result_of_one_process(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of six images, one without tokens and one without a label, of which the first one warns."""
    description = draw_world(place / "world", split="train", images=6)
    write_store(place / "store", description, failed=(2,))
    (place / "world" / "labels" / "train" / "scene_004.png").unlink()
    data = ("--dataset", description, "--root", description.parent, "--calibration", 0.1)

    def prepare(number: int) -> None:
        def note(_: object) -> None:
            assert number == 0

        monkeypatch.setattr("zsseg.stages.cache.tools.uses.note_use", note)

    options = ("--cache", place / "store", "--split", "train")
    as_one(place, "--teacher", *options, *data, prepare=prepare)
    message = (place / "2" / "0.err").read_text()
    assert "left out without a label: 1 image of 'train'" in message
    assert "evaluate 4/4," in message


def test_all_have_the_checkpoint_that_the_first_one_finds(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when the run is still trained, and has a newer one for the second process."""

    def newer(path: Path, which: Which | None = None) -> LoadedStudent:
        student, step, _ = load_student(path, which)
        with torch.no_grad():
            student.projection.weight.neg_()
        return LoadedStudent(student, step + 1, None)

    def work(number: int) -> None:
        if number:
            monkeypatch.setattr("zsseg.stages.evaluate.trained_run.load_student", newer)
        with joined_processes():
            run = load_run(place / "run", device="cpu")
        assert run.step == 7
        assert torch.equal(run.student.projection.weight[:, :, 0, 0], torch.eye(3))

    assert together(2, work, place / "message") == [(0, "")] * 2


def test_only_the_first_one_asks_clip_for_names(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    description = draw_world(place / "world", split="val", images=5)
    renamed = place / "renamed.yaml"
    renamed.write_text(description.read_text().replace("cardboard box", "crate"))
    text_CD = colour_run(place / "run", description).text_CD.numpy()

    def encoder(number: int) -> None:
        def encode(names: Sequence[str]) -> NDArray[np.float32]:
            assert number == 0
            assert names == ["sky", "crate"]
            rows: NDArray[np.float32] = np.stack([text_CD[0], -text_CD[3]])
            return rows

        monkeypatch.setattr(
            "zsseg.pipeline.face.score_student.text_encoder", lambda _, __=None: encode
        )
        if number == 0:  # what an earlier evaluation has kept
            shutil.rmtree(place / "run" / "text_cache", ignore_errors=True)

    encoder(0)
    as_one(place, *of_run(place), "--dataset", renamed, prepare=encoder)


@pytest.mark.parametrize("number", [0, 1])
def test_an_image_that_one_cannot_read_ends_all_soon_with_one_message(
    place: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    draw_world(place / "world", split="val", images=20)
    (place / "world" / "images" / "val" / f"scene_{number:03d}.png").write_text("no image")

    def prepare(own: int) -> None:
        def noted(*given: Any, **options: Any) -> Any:
            with (place / f"scored-{own}").open("a") as file:
                file.write("x")
            return predict_scores(*given, **options)

        monkeypatch.setattr("zsseg.stages.evaluate.memory.predict_scores", noted)

    found = ended(2, place, *of_run(place), prepare=prepare)
    code, message = found[number]
    assert code == 4
    assert message.startswith("error: ")
    assert f"scene_{number:03d}.png" in message
    assert message.count("\n") == 1
    assert found[1 - number] == (1, "")
    assert (place / f"scored-{1 - number}").read_text() == "xx"
    assert not (place / f"scored-{number}").exists()
    assert all(written(place / "2" / str(each)) == {"printed": b""} for each in range(2))


def test_other_images_in_one_are_reported_once(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw_world(place / "world", split="val", images=5)
    draw_world(place / "less", split="val", images=5)
    (place / "less" / "images" / "val" / "scene_002.png").unlink()

    def prepare(number: int) -> None:
        monkeypatch.chdir(place / ("less" if number else "world"))

    found = ended(2, place, "--run", place / "run", "--root", ".", prepare=prepare)
    assert found == [
        (1, ""),
        (
            4,
            "error: process 1 finds 4 images with a label and process 0 finds 5; 'scene_002' is "
            "not in both. Give all processes the same data set\n",
        ),
    ]


def test_other_names_in_one_are_reported_once(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else one would wait for embeddings that the other never sends."""
    description = draw_world(place / "world", split="val", images=5)
    for number, name in enumerate(("cardboard box", "crate")):
        (place / f"in-{number}").mkdir()
        text = description.read_text().replace("cardboard box", name)
        (place / f"in-{number}" / "own.yaml").write_text(text)

    def prepare(number: int) -> None:
        monkeypatch.chdir(place / f"in-{number}")

    call = ("--run", place / "run", "--root", place / "world", "--dataset", "own.yaml")
    first, (code, message) = ended(2, place, *call, prepare=prepare)
    assert first == (1, "")
    assert code == 4
    assert "has other class names in process 1 than in process 0" in message


def test_a_wrong_call_is_reported_once(place: Path) -> None:
    (code, message), second = ended(2, place, "--split", "val")
    assert code == 2
    assert message.startswith("error: give either --run RUN")
    assert second == (1, "")
