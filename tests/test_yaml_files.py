"""YAML that is given: bombs, loops and keys given twice are refused in one line."""

from pathlib import Path

import pytest

from zsseg.pipeline.settings import apply_settings, read_values
from zsseg.stages.data.spec import load_spec
from zsseg.stages.errors import DatasetError, UserError
from zsseg.stages.yaml_files import parse_yaml

_LEVELS = "\n".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 12))
BOMB = f"a0: &a0 [x, x]\n{_LEVELS}\n"
HARMFUL = {
    BOMB: "aliases stand for more than",
    "a: &a [*a]": "contains itself",
    "a: &a {b: *a}": "contains itself",
    "[" * 5000: "too deep",
    "train: {steps: 1}\ntrain: {steps: 2}": "'train' is given twice, again in line 2",
    "a: {b: 1, c: 2, b: 3}": "'b' is given twice",
    "day: 2024-13-45": "not valid YAML",
    "a: " + "9" * 10_000: "not valid YAML",
    "[" + "1, " * 2_000_000 + "]": "6,000,002 characters",
}


@pytest.mark.parametrize("text", HARMFUL, ids=HARMFUL.values())
def test_harmful_text_is_one_message(tmp_path: Path, text: str) -> None:
    path = tmp_path / "a.yaml"
    path.write_text(text)
    reason = HARMFUL[text]
    with pytest.raises(UserError, match=rf"a\.yaml: .*{reason}"):
        read_values(path)
    with pytest.raises(DatasetError, match=rf"a\.yaml: .*{reason}"):
        load_spec(str(path))
    if "\n" not in text:
        with pytest.raises(UserError, match=rf"--set a\.b=.*{reason}"):
            apply_settings({}, [f"a.b={{{text}}}" if ": " in text else f"a.b={text}"])


def test_a_shared_value_may_be_used_again() -> None:
    text = "crop: &side [64, 64]\nsize: *side\nboth: [*side, *side]"
    assert parse_yaml(text, where="x")["both"] == [[64, 64], [64, 64]]
