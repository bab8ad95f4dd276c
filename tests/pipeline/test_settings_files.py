"""Experiments and settings: the files that come with zsseg, `--set`, and what is wrong in them."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from helpers.zsseg_command import called as zsseg

from zsseg.pipeline.settings import (
    apply_settings,
    build,
    experiment_text,
    header,
    read_experiment,
)
from zsseg.stages.errors import UserError
from zsseg.stages.precompute.precompute_config import PrecomputeConfig
from zsseg.stages.train.run_config import RunConfig
from zsseg.stages.yaml_files import builtin_names, parse_yaml

FIXTURES = Path(__file__).parents[1] / "fixtures"
ROOT = Path(__file__).parents[2]


def test_settings_are_typed_and_leave_the_original_alone() -> None:
    values = {"train": {"steps": 5, "seed": 1}}
    merged = apply_settings(
        values, ["train.steps=50", "augmentation.crop=[64, 96]", "train.clip_norm="]
    )
    assert merged == {
        "train": {"steps": 50, "seed": 1, "clip_norm": None},
        "augmentation": {"crop": [64, 96]},
    }
    assert values == {"train": {"steps": 5, "seed": 1}}
    checked = build(RunConfig, merged, where="test")
    assert checked.train.steps == 50
    assert checked.augmentation.crop == (64, 96)


@pytest.mark.parametrize(
    ("text", "value"), [("1e-4", 1e-4), ("1.0e-4", 1e-4), ("2E5", 2e5), ("-3e-2", -0.03), ("1", 1)]
)
def test_numbers_are_numbers_however_they_are_written(text: str, value: float) -> None:
    assert apply_settings({}, [f"a={text}"]) == {"a": value}
    assert apply_settings({}, ["a=tu-e4", "b=1e4x"]) == {"a": "tu-e4", "b": "1e4x"}


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("train.stepz=5", "train.stepz: no such setting; did you mean 'steps'?"),
        ("trian.steps=5", "trian: no such setting; did you mean 'train'?"),
        ("train.steps=many", "train.steps: Input should be a valid integer"),
        ("train.steps='5'", "train.steps: Input should be a valid integer (got '5')"),
        ("train.steps=0", "train.steps: Input should be greater than or equal to 1 (got 0)"),
        ("evaluate.stride=600", "evaluate: stride 600 leaves gaps between windows of 512"),
        ("self_training.method=magic", "self_training.method: Input should be 'none', 'st' or"),
        ("augmentation.scale=[2, 0.5]", "augmentation: scale [2.0, 0.5]: give the smaller"),
        ("augmentation.scale=[0, 1]", "augmentation: scale [0.0, 1.0]: give the smaller"),
        ("augmentation.crop=[64, 31]", "augmentation: crop [64, 31]: each side needs at least 32"),
    ],
)
def test_a_mistake_is_one_line_that_names_the_field(setting: str, message: str) -> None:
    with pytest.raises(UserError) as caught:
        build(RunConfig, apply_settings({}, [setting]), where="test")
    assert message in str(caught.value)


@pytest.mark.parametrize("method", ["st", "rst"])
def test_self_training_needs_a_loss_on_labels(method: str) -> None:
    values = {"objectives": {"cross_entropy": 0, "sdd": 1}, "self_training": {"method": method}}
    with pytest.raises(UserError, match=rf"self_training\.method {method}: pseudo labels are"):
        build(RunConfig, values, where="test")
    values["objectives"] = {"cross_entropy": 0, "focal": 1}
    build(RunConfig, values, where="test")


def test_all_mistakes_are_told_at_once() -> None:
    with pytest.raises(UserError) as caught:
        build(PrecomputeConfig, {"batch": 0, "dense": {"path": "best"}}, where="mine.yaml")
    assert str(caught.value).startswith("mine.yaml: correct these settings:\n")
    assert "batch:" in str(caught.value)
    assert "dense.path:" in str(caught.value)


@pytest.mark.parametrize("setting", ["train.steps", "=5", "train.steps=[1"])
def test_a_malformed_setting_is_refused(setting: str) -> None:
    with pytest.raises(UserError, match="--set"):
        apply_settings({}, [setting])


def test_an_unknown_experiment_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(UserError, match="did you mean 'sdd_rst'"):
        read_experiment("sdd-rst")


def test_a_file_that_is_no_mapping_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("- a\n- b\n")
    with pytest.raises(UserError, match="a mapping of settings"):
        read_experiment(str(path))


@pytest.mark.parametrize("name", builtin_names("experiments"))
def test_an_experiment_states_what_differs_and_how_to_run_it(name: str) -> None:
    text = experiment_text(name)
    values = parse_yaml(text, where=name)
    assert as_json(build(RunConfig, values, where=name), exclude_defaults=True) == values
    top = header(text)
    (command,) = re.findall(r"^#   zsseg train --cache data_cache/ (.*)$", top, re.MULTILINE)
    named = re.search(r"--config (\S+)", command)
    assert named
    assert named[1] == name
    assert "# Hardware: " in top
    if document := re.search(r"^# Measured: (\S+) has the table", top, re.MULTILINE):
        assert re.search(rf"^\| `{name}`", (ROOT / document[1]).read_text(), re.MULTILINE)
    else:
        assert "# Measured here: not yet" in top


def test_the_experiments_are_what_they_were_when_their_files_held_every_setting() -> None:
    """Settings that came later are not in that list, and count as changed nothing."""
    before = json.loads((FIXTURES / "experiments_resolved.json").read_text())
    for name, sections in before.items():
        now = as_json(build(RunConfig, read_experiment(name), where=name))
        assert now["protocol"] == sections.pop("protocol"), name
        for section, values in sections.items():
            assert {key: now[section][key] for key in values} == values, f"{name}: {section}"


def as_json(config: RunConfig, *, exclude_defaults: bool = False) -> dict[str, Any]:
    return config.model_dump(mode="json", exclude_defaults=exclude_defaults)


def test_the_methods_differ_in_nothing_but_their_method() -> None:
    """A comparison of experiments must compare methods, not steps or crops."""
    for family in ("", "camvid_", "demo_"):
        baseline = build(RunConfig, read_experiment(f"{family}baseline"), where="baseline")
        for method in ("st", "rst", "sdd", "sdd_rst", "c2s", "dense", "teacher"):
            other = build(RunConfig, read_experiment(f"{family}{method}"), where=method)
            for section in ("student", "augmentation", "train", "evaluate"):
                assert getattr(other, section) == getattr(baseline, section), (family, method)


@pytest.mark.parametrize("name", ["camvid_best", "baseline"])
def test_the_whole_of_an_experiment_can_be_printed_copied_and_edited(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    expected = build(RunConfig, read_experiment(name), where=name)
    mine = tmp_path / "mine.yaml"
    for source in (name, mine):
        zsseg("config", "show", source)
        shown = capsys.readouterr().out
        mine.write_text(shown)
        assert header(shown) == header(experiment_text(name))
        values = read_experiment(str(mine))
        assert build(RunConfig, values, where="mine") == expected
        assert list(values) == list(RunConfig.model_fields)
        for section, fields in values.items():
            model = type(getattr(expected, section))
            assert section == "protocol" or list(fields) == list(model.model_fields)


def test_what_is_changed_can_be_printed_alone(capsys: pytest.CaptureFixture[str]) -> None:
    zsseg("config", "show", "rst", "--changed", "--set", "augmentation.crop=[64, 96]")
    shown = capsys.readouterr().out
    assert "  crop: [64, 96]\n" in shown
    assert parse_yaml(shown, where="shown") == read_experiment("rst") | {
        "augmentation": {"crop": [64, 96]}
    }
