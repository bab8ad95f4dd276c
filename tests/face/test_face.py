"""`import zsseg`: from a data set to predictions in Python, as the commands do it."""

import inspect
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.drawn_world import draw_world
from helpers.python_run import DENSE, TINY
from helpers.tiny_training import train_tiny_students
from helpers.zsseg_command import called

import zsseg
from zsseg.pipeline.face.model import Model
from zsseg.pipeline.stored_image import main_directions
from zsseg.stages.data.images import as_picture, read_image
from zsseg.stages.evaluate.trained_run import load_run

ROOT = Path(__file__).parents[2]
SETTINGS = TINY | {"objectives.sdd": 0.5}


@dataclass(frozen=True)
class Work:
    """A world with its store and a run, all made from Python."""

    world: Path
    cache: Path
    run: Path
    clip: str
    told: list[tuple[int, int, str]]

    def image(self, number: int = 0) -> Path:
        return self.world.parent / "images" / "val" / f"scene_{number:03d}.png"


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory, tiny_clip: str) -> Iterator[Work]:
    folder = tmp_path_factory.mktemp("face")
    world = draw_world(folder / "world", images=4)
    draw_world(folder / "world", split="val", images=2, seed=1)
    done = zsseg.precompute(
        world, teacher=tiny_clip, root=world.parent, cache=str(folder / "cache"), set=DENSE
    )
    assert done.images == 4
    told: list[tuple[int, int, str]] = []
    with pytest.MonkeyPatch.context() as patch:
        train_tiny_students(patch)
        model = zsseg.train(
            config="baseline",
            out=str(folder / "run"),
            cache=folder / "cache",
            set=SETTINGS,
            progress=lambda *now: told.append(now),
        )
        assert model.run.step == 2
        yield Work(world, folder / "cache", folder / "run", tiny_clip, told)


def test_the_page_names_all_that_there_is_and_nothing_else() -> None:
    page = (ROOT / "docs" / "python.md").read_text()
    named = set(re.findall(r"^\| `(?:zsseg\.)?(\w+)", page, re.MULTILINE))
    assert named == set(zsseg.__all__)
    assert all(getattr(zsseg, name).__doc__ for name in zsseg.__all__)


def test_the_face_is_imported_without_torch_and_is_typed() -> None:
    code = "import sys, zsseg; zsseg.UserError; print('torch' in sys.modules, dir(zsseg))"
    shown = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    ).stdout
    assert shown == f"False {sorted(zsseg.__all__)}\n"
    assert (ROOT / "zsseg" / "py.typed").exists()
    with pytest.raises(AttributeError, match="no attribute 'segment'"):
        _ = zsseg.segment


def test_a_student_predicts_what_the_command_writes(work: Work, tmp_path: Path) -> None:
    model = zsseg.load(str(work.run), device="cpu")
    assert model.classes == ("sky", "ground", "box", "ball")
    result = model.predict(str(work.image()))
    called("predict", work.image(), "--run", work.run, "--out", tmp_path / "cli", "-q")
    saved = result.save(tmp_path / "api")
    for file in (saved.labels, saved.overlay):
        assert file.read_bytes() == (tmp_path / "cli" / file.name).read_bytes()
    height, width = result.labels.shape
    assert result.confidence.shape == (height, width)
    assert result.scores.shape[0] == len(result.classes) == len(result.colours) == 4
    assert result.overlay().size == (width, height)
    assert repr(model) == f"<zsseg.Model {work.run}, step 2, 4 classes>"


def test_all_forms_of_an_image_give_one_prediction(work: Work) -> None:
    model = zsseg.load(work.run, device="cpu")
    rgb_HW3 = read_image(work.image())
    forms = (work.image(), as_picture(rgb_HW3), rgb_HW3, torch.from_numpy(rgb_HW3), rgb_HW3[::-1])
    *same, flipped = model.predict(list(forms))
    for each in same:
        np.testing.assert_array_equal(each.labels, same[0].labels)
    assert same[0].stem == work.image().stem
    assert [each.stem for each in (*same[1:], flipped)] == [f"image_{n:04d}" for n in (1, 2, 3, 4)]
    assert not np.array_equal(flipped.image, rgb_HW3)
    assert model.predict([]) == []


