"""What is wrong with values, in one line per mistake, for whichever file they stand in."""

from pathlib import Path

import pytest
from helpers.drawn_world import WORLD
from pydantic import BaseModel, ConfigDict, ValidationError

from zsseg.stages.data.spec import load_spec
from zsseg.stages.errors import DatasetError
from zsseg.stages.validation_errors import error_lines


class Wheel(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)
    radius: float
    spokes: int = 20


class Bicycle(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)
    name: str = "tourer"
    wheels: tuple[Wheel, ...] = ()
    spare: Wheel | None = None


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ('{"nane": 1}', ["nane: no such setting; did you mean 'name'?"]),
        ('{"x": 1}', ["x: no such setting; known here: name, spare, wheels"]),
        (
            '{"wheels": [{"radius": 1, "spoke": 2}], "spare": {"radios": 1}}',
            [
                "wheels.0.spoke: no such setting; did you mean 'spokes'?",
                "spare.radius: Field required",
                "spare.radios: no such setting; did you mean 'radius'?",
            ],
        ),
        ('{"name": 5}', ["name: Input should be a valid string (got 5)"]),
        (f'{{"name": {[9] * 80}}}', ["name: Input should be a valid string (got ["]),
        ('{"name": "a"', ["Invalid JSON: EOF while parsing an object at line 1 column 12"]),
    ],
)
def test_a_line_names_the_place_and_what_was_meant(text: str, lines: list[str]) -> None:
    with pytest.raises(ValidationError) as caught:
        Bicycle.model_validate_json(text)
    found = error_lines(Bicycle, caught.value)
    assert [line[: len(start)] for line, start in zip(found, lines, strict=True)] == lines
    assert all(len(line) < 160 for line in found)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("unseenn: [box]\n", "unseenn: no such setting; did you mean 'unseen'?"),
        ("about: [1\n", "world.yaml: not valid YAML"),
        ("ignore: [1e0, 1.5]\n", "ignore.1: Input should be a valid integer"),
        ("unseen: [off]\n", "unseen.0: Input should be a valid string (got False); YAML reads"),
        ("about: on\n", 'so: write them in quotes, "yes"'),
        ("about: ~\n", "about: Input should be a valid string (got None); YAML reads null"),
        ("about: 1.5\n", '(got 1.5); write it in quotes: "1.5"'),
        ("about: 2024-03-01\n", 'write it in quotes: "2024-03-01"'),
        ("unseen: ball, box\n", "(got 'ball, box'); write a list: [ball, box]"),
        ("unseen: {0: ball, 1: box}\n", "(got {0: 'ball', 1: 'box'}); write a list: [ball, box]"),
    ],
)
def test_a_data_set_description_is_read_by_the_same_rules(
    tmp_path: Path, change: str, said: str
) -> None:
    path = tmp_path / "world.yaml"
    key = change.partition(":")[0]
    kept = [line for line in WORLD.splitlines(keepends=True) if not line.startswith(f"{key}:")]
    path.write_text("".join(kept) + change)
    with pytest.raises(DatasetError) as caught:
        load_spec(str(path))
    assert said in str(caught.value)
    assert "ignore.0" not in str(caught.value)  # 1e0 is the number 1 here too
