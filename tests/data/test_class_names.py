"""Class names that a text encoder cannot tell apart are refused in descriptions."""

from pathlib import Path

import pytest

from zsseg.stages.data.class_names import equal_names, names_of, normal_form
from zsseg.stages.data.spec import DatasetSpec, load_spec
from zsseg.stages.errors import DatasetError
from zsseg.stages.yaml_files import builtin_names

LIGATURE = "\ufb01eld"
THREE = "classes: [road, bus, coach]"


def description(folder: Path, lines: str) -> str:
    path = folder / "mine.yaml"
    path.write_text(f"name: mine\nlayout: folder\npatterns: {{}}\n{lines}", encoding="utf-8")
    return str(path)


@pytest.mark.parametrize(
    ("lines", "named"),
    [
        (f"{THREE}\nnames: {{bus: van, coach: Van}}", ("'bus' and 'coach'", "Van")),
        (f"{THREE}\nnames: {{bus: coach}}", ("'bus'", "another class, 'coach'")),
        (f"{THREE}\nnames: {{bus: coach, coach: vehicle}}", ("another class, 'coach'",)),
        ("classes: [road, ROAD, sky]", ("'road' and 'ROAD'",)),
        ("classes: [traffic light, 'traffic  light', sky]", ("'traffic  light'",)),
        (f"classes: [{LIGATURE}, field]", (f"'{LIGATURE}' and 'field'",)),
        ("classes: [road, 'sky ']", ("write 'sky'",)),
        ("classes: [road, sky]\nnames: {sky: '  '}", ("is empty",)),
        ('classes: [road, "sk\\ey"]', ("no text",)),
        (f"{THREE}\nnames: {{bus: [van, COACH]}}", ("'bus'", "another class, 'coach'")),
        (f"{THREE}\nnames: {{bus: [bus, van], coach: [tram, Van]}}", ("'bus' and 'coach'", "Van")),
        (f"{THREE}\nnames: {{bus: [tram, Tram]}}", ("'bus' 'tram' and 'Tram'",)),
        (f"{THREE}\nnames: {{bus: [tram, '']}}", ("is empty",)),
        (f"{THREE}\nnames: {{bus: []}}", ("is empty",)),
        (f"{THREE}\nnames: {{bus: [tram, 3]}}", ("names.bus", "3")),
        ("classes: [road, car|van, Van]", ("'van' and 'Van'",)),
    ],
)
def test_names_that_are_one_are_refused(tmp_path: Path, lines: str, named: tuple[str, ...]) -> None:
    with pytest.raises(DatasetError) as caught:
        load_spec(description(tmp_path, lines))
    assert all(words in str(caught.value) for words in named)


def test_a_class_may_have_its_own_name_in_other_letters(tmp_path: Path) -> None:
    lines = "classes: [Road, sky]\nnames: {Road: road, sky: blue sky}"
    assert load_spec(description(tmp_path, lines)).prompt_names == ("road", "blue sky")


@pytest.mark.parametrize("names", ["[road, street , lane]", "road|street | lane"])
def test_a_class_may_have_several_names(tmp_path: Path, names: str) -> None:
    spec = load_spec(description(tmp_path, f"classes: [road, sky]\nnames: {{road: {names}}}"))
    assert spec.prompt_names == ("road|street|lane", "sky")
    assert names_of(spec.prompt_names[0]) == ("road", "street", "lane")
    assert DatasetSpec.model_validate_json(spec.model_dump_json()) == spec


@pytest.mark.parametrize("name", builtin_names("datasets"))
def test_those_that_come_with_zsseg_are_told_apart(name: str) -> None:
    assert load_spec(name).classes


def test_normal_form() -> None:
    assert normal_form("  Stra\u00dfe\tA ") == "strasse a"
    assert equal_names(["a", "B", "A", "b ", "a"]) == [("a", "A"), ("B", "b "), ("a", "a")]
