"""`zsseg cache verify` as a person types it: what it prints, and its exit code."""

import shutil
from pathlib import Path

import pytest
from helpers.clip_store import CONFIG, content, load_once, make
from helpers.drawn_world import draw_world
from helpers.zsseg_command import zsseg

from zsseg.stages.cache.disk.lock import locked


def verify(*words: object) -> int:
    return zsseg("cache", "verify", *words)


@pytest.fixture(autouse=True)
def one_teacher(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zsseg.stages.precompute.teacher.clip_teacher.load_teacher", load_once)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, tiny_clip: str) -> Path:
    """A store of six images, which no test changes."""
    place = tmp_path_factory.mktemp("made")
    return make(draw_world(place / "world", images=6), tiny_clip, place / "cache", CONFIG)


@pytest.fixture
def path(made: Path, tmp_path: Path) -> Path:
    """A copy of it to damage."""
    return Path(shutil.copytree(made, tmp_path / made.name))


def flip(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)


def test_a_sound_store(made: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert verify(made) == 0
    assert "intact (sizes compared; --read-data compares the bytes)" in capsys.readouterr().out
    assert verify(made, "--read-data") == 0
    assert "intact (every byte compared)" in capsys.readouterr().out
    assert verify(made, "--repair", "-q") == 0
    shown = capsys.readouterr()
    assert "intact (every byte compared)" in shown.out
    assert shown.err == ""


def test_each_part_says_which_it_is_and_how_much(
    made: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in (1, 2, 3):
        assert verify(made, "--subset", f"{number}/3") == 0
        shown = capsys.readouterr().out
        assert f"part {number} of 3 of the data compared" in shown
        assert f": {(4, 4, 3)[number - 1]} of 11 shards, " in shown


@pytest.mark.parametrize("subset", ["0/5", "6/5", "1/0", "a", "1", "1/5/5", "-1/5", "1.5/2"])
def test_no_such_part_is_a_wrong_argument(
    made: Path, capsys: pytest.CaptureFixture[str], subset: str
) -> None:
    assert verify(made, f"--subset={subset}") == 2
    assert f"--subset {subset}: give K/N" in capsys.readouterr().err


def test_damage_is_named_and_repaired(
    made: Path, path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flip(path / "dense" / "c.0.0.0.0")
    (path / "ledger" / "cls" / "000001.json").unlink()
    assert verify(path, "--read-data") == 5
    shown = capsys.readouterr()
    dense, receipt = sorted(shown.out.splitlines())
    assert str(path / "dense" / "c.0.0.0.0") in dense
    assert "(array dense; 4 images: scene_000, scene_001, scene_002, ...)" in dense
    assert "missing (receipt of cls; 2 images: scene_004, scene_005)" in receipt
    assert f"2 damaged or missing files. `zsseg cache verify {path} --repair`" in shown.err
    assert verify(path, "--repair") == 0
    shown = capsys.readouterr()
    assert "computed again: dense 4, cls 2\n" in shown.out
    assert "equal byte for byte" in shown.out
    assert content(path) == content(made)
    assert verify(path, "--read-data") == 0


@pytest.mark.parametrize("names", [("zarr.json",), ("zarr.json", "seal.json"), ("seal.json",)])
def test_a_store_that_lost_its_description_is_still_one(
    made: Path, path: Path, capsys: pytest.CaptureFixture[str], names: tuple[str, ...]
) -> None:
    for name in names:
        (path / name).unlink()
    assert verify(path) == 5
    shown = capsys.readouterr()
    for name in names:
        assert f"{path / name}: " in shown.out
    assert "--repair" in shown.err
    assert verify(path, "--repair") == 0
    assert "computed again: nothing, metadata only" in capsys.readouterr().out
    assert content(path) == content(made)


def test_a_store_that_is_written_is_left_alone(
    path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flip(path / "dense" / "c.0.0.0.0")
    with locked(path):
        assert verify(path, "--repair") == 6
    assert "writes this store" in capsys.readouterr().err


def test_against_the_teacher(made: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert verify(made, "--against-teacher", 3, "--device", "cpu") == 0
    shown = capsys.readouterr().out
    assert "cls: 3 images, cosine mean 1.0000000, worst " in shown
    assert "regions: 3 images, adjusted Rand index mean 1.0000000" in shown
    assert "text: 4 classes" in shown
    assert "agrees with its teacher, on 3 images" in shown


def test_what_the_teacher_does_not_say_is_named(
    made: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another library would resize images otherwise."""
    from zsseg.stages.data.images import resize_image

    def bilinear(image: object, size: object, **_: object) -> object:
        return resize_image(image, size, interpolation="bilinear")  # type: ignore[arg-type]

    monkeypatch.setattr("zsseg.stages.precompute.teacher.clip_teacher.resized", bilinear)
    assert verify(made, "--against-teacher", 16) == 5
    shown = capsys.readouterr().err
    assert "the teacher's output differs from what is stored: " in shown
    assert "dense (worst cosine" in shown
    assert "scene_00" in shown
    assert "text" not in shown.split("what is stored: ")[1].split(". If --read-data")[0]
