"""`zsseg demo` end to end, shortened, and what its student has learnt."""

import shlex
from collections.abc import Iterator
from html import unescape
from pathlib import Path

import pytest
import torch
import yaml
from helpers.face_block import lay_out, run_block
from helpers.zsseg_command import called as zsseg

from zsseg.pipeline.demo.demo_commands import CEILING, Demo, demo_methods, small_clip
from zsseg.pipeline.demo.demo_scores import (
    ALL_LABELS,
    GAMMA_NOTE,
    NAMES,
    TOKENS,
    demo_results,
    notes,
    worse_classes,
)
from zsseg.stages.cache.catalogue import choose_store
from zsseg.stages.data.spec import load_spec
from zsseg.stages.demo.world import write_world
from zsseg.stages.errors import UserError
from zsseg.stages.evaluate.result import read_result

SHORT = ("train.steps=4", "train.warmup_steps=1", "train.batch=2", "train.log_every=2")


@pytest.fixture(scope="module")
def short(tmp_path_factory: pytest.TempPathFactory) -> Demo:
    """A demo of 15 + 3 scenes and 4 steps: eleven commands, 16 s on two busy cores."""
    out = tmp_path_factory.mktemp("demo") / "demo"
    sets = [word for setting in SHORT for word in ("--set", setting)]
    zsseg("demo", "--out", str(out), "--scenes", "15", "--quiet", *sets)
    return Demo(out, "best", ("train.seed=0", *SHORT))


def test_a_demo_leaves_everything_a_person_wants(short: Demo) -> None:
    assert len(list((short.world / "images" / "val").iterdir())) == 3
    for method in ("baseline", "best"):
        assert short.scores(method).name == "evaluation-val-gamma0.01.json"
        assert short.scores(method).is_file()
        assert (short.run(method) / "evaluation-val.json").is_file()
    assert short.scores("full") == short.run("full") / "evaluation-val.json"
    overlays = list((short.out / "predictions").glob("*_overlay.png"))
    assert len(overlays) == 3
    page = short.report.read_text(encoding="utf-8")
    for text in ("traffic cone", "<svg"):
        assert text in page
    assert page.count("data:image/png;base64,") == 3 * 5
    rows = [TOKENS, NAMES, "baseline", "ours (best)", ALL_LABELS]
    rows += ["baseline, gamma 0.01", "ours (best), gamma 0.01"]
    places = [page.index(f"<td>{name}</td>") for name in rows]
    assert places == sorted(places)
    assert unescape(page).count(GAMMA_NOTE) == 1


def test_the_rows_are_what_their_names_say(short: Demo) -> None:
    results = demo_results(short)
    assert results[TOKENS].settings["from"] == "dense tokens"
    assert results[NAMES].settings["from"] == "map of names"
    ceiling = results[ALL_LABELS]
    assert ceiling.dataset == "demo-full"
    assert ceiling.unseen == results[short.ours].unseen
    record = yaml.safe_load((short.run("full") / "run.json").read_text())
    assert "demo-full" in str(record)