def test_images_of_a_list_may_differ_in_size(work: Work) -> None:
    model = zsseg.load(work.run, device="cpu")
    small, large = model.predict((np.zeros((33, 70, 3), np.uint8), np.zeros((1, 1, 3), np.uint8)))
    assert (small.labels.shape, large.labels.shape) == ((33, 70), (1, 1))


@pytest.mark.parametrize(
    ("image", "said"),
    [
        (np.zeros((4, 4, 3), np.float32), "values of type float32"),
        (np.full((4, 4, 3), np.nan), "values of type float64"),
        (torch.zeros(4, 4, 3), "values of type float32"),
        (np.zeros((4, 4), np.uint8), "which is grey"),
        (np.zeros((4, 4, 4), np.uint8), "which has an alpha channel"),
        (np.zeros((3, 4, 4), np.uint8), "which has its channels first"),
        (np.zeros((2, 4, 4, 3), np.uint8), "several images are given as a list"),
        (np.zeros((0, 4, 3), np.uint8), r"in the shape \(0, 4, 3\)"),
        (b"bytes", "of type bytes"),
        (None, "of type NoneType"),
    ],
)
def test_what_is_no_image_is_refused_with_what_is(work: Work, image: Any, said: str) -> None:
    model = zsseg.load(work.run, device="cpu")
    for ask in (model.predict, model.embed):
        with pytest.raises(zsseg.UserError, match=rf"an image .*{said}.*uint8 in the shape"):
            ask(image)


def test_a_picture_may_be_grey_or_transparent(work: Work) -> None:
    model = zsseg.load(work.run, device="cpu")
    picture = as_picture(read_image(work.image()))
    assert model.predict(picture.convert("L")).labels.shape == (picture.height, picture.width)
    assert model.predict(picture.convert("RGBA")).image.shape[2] == 3


def test_other_names_background_and_unsure(work: Work) -> None:
    model = zsseg.load(work.run, device="cpu", teacher=work.clip)
    result = model.predict(work.image(), classes=["sky", "tram|tramway"], background=["ground"])
    assert result.classes == ("sky", "tram|tramway")
    assert set(np.unique(result.labels)) <= {0, 1, 255}
    assert (model.predict(work.image(), unsure=1.0).labels == 255).all()


@pytest.mark.parametrize(
    ("names", "said"),
    [
        ([], "must not be empty"),
        ([""], "must not be empty"),
        (["sky", "Sky "], "given twice"),
        ("sky, ground", "must be a list"),
        ([f"thing {n}" for n in range(10_000)], "10000 class names"),
    ],
)
def test_names_that_cannot_be_asked_for(work: Work, names: Any, said: str) -> None:
    model = zsseg.load(work.run, device="cpu", teacher=work.clip)
    with pytest.raises(zsseg.UserError, match=said):
        model.predict(work.image(), classes=names)


@pytest.mark.parametrize(
    ("names", "said"),
    [
        ("", "holds no name"),
        ("sky, Sky", "given twice"),
        ("@many", "10000 class names"),
        ("@none", "holds no name"),
    ],
)
@pytest.mark.parametrize("command", ["predict", "export", "names"])
def test_commands_refuse_the_same_names(
    work: Work, tmp_path: Path, command: str, names: str, said: str
) -> None:
    (tmp_path / "many").write_text("\n".join(f"thing {n}" for n in range(10_000)))
    (tmp_path / "none").write_text("\n")
    text = f"@{tmp_path / names[1:]}" if names.startswith("@") else names
    run = ("--run", work.run, "--teacher", work.clip)
    words = {
        "predict": (work.image(), *run, "--out", tmp_path / "out", "--classes", text),
        "export": (*run, "--out", tmp_path / "out" / "model.onnx", "--classes", text),
        "names": (text, *run, "--out", tmp_path / "names.npz"),
    }
    with pytest.raises(zsseg.UserError, match=said):
        called(command, *words[command])
    assert not (tmp_path / "out").exists() or not any((tmp_path / "out").iterdir())


