from pathlib import Path

import pytest
import yaml

from zsseg.pipeline.settings import apply_settings, build, read_experiment
from zsseg.stages.errors import UserError
from zsseg.stages.precompute.precompute_config import PrecomputeConfig
from zsseg.stages.train.run_config import RunConfig
from zsseg.stages.yaml_files import builtin_names


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
    assert str(caught.value).startswith("mine.yaml:\n")
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
def test_every_experiment_is_complete_and_says_how_to_run_it(name: str) -> None:
    path = Path("configs/experiments") / f"{name}.yaml"
    values = yaml.safe_load(path.read_text())
    checked = build(RunConfig, values, where=name).model_dump(mode="json")
    assert {section: set(fields) for section, fields in values.items()} == {
        section: set(fields) for section, fields in checked.items()
    }
    header = path.read_text().split("student:")[0]
    assert "zsseg train --cache data_cache/" in header
    assert "Hardware:" in header
    assert "Measured" in header


def test_the_methods_differ_in_nothing_but_their_method() -> None:
    """A comparison of experiments must compare methods, not steps or crops."""
    for family in ("", "camvid_", "demo_"):
        baseline = read_experiment(f"{family}baseline")
        for method in ("st", "rst", "sdd", "sdd_rst", "c2s", "dense", "teacher"):
            other = read_experiment(f"{family}{method}")
            for section in ("student", "augmentation", "train", "evaluate"):
                assert other[section] == baseline[section], f"{family}{method}: {section}"