def test_the_demo_s_run_is_used_from_python(
    short: Demo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = next((short.world / "images" / "val").iterdir())
    store = choose_store(short.cache, split="train")
    lay_out(tmp_path, run=short.run("best"), store=Path(str(store)), image=image)
    teacher = f"local-dir:{small_clip()}"
    run_block(tmp_path, monkeypatch, dataset="demo", root=short.world, teacher=teacher)


def test_a_class_that_is_worse_than_the_teacher_s_is_named(short: Demo) -> None:
    results = demo_results(short)
    own, teacher = (results[row].scores.iou for row in (short.ours, NAMES))
    said = worse_classes(results, short.ours)
    for name, ours, theirs in zip(results[NAMES].classes, own, teacher, strict=True):
        assert (f" {name} (" in said) == (ours < theirs), name
    page = unescape(short.report.read_text(encoding="utf-8"))
    assert said in page
    better = {**results, short.ours: results[NAMES]}
    assert worse_classes(better, short.ours).startswith("Without gamma no class of ours (best)")


def test_where_gamma_was_chosen_is_said_only_where_there_is_one(short: Demo) -> None:
    results = demo_results(short)
    assert GAMMA_NOTE in notes(results, short.ours)
    gamma = f"gamma {results[f'{short.ours}, gamma 0.01'].settings['calibration']:g}"
    assert gamma.removeprefix("gamma ") in GAMMA_NOTE
    without = {row: each for row, each in results.items() if gamma not in row}
    assert GAMMA_NOTE not in notes(without, short.ours)


def test_its_commands_are_the_commands(short: Demo, capsys: pytest.CaptureFixture[str]) -> None:
    """By hand they find everything done: same stores, same runs, same scores."""
    before = short.scores("best").read_bytes()
    page = unescape(short.report.read_text(encoding="utf-8"))
    for command in short.commands():
        assert command in page
        zsseg(*shlex.split(command)[1:])
    assert capsys.readouterr().out.count("nothing to do") == 3
    assert short.scores("best").read_bytes() == before


def test_a_second_time_nothing_is_computed_again(
    short: Demo, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoints = {path: path.stat().st_mtime_ns for path in short.out.rglob("*.safetensors")}
    assert checkpoints
    sets = [word for setting in SHORT for word in ("--set", setting)]
    zsseg("demo", "--out", str(short.out), "--scenes", "15", "--quiet", *sets)
    assert checkpoints == {
        path: path.stat().st_mtime_ns for path in short.out.rglob("*.safetensors")
    }
    printed = capsys.readouterr().out
    for text in ("hIoU", TOKENS, NAMES, "baseline", "ours (best)", ALL_LABELS, str(short.report)):
        assert text in printed
    assert "nothing to do" not in printed


def test_a_folder_in_use_is_refused(short: Demo, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds a demo with"):
        zsseg("demo", "--out", str(short.out), "--scenes", "16")
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(UserError, match="exists and is no demo"):
        zsseg("demo", "--out", str(tmp_path))
    with pytest.raises(UserError, match=r"--method magic: there are best.*sdd_rst"):
        zsseg("demo", "--out", str(tmp_path / "new"), "--method", "magic")
    assert not (tmp_path / "new").exists()
    assert not {"baseline", "free", "full", "full_best"} & set(demo_methods())


def no_progress(done: int, total: int) -> None:
    """Nothing is printed."""


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Tests run side by side, and threads that wait for each other's cores cost more than one."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.timeout(1200)
@pytest.mark.usefixtures("one_thread")
def test_a_student_finds_unseen_classes_by_their_names(tmp_path: Path) -> None:
    """In half a demo; under the names of other things nothing is found, and the run stays.

    About a minute: a student that is trained for less finds nothing. The ceiling's is left out.
    """
    demo = Demo(tmp_path / "demo", "best", ("train.steps=110", "train.workers=0"))
    write_world(demo.world, seed=0, scenes={"train": 70, "val": 20}, progress=no_progress)
    for command in demo.commands():
        if f"demo_{CEILING}" not in command.replace("-", "_"):
            zsseg(*shlex.split(command)[1:], "--quiet")
    ours, baseline = (read_result(demo.scores(each)).scores for each in ("best", "baseline"))
    assert baseline.uiou <= 0.05
    assert ours.uiou >= 0.12
    assert ours.siou >= baseline.siou - 0.05

    description = load_spec("demo").model_dump(mode="json", exclude_none=True)
    description["name"] = "swapped"
    description["names"] = {"traffic cone": "violin", "stroller": "waterfall", "dog": "keyboard"}
    swapped = tmp_path / "swapped.yaml"
    swapped.write_text(yaml.safe_dump(description))
    zsseg("evaluate", "--run", str(run := demo.run("best")), "--dataset", str(swapped), "-q")
    renamed = list(run.glob("evaluation-val-swapped-renamed*.json"))
    assert len(renamed) == 2  # without gamma, and with it
    assert all(read_result(each).scores.uiou <= 0.02 for each in renamed)
    assert read_result(demo.scores("best")).scores == ours