@pytest.mark.parametrize("command", ["predict", "export", "names"])
def test_commands_tell_of_a_name_that_the_tokenizer_cuts(
    work: Work, tmp_path: Path, command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    long = f"sky, {command} {'very long name ' * 60}"
    run = ("--run", work.run, "--teacher", work.clip)
    words = {
        "predict": (work.image(), *run, "--out", tmp_path / "out", "--classes", long),
        "export": (*run, "--out", tmp_path / "out" / "model.onnx", "--classes", long),
        "names": (long, *run, "--out", tmp_path / "names.npz"),
    }
    called(command, *words[command])
    assert f"{command} very long name" in capsys.readouterr().err


def test_a_name_that_the_tokenizer_cuts_is_told(
    work: Work, caplog: pytest.LogCaptureFixture
) -> None:
    model = zsseg.load(work.run, device="cpu", teacher=work.clip)
    result = model.predict(work.image(), classes=["sky", "a very long name " * 100])
    assert len(result.classes) == 2
    assert any("a very long name" in each.getMessage() for each in caplog.records)


def test_features_lie_in_the_space_of_the_names(work: Work) -> None:
    model = zsseg.load(work.run, device="cpu")
    result, feature_Dhw = model.predict(work.image()), model.embed(work.image())
    store = zsseg.open_store(work.cache)
    cosine_Chw = np.einsum("cd,dhw->chw", store.text, feature_Dhw)
    cosine_Chw /= np.linalg.norm(feature_Dhw, axis=0)
    np.testing.assert_allclose(cosine_Chw, result.scores, atol=1e-3)


def test_a_store_image_by_image(work: Work) -> None:
    store = zsseg.open_store(str(work.cache))
    assert (len(store), store.classes) == (4, ("sky", "ground", "box", "ball"))
    image = store[3]
    assert image.id == store.store.index[3]["id"] == store[image.id].id == store[-1].id
    assert image.cls is not None
    assert image.dense is not None
    assert image.regions is not None
    width = store.text.shape[1]
    assert image.cls.shape == (width,)
    assert image.dense.shape[0] == width
    assert image.local
    assert all(token_D.shape == (width,) for token_D in image.local.values())
    assert [each.row for each in store[1:3]] == [1, 2]
    assert len(list(store)) == 4
    assert read_image(image.file).ndim == 3
    with pytest.raises(IndexError):
        store[4]
    with pytest.raises(zsseg.UserError, match="has no image 'nothing'"):
        store["nothing"]


def test_scores_are_those_of_the_command(work: Work) -> None:
    told: list[tuple[int, int, str]] = []
    (result,) = zsseg.evaluate(
        work.run, root=work.world.parent, progress=lambda *now: told.append(now)
    )
    called("evaluate", "--run", work.run, "--root", work.world.parent, "-q")
    saved = json.loads((work.run / "evaluation-val.json").read_text())
    assert result.images == 2
    assert told[-1] == (2, 2, "")
    assert result.scores.miou == pytest.approx(saved["scores"]["mIoU"])
    (again,) = zsseg.evaluate(zsseg.load(work.run), root=str(work.world.parent))
    np.testing.assert_array_equal(again.confusion_CC, result.confusion_CC)


def test_progress_is_told(work: Work) -> None:
    assert work.told[-1][:2] == (2, 2)
    assert work.told[-1][2].startswith("loss ")


@pytest.mark.parametrize("form", [str, Path])
def test_what_is_not_there_is_named_for_texts_and_paths_alike(form: Any, tmp_path: Path) -> None:
    nothing = form(tmp_path / "nothing")
    for ask in (zsseg.load, load_run, zsseg.open_store):
        with pytest.raises(zsseg.UserError, match="nothing"):
            ask(nothing)
    with pytest.raises(zsseg.UserError, match="nothing"):
        zsseg.train(config="baseline", out=tmp_path / "run", cache=nothing)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ("train.steps=2", "Give a dict"),
        ({"train.steps"}, "Give a dict"),
        (["train.step=2"], "train.step"),
        ({"train.steps": object()}, "no settings file can hold"),
        ({"train.step": 2}, "train.step"),
        ({"train.steps": "many"}, "train.steps"),
    ],
)
def test_settings_that_cannot_be(work: Work, settings: Any, said: str) -> None:
    with pytest.raises(zsseg.UserError, match=said):
        zsseg.train(config="baseline", out=work.run, cache=work.cache, set=settings)


