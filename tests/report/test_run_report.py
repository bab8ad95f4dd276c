"""The page of trained runs: what it says is what the files say, and it needs nothing else."""

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from helpers.python_run import DENSE, TINY, run_world
from helpers.tiny_training import train_tiny_students
from helpers.zsseg_command import called

import zsseg
from zsseg.pipeline.face.open_store import open_store
from zsseg.pipeline.named_stores import teacher_store
from zsseg.pipeline.report.shown_images import shown_images
from zsseg.pipeline.report.shown_run import shown_run
from zsseg.pipeline.report.shown_teacher import stored_teacher
from zsseg.pipeline.report.training_images import training_images
from zsseg.pipeline.stored_image import CachedImage
from zsseg.stages.cache.catalogue import choose_store
from zsseg.stages.data.spec import VOID
from zsseg.stages.errors import UserError
from zsseg.stages.evaluate.trained_run import load_run


class Page(HTMLParser):
    """Text, pictures, and whatever would be loaded from elsewhere."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.text, self.pictures = "", 0
        self.outside: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if name in ("src", "href") and value is not None:
                self.pictures += tag == "img" and value.startswith("data:image/jpeg;base64,")
                if not value.startswith("data:"):
                    self.outside.append(value)
        assert tag != "script"

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory, tiny_clip: str) -> Iterator[Path]:
    """A world, and two runs on it, one of them scored."""
    folder = tmp_path_factory.mktemp("report")
    with pytest.MonkeyPatch.context() as patch:
        run_world(folder, tiny_clip, patch, held_out=8, names=("first", "<second>"))
        called("evaluate", "--run", folder / "first", "-q")
        yield folder


def test_the_page_of_a_run(work: Path) -> None:
    called("report", work / "first", "-q")
    page = Page((work / "first" / "report.html").read_text())
    scores = json.loads((work / "first" / "evaluation-val.json").read_text())["scores"]
    for name in ("hIoU", "sIoU", "uIoU"):
        assert f"{100 * scores[name]:.1f}" in page.text
    assert "gamma 0, 2 steps" in page.text
    assert "train.steps: there" in page.text
    assert "the best and the worst by the share of right pixels of 8 of the 8 images" in page.text
    # The store of `train` has the teacher's tokens of its two images, none of `val`.
    assert page.pictures == 3 * (1 + 6) + 3 * 2
    assert page.outside == []
    assert f"zsseg predict --run {work / 'first'} IMAGES" in page.text


def test_the_teacher_is_shown_beside_the_student(
    work: Path, tiny_clip: str, tmp_path: Path
) -> None:
    world, cache = next(work.glob("world/*.yaml")), tmp_path / "cache"
    shutil.copytree(work / "cache", cache)
    trained = choose_store(cache, split="train")
    assert stored_teacher(teacher_store(str(trained), "val")) is None
    zsseg.precompute(
        world, teacher=tiny_clip, root=world.parent, split="val", cache=cache, set=DENSE
    )
    teacher = stored_teacher(teacher_store(str(trained), "val"))
    assert teacher is not None
    assert teacher.source == "dense tokens"
    run = tmp_path / "run"
    shutil.copytree(work / "first", run)
    student = load_run(run)
    moved = student.record.model_copy(update={"store": str(trained), "check": None})
    (run / "run.json").write_text(moved.model_dump_json())
    gallery = shown_images(run, None, "val", progress=lambda done, total: None)
    for each in gallery.images:
        tokens = CachedImage(teacher.store, teacher.rows[each.id])
        assert each.teacher_HW is not None
        assert tokens.named is not None
        # At the size of the tokens the answer is the nearest name of each.
        np.testing.assert_array_equal(teacher.label(each.id, tokens.named.shape), tokens.named)
        assert each.teacher_HW.shape == each.label_HW.shape
    assert teacher.label("strange", (4, 4)) is None
    assert gallery.teacher_cost is not None
    spent = teacher.store.history[0]["seconds"]["teacher"]
    assert gallery.teacher_cost.milliseconds == pytest.approx(1000 * spent / 8)
    assert gallery.cost is not None
    numbers = sum(each.numel() for each in student.student.state_dict().values())
    assert gallery.cost.megabytes == pytest.approx(numbers * 4 / 1e6, rel=0.01)


@pytest.mark.parametrize("source", ["student", "teacher"])
@pytest.mark.parametrize("method", ["st", "rst"])
def test_pseudo_labels_are_those_of_the_settings(work: Path, source: str, method: str) -> None:
    run = load_run(work / "first")
    store = open_store(work / "cache").store
    teacher = stored_teacher(store)
    assert teacher is not None
    wanted = {"method": method, "source": source, "top_percent": 40.0}
    config = run.record.config
    own = config.self_training.model_copy(update=wanted)
    record = run.record.model_copy(
        update={"config": config.model_copy(update={"self_training": own})}
    )
    shown = training_images(replace(run, record=record), teacher, record.root)
    assert f"by the {source}" in shown.how
    for image in shown.images:
        assert image.pseudo_HW is not None
        given_HW = image.pseudo_HW != VOID
        assert given_HW.any()
        assert set(np.unique(image.pseudo_HW[given_HW])) <= set(run.spec.unseen_ids)
        assert not (given_HW & (image.visible_HW != VOID)).any()
        share = given_HW.sum() / (image.visible_HW == VOID).sum()
        assert share < 0.6
    none = training_images(run, teacher, record.root)
    assert [each.pseudo_HW for each in none.images] == [None, None]


def test_runs_side_by_side_and_names_as_text(work: Path, tmp_path: Path) -> None:
    out = tmp_path / "both.html"
    called("report", work / "first", work / "<second>", "--out", out, "-q")
    page = Page(out.read_text())
    assert page.text.count("<second>") >= 3
    assert "<second> has no scores: zsseg evaluate --run" in page.text
    # Its pictures are of `val`, too.
    assert page.pictures == 3 * (1 + 6 + 6) + 2 * 3 * 2


def test_a_run_whose_data_set_is_gone_has_a_page(work: Path, tmp_path: Path) -> None:
    nowhere = tmp_path / "empty"
    nowhere.mkdir()
    called("report", work / "first", "--root", nowhere, "--out", tmp_path / "page.html", "-q")
    page = Page((tmp_path / "page.html").read_text())
    assert "first has no pictures: " in page.text
    assert page.pictures == 0
    assert "What each class is taken for" in page.text


def test_a_validated_run_shows_its_curve_and_its_checkpoint(
    work: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "watched"
    with pytest.MonkeyPatch.context() as patch:
        train_tiny_students(patch)
        settings = TINY | {"validation.every": 1, "validation.unseen": True}
        zsseg.train(config="baseline", out=run, cache=work / "cache", set=settings)
        called("evaluate", "--run", run, "-q")
        called("evaluate", "--run", run, "--checkpoint", "last", "-q")
        called("report", run, work / "first", "-q")
        capsys.readouterr()
        called("compare", run)
    assert capsys.readouterr().out.count("by-unseen-labels") == 1
    html = (run / "report.html").read_text()
    page = Page(html)
    assert html.count("<svg") == 2
    assert "validation: hIoU, percent" in page.text
    assert "watched: validated by labels of ALL classes, 8 images of 'val'; best: step" in page.text
    assert "the best checkpoint, of step" in page.text
    assert "watched: this checkpoint was chosen by labels of unseen classes" in page.text
    results = {path.name for path in run.glob("evaluation*.json")}
    best = json.loads((run / "validation.jsonl").read_text().splitlines()[1])["best"]
    peeked = "evaluation-val-by-unseen-labels.json"
    assert results == {peeked, "evaluation-val-last.json"}
    scored = json.loads((run / peeked).read_text())["settings"]
    assert (scored["step"], scored["checkpoint"]) == (2 if best else 1, "best")
    (run / "validation.jsonl").write_text("{")
    assert shown_run(run).validation is None
    assert shown_run(work / "first").validation is None


def test_what_cannot_be_shown_is_told(work: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is no run"):
        called("report", tmp_path)
    with pytest.raises(UserError, match="is a folder"):
        called("report", work / "first", "--out", tmp_path)
    copy = tmp_path / "copy"
    shutil.copytree(work / "first", copy)
    (copy / "evaluation-val.json").write_text("{")
    with pytest.raises(UserError, match="damaged"):
        shown_run(copy)
    (copy / "evaluation-val.json").unlink()
    (copy / "metrics.jsonl").write_text("not JSON\n")
    assert shown_run(copy).losses == []
