"""`zsseg student info`: published figures, what is counted, the command and its mistakes."""

import json

import pytest
import torch
from typer.testing import CliRunner

from zsseg.pipeline.cli.main import app, main
from zsseg.stages.errors import UserError
from zsseg.stages.train.run_config import StudentConfig
from zsseg.stages.train.students.student import build_student
from zsseg.stages.train.students.student_info import (
    PAPERS,
    multiply_adds,
    named_student,
    student_info,
)

run = CliRunner().invoke


@pytest.mark.parametrize(
    ("name", "millions", "billions"),
    [
        ("segnext/mscan_t", 4.3, 6.6),  # Guo et al., table 3
        ("segnext/mscan_s", 13.9, 15.9),
        ("segnext/mscan_b", 27.6, 34.9),
    ],
)
def test_published_costs(name: str, millions: float, billions: float) -> None:
    info = student_info(named_student(name), width=150, size=512, device=None)
    assert info.parameters / 1e6 == pytest.approx(millions, rel=0.02)
    assert info.multiply_adds / 1e9 == pytest.approx(billions, rel=0.035)
    assert info.images_per_second is None


@pytest.mark.parametrize(
    ("name", "millions", "billions"),
    [("segformer/mit_b0", 3.8, 8.4), ("segformer/mit_b1", 13.7, 15.9)],  # Xie et al., table 1
)
def test_published_costs_less_what_fusing_first_saves(
    name: str, millions: float, billions: float
) -> None:
    info = student_info(named_student(name), width=150, size=512, device=None)
    assert info.parameters / 1e6 == pytest.approx(millions, rel=0.02)
    # 4 x 256 channels to 256 at stride 4; and at each stage's own stride instead.
    late = 4 * 256 * 256 * 128**2
    early = 256 * 256 * sum((512 // stride) ** 2 for stride in (4, 8, 16, 32))
    whole = info.multiply_adds + late - early
    assert whole / 1e9 == pytest.approx(billions, rel=0.035)


def test_multiply_adds_of_attention_by_hand() -> None:
    """A ViT whose every product is written out: patches, blocks, the 1 x 1 head, the projection."""
    config = StudentConfig(architecture="setr_naive", encoder="vit_tiny_patch16_224")
    student = build_student(config, 10, pretrained=False).eval()
    patches, width, blocks = 16, 192, 12
    tokens = patches + 1
    block = tokens * width * width * (3 + 1 + 4 + 4) + 2 * tokens * tokens * width
    head = patches * (width * 256 + 256 * 10)
    assert multiply_adds(student, 64) == patches * width * 3 * 256 + blocks * block + head
    assert next(student.parameters()).device.type == "cpu"


def test_the_projection_is_counted() -> None:
    narrow, wide = (
        student_info(named_student("segnext/mscan_t"), width=width, size=64, device=None)
        for width in (1, 101)
    )
    assert wide.parameters - narrow.parameters == 100 * 257
    assert wide.multiply_adds - narrow.multiply_adds == 100 * 256 * 8 * 8


def test_speed_is_measured_on_a_device() -> None:
    info = student_info(
        named_student("fpn/mobilenet_v2"), width=4, size=40, device=torch.device("cpu")
    )
    assert info.images_per_second is not None
    assert info.images_per_second > 0
    assert (info.stride, info.size) == (4, 40)


def test_the_students_of_the_papers() -> None:
    families = [name.partition("/")[0] for name in PAPERS]
    assert families.count("segformer") == 6
    assert families.count("segnext") == 4
    assert len(set(PAPERS)) == len(PAPERS) == 13


@pytest.mark.parametrize("name", ["segformer", "segformer/", "/mit_b0", ""])
def test_a_name_needs_both_parts(name: str) -> None:
    with pytest.raises(UserError, match="ARCHITECTURE/ENCODER"):
        named_student(name)


def test_the_command_prints_a_table() -> None:
    chosen = ["segnext/mscan_t", "fpn/resnet18", "setr_naive/vit_tiny_patch16_224"]
    done = run(app, ["student", "info", *chosen, "--no-speed", "--size", "64", "--width", "8"])
    assert done.exit_code == 0, done.output
    header, *lines = done.stdout.splitlines()
    assert "FPS" not in header
    assert [line.split()[:2] for line in lines[:3]] == [name.split("/") for name in chosen]
    assert [line.split()[-1] for line in lines[:3]] == ["8", "4", "16"]
    assert "one multiplication and one addition counted as one" in lines[3]
    assert "64 x 64 pixels, projection to 8 channels" in lines[3]


def test_the_command_measures_speed_and_writes_json() -> None:
    options = ["--size", "32", "--width", "8", "--device", "cpu"]
    done = run(app, ["student", "info", "segnext/mscan_t", *options, "--json"])
    (row,) = json.loads(done.stdout)
    speed = row.pop("images_per_second")
    assert speed > 0
    expected = student_info(named_student("segnext/mscan_t"), width=8, size=32, device=None)
    assert row == {
        "architecture": "segnext",
        "encoder": "mscan_t",
        "width": 8,
        "size": 32,
        "parameters": expected.parameters,
        "multiply_adds": expected.multiply_adds,
        "stride": 8,
        "device": "cpu",
    }
    done = run(app, ["student", "info", "segnext/mscan_t", *options])
    assert "FPS" in done.stdout.splitlines()[0]
    assert done.stdout.rstrip().endswith("float32, cpu")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["segformer"], "give ARCHITECTURE/ENCODER"),
        (["segformers/mit_b0"], "'segformers' is not known"),
        (["segnext/mit_b0"], "mscan_t, mscan_s"),
        (["setr_pup/resnet18"], "no plain ViT"),
    ],
)
def test_mistakes_are_one_message(
    arguments: list[str],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("sys.argv", ["zsseg", "student", "info", *arguments, "--no-speed"])
    with pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code == UserError.exit_code
    assert message in capsys.readouterr().err