def test_a_stored_image_is_shown(work: Work, monkeypatch: pytest.MonkeyPatch) -> None:
    image = zsseg.open_store(work.cache)[0]
    shown: list[Any] = []
    monkeypatch.setattr("PIL.Image.Image.show", lambda picture: shown.append(picture))
    image.show()
    height, width = read_image(image.file).shape[:2]
    (picture,) = shown
    assert picture.size == (4 * width, height)  # image, tokens, names, regions
    pixels = np.asarray(picture)
    np.testing.assert_array_equal(pixels[:, :width], read_image(image.file))
    assert image.regions is not None
    grey = pixels[:, 3 * width :].sum(2) == 0
    assert grey.mean() == pytest.approx((image.regions == 0).mean(), abs=0.05)


def test_main_directions_are_those_of_the_covariance() -> None:
    rng = np.random.default_rng(0)
    token_Dhw = rng.normal(size=(6, 4, 5)).astype(np.float32)
    flat_LD = token_Dhw.reshape(6, -1).T.astype(np.float64)
    _, vectors_DD = np.linalg.eigh(np.cov(flat_LD.T))  # ascending
    shown_hw3 = main_directions(token_Dhw)
    for channel in range(3):
        axis_D = vectors_DD[:, -1 - channel]
        axis_D = axis_D * np.sign(axis_D[np.abs(axis_D).argmax()])
        score_L = flat_LD @ axis_D
        expected_L = np.rint(255 * (score_L - score_L.min()) / np.ptp(score_L))
        np.testing.assert_allclose(shown_hw3[..., channel].ravel(), expected_L, atol=1)
    for alike in (np.ones((6, 4, 5), np.float32), token_Dhw[:, :1, :1]):
        assert (main_directions(alike) == 128).all()


load: Any = zsseg.load  # for values that their types forbid
open_store: Any = zsseg.open_store


@pytest.mark.parametrize(
    ("ask", "said"),
    [
        (lambda work: load(work.run, device="nope"), "Use auto, cpu or cuda"),
        (lambda work: load(None), "a path of type NoneType"),
        (lambda work: load(3), "a path of type int"),
        (lambda work: open_store(None), "a path of type NoneType"),
        (lambda work: open_store(3), "a path of type int"),
        (lambda work: predicted(work, confidence="nope"), "Use one of margin"),
        (lambda work: predicted(work, unsure="x"), "least confidence from 0 to 1"),
        (lambda work: predicted(work, unsure=float("nan")), "least confidence from 0 to 1"),
    ],
)
def test_values_of_no_use_are_refused(work: Work, ask: Any, said: str) -> None:
    with pytest.raises(zsseg.UserError, match=said):
        ask(work)


def predicted(work: Work, **options: Any) -> Any:
    return zsseg.load(work.run, device="cpu").predict(work.image(), **options)


def test_a_clip_that_is_missing_for_new_names_says_what_else_helps(
    work: Work, tmp_path: Path
) -> None:
    model = zsseg.load(work.run, device="cpu", teacher=f"local-dir:{tmp_path / 'gone'}")
    with pytest.raises(zsseg.UserError) as caught:
        model.predict(work.image(), classes=["sky", "a new tram"])
    said = str(caught.value)
    assert "'a new tram': new to the run" in said
    assert "gone" in said
    assert "--teacher" in said
    assert "`zsseg names`" in said


def test_a_wrong_teacher_is_told_also_where_every_name_is_known(
    work: Work, tmp_path: Path, tiny_cnn_clip: str
) -> None:
    for wrong, said in ((f"local-dir:{tmp_path / 'gone'}", "gone"), (tiny_cnn_clip, "teacher")):
        model = zsseg.load(work.run, device="cpu", teacher=wrong)
        with pytest.raises(zsseg.UserError, match=said):
            model.predict(work.image())
        with pytest.raises(zsseg.UserError, match=said):
            called(
                "predict", work.image(), "--run", work.run, "--teacher", wrong, "--out", tmp_path
            )
    right = zsseg.load(work.run, device="cpu", teacher=work.clip)
    assert right.predict(work.image()).labels.size


