"""`zsseg config`: every setting with its meaning, files checked, a schema, two sets compared."""

import json
from pathlib import Path
from typing import Any

import pytest
from helpers.changed_settings import setting_names
from helpers.colour_run import record
from helpers.zsseg_command import zsseg
from pydantic import BaseModel

from zsseg.pipeline.setting_text import STAGES, explained_yaml, schema
from zsseg.stages.data.spec import load_spec
from zsseg.stages.precompute.precompute_config import PrecomputeConfig
from zsseg.stages.train.run_config import RunConfig
from zsseg.stages.yaml_files import parse_yaml

MODELS = list(STAGES)


@pytest.mark.parametrize("model", MODELS)
def test_each_setting_says_what_it_means_and_reads_back(model: type[BaseModel]) -> None:
    values = model().model_dump(mode="json")
    text = explained_yaml(model, values)
    assert parse_yaml(text, where="text") == values
    lines = text.splitlines()
    assert max(map(len, lines)) <= 100
    for number, line in enumerate(lines):
        is_section = line.endswith(":")
        if not (line.lstrip().startswith("#") or is_section):
            above = lines[number - 1]
            indent = len(line) - len(line.lstrip())
            assert above.startswith(" " * indent + "# ") or line.lstrip().startswith("- "), line
    said = " ".join(text.replace("#", "").split())
    assert said.count("; default ") == len(list(setting_names(model)))


def test_show_has_unit_source_kind_and_default(capsys: pytest.CaptureFixture[str]) -> None:
    assert zsseg("config", "show", "best") == 0
    shown = " ".join(capsys.readouterr().out.replace("#", "").split())
    assert "Crops per step, of all processes together (paper 1: 16). (int; default 16)" in shown
    assert zsseg("config", "show", "best", "--plain") == 0
    assert "Crops per step" not in capsys.readouterr().out


def test_settings_of_stage_one_are_shown_the_same_way(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert zsseg("config", "show", "precompute", "--set", "views.number=4") == 0
    shown = capsys.readouterr().out
    assert "Crops per image beside the whole image." in shown
    mine = tmp_path / "mine.yaml"
    mine.write_text(shown)
    assert PrecomputeConfig.model_validate_json(
        json.dumps(parse_yaml(shown, where="shown"))
    ) == PrecomputeConfig.model_validate_json('{"views": {"number": 4}}')
    assert zsseg("config", "validate", mine) == 0
    said = capsys.readouterr().out
    assert "fine, for `zsseg precompute`; 1 setting not the default" in said


def test_validate_names_every_mistake_of_every_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good, bad, worse = (tmp_path / f"{name}.yaml" for name in ("good", "bad", "worse"))
    good.write_text("train: {steps: 7}\n")
    bad.write_text("train: {steps: many, bacth: 4}\n")
    worse.write_text("dense: {size: 3}\n")
    assert zsseg("config", "validate", good, bad, worse) == 2
    shown = capsys.readouterr()
    assert f"{good}: fine, for `zsseg train`; 1 setting not the default" in shown.out
    for text in ("train.steps: ", "did you mean 'batch'?", f"{bad}: correct", "dense.size: "):
        assert text in shown.err
    described = tmp_path / "world.yaml"
    described.write_text("classes: [a, b]\n")
    assert zsseg("config", "validate", described) == 2
    assert "describes a data set" in capsys.readouterr().err


def fields_of(fields: dict[str, Any], sections: dict[str, Any], within: str = "") -> set[str]:
    names = set()
    for name, field in fields.items():
        if "$ref" in field:
            section = sections[field["$ref"].rpartition("/")[2]]
            assert section["additionalProperties"] is False
            names |= fields_of(section["properties"], sections, f"{within}{name}.")
        else:
            assert field["description"], name
            names.add(f"{within}{name}")
    return names


@pytest.mark.parametrize("model", MODELS)
def test_the_schema_has_every_setting_with_its_meaning(
    model: type[BaseModel], capsys: pytest.CaptureFixture[str]
) -> None:
    made = schema(model)
    assert fields_of(made["properties"], made["$defs"]) == set(setting_names(model))
    assert zsseg("config", "schema", STAGES[model]) == 0
    assert json.loads(capsys.readouterr().out) == json.loads(json.dumps(made))


def test_diff_compares_experiments_files_and_runs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "first"
    run.mkdir()
    config = RunConfig.model_validate({"train": {"steps": 7}})
    (run / "run.json").write_text(record(load_spec("camvid"), config).model_dump_json())
    defaults = tmp_path / "defaults.yaml"
    defaults.write_text("{}\n")
    assert zsseg("config", "diff", defaults, run) == 0
    assert capsys.readouterr().out == "train.steps: defaults.yaml 80000, first 7\n"
    assert zsseg("config", "diff", run, run) == 0
    assert "the same settings" in capsys.readouterr().out
    assert zsseg("config", "diff", "best", "free") == 0
    assert "objectives.sdd: best 0.5, free 0.0" in capsys.readouterr().out
    assert zsseg("config", "diff", "best", "precompute") == 2
    assert "none in common" in " ".join(capsys.readouterr().err.split())
