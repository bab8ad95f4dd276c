"""`zsseg demo` end to end, shortened, and what its student has learnt."""

import shlex
from collections.abc import Iterator
from html import unescape
from pathlib import Path

import pytest
import torch
import yaml
from helpers.zsseg_command import called as zsseg
from helpers.zsseg_command import zsseg as zsseg_main

from zsseg.pipeline.demo.demo_run import GAMMA_NOTE, Demo, demo_methods
from zsseg.stages.data.spec import load_spec
from zsseg.stages.errors import UserError
from zsseg.stages.evaluate.result import read_result

SHORT = ("train.steps=4", "train.warmup_steps=1", "train.batch=2", "train.log_every=2")


@pytest.fixture(scope="module")
def short(tmp_path_factory: pytest.TempPathFactory) -> Demo:
    """A demo of 15 + 3 scenes and 4 steps: nine commands, 25 s on two busy cores."""
    out = tmp_path_factory.mktemp("demo") / "demo"
    sets = [word for setting in SHORT for word in ("--set", setting)]
    zsseg("demo", "--out", str(out), "--scenes", "15", "--quiet", *sets)
    return Demo(out, "best", ("train.seed=0", *SHORT))


def test_a_demo_leaves_everything_a_person_wants(short: Demo) -> None:
    assert len(list((short.world / "images" / "val").iterdir())) == 3
    for method in ("baseline", "best"):
        assert short.scores(method).name == "evaluation-val-gamma0.02.json"
        assert short.scores(method).is_file()
        assert (short.run(method) / "evaluation-val.json").is_file()
    overlays = list((short.out / "predictions").glob("*_overlay.png"))
    assert len(overlays) == 3
    page = short.report.read_text(encoding="utf-8")
    for text in ("teacher alone", "baseline", "ours (best)", "traffic cone", "<svg"):
        assert text in page
    assert page.count("data:image/png;base64,") == 3 * 5
    rows = ["teacher alone", "baseline", "ours (best)", "baseline, gamma 0.02"]
    places = [page.index(f"<td>{name}</td>") for name in [*rows, "ours (best), gamma 0.02"]]
    assert places == sorted(places)
    assert GAMMA_NOTE in page


def test_gamma_was_chosen_on_scenes_that_no_demo_draws(tmp_path: Path) -> None:
    assert "seed 1000" in GAMMA_NOTE
    assert zsseg_main("demo", "--out", tmp_path / "demo", "--seed", 1000) == 2


def test_its_commands_are_the_commands(short: Demo, capsys: pytest.CaptureFixture[str]) -> None:
    """By hand they find everything done: same stores, same runs, same scores."""
    before = short.scores("best").read_bytes()
    page = unescape(short.report.read_text(encoding="utf-8"))
    for command in short.commands():
        assert command in page
        zsseg(*shlex.split(command)[1:])
    assert capsys.readouterr().out.count("nothing to do") == 2
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
    for text in ("hIoU", "teacher alone", "baseline", "ours (best)", str(short.report)):
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
    assert "baseline" not in demo_methods()


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

    About a minute: a student that is trained for less finds nothing.
    """
    demo = Demo(tmp_path / "demo", "best", ())
    shorter = ("--scenes", "100", "--set", "train.steps=110", "--set", "train.workers=0")
    zsseg("demo", "--out", str(demo.out), "--quiet", *shorter)
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