def test_functions_have_the_options_of_their_commands() -> None:
    """What only a terminal needs is left to the command."""
    for_terminals = {"quiet", "dry_run", "as_json", "settings"}
    own = {
        "precompute": {"views"},  # a short form of a setting
        "train": {"replay"},
        "evaluate": {"run", "teacher_alone", "teacher", "cache", "out"},
    }
    for name, others in own.items():
        command = getattr(import_module(f"zsseg.pipeline.cli.{name}"), name)
        ours, theirs = (
            inspect.signature(each).parameters for each in (getattr(zsseg, name), command)
        )
        assert theirs.keys() - for_terminals - others == ours.keys() - {"model", "set", "progress"}
        for each in ours.keys() & theirs.keys():
            assert str(ours[each].default) == str(theirs[each].default), (name, each)


def test_commands_call_the_functions(monkeypatch: pytest.MonkeyPatch, work: Work) -> None:
    given: dict[str, Any] = {}

    def stop(*values: Any, **options: Any) -> Any:
        given.update(options, values=values)
        raise zsseg.UserError("called")

    for name, words in {
        "precompute": (
            "--dataset", work.world, "--views", 2, "--set", "dense.path=maskclip", "--limit", 3
        ),
        "train": ("--cache", work.cache, "--config", "baseline", "--steps", 7),
        "evaluate": ("--run", work.run, "--limit", 1, "--calibration", 0.1),
    }.items():  # fmt: skip
        module = import_module(f"zsseg.pipeline.cli.{name}")
        if name == "train":  # what both call, for the command prints more than a model says
            monkeypatch.setattr("zsseg.pipeline.face.train_student.trained", stop)
        else:
            (local,) = (key for key, value in vars(module).items() if value is getattr(zsseg, name))
            monkeypatch.setattr(module, local, stop)
        with pytest.raises(zsseg.UserError, match="called"):
            called(name, *words)
        if name == "precompute":
            assert given["values"] == (str(work.world),)
            assert (given["set"], given["limit"]) == (["dense.path=maskclip", "views.number=2"], 3)
        elif name == "train":
            by_command = given["values"][0]
            with pytest.raises(zsseg.UserError, match="called"):
                zsseg.train(cache=work.cache, config="baseline", steps=7, patience=None)
            assert given["values"][0] == by_command
            assert by_command.changes == ["train.steps=7"]
        else:
            assert (given["values"], given["limit"]) == ((work.run,), 1)
            assert given["calibration"] == 0.1


def test_a_run_has_background_words_of_its_own(work: Work, tmp_path: Path) -> None:
    """They hold wherever none are given, and give way to a class of their name."""
    words = 'evaluate.background=["rubbish", "box"]'
    names = ("--classes", "sky, box", "--run", work.run, "--teacher", work.clip, "-q")
    for out, extra in (("own", ("--set", words)), ("given", ("--background", "rubbish"))):
        called("predict", work.image(), *names, "--out", tmp_path / out, *extra)
    label = f"{work.image().stem}.png"
    given = (tmp_path / "given" / label).read_bytes()
    assert (tmp_path / "own" / label).read_bytes() == given
    model = zsseg.load(work.run, device="cpu", teacher=work.clip)
    config = model.run.evaluate.model_copy(update={"background": ("rubbish", "box")})
    own = Model(replace(model.run, evaluate=config), teacher=work.clip)
    expected = model.predict(work.image(), ["sky", "box"], background=["rubbish"])
    assert (expected.labels == 255).any(), "or nothing is seen of it"
    np.testing.assert_array_equal(own.predict(work.image(), ["sky", "box"]).labels, expected.labels)
    without = own.predict(work.image(), ["sky", "box"], background=[])
    assert (without.labels != 255).all()
