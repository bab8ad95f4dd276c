"""The README.md of a store."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml
from helpers.seven_row_store import IDENTITY, artifacts, content, fill, make_store, open_writer

from zsseg.stages.cache.reader import Store
from zsseg.stages.cache.verify import verify_store
from zsseg.stages.data.spec import load_spec
from zsseg.stages.precompute.plan.store_command import store_command
from zsseg.stages.precompute.precompute_config import PrecomputeConfig


def card(store: Path) -> str:
    return (store / "README.md").read_text(encoding="utf-8")


def test_the_card_says_what_a_store_holds(tmp_path: Path) -> None:
    path = tmp_path / "store"
    identity = IDENTITY | {"classes": ["sky", "ball|game", "*"], "unseen": ["*"]}
    with open_writer(path, identity=identity) as writer:
        fill(writer)
        writer.seal(command="zsseg precompute --dataset tiny-world")
    text = card(path)
    assert text.startswith("# tiny-world, train\n")
    assert "- Images: 7 (1 could not be used: their rows are zero)" in text
    assert "- Seen classes (2): sky, ball\\|game\n- Unseen classes (1): \\*" in text
    assert "- Teacher: local-dir:clip" in text
    assert f"- Fingerprint: {Store.open(path).fingerprint}" in text
    data = sum((path / "dense" / f"c.{shard}.0.0.0").stat().st_size for shard in range(3))
    data += sum((path / "norm" / f"c.{shard}").stat().st_size for shard in range(3))
    assert f"| dense | `dense` 7x8x48x64 float16, `norm` 7 float32 | {data:,} |" in text
    assert "```\nzsseg precompute --dataset tiny-world\n```" in text
    assert '"merge_threshold": 0.9' in text
    assert "licence" in text
    assert str(tmp_path) not in text


def test_the_python_on_the_card_runs(tmp_path: Path) -> None:
    path = make_store(tmp_path / "store")
    blocks = [part.partition("```")[0] for part in card(path).split("```python\n")[1:]]
    assert len(blocks) == 2
    for block in blocks:
        *lines, last = block.strip().splitlines()
        names: dict[str, object] = {}
        exec("\n".join(lines).replace("THIS_FOLDER", str(path)), names)
        value = eval(last.replace("THIS_FOLDER", str(path)), names)
        assert isinstance(value, np.ndarray)


def test_the_card_is_no_content_and_the_next_seal_restores_it(tmp_path: Path) -> None:
    path = make_store(tmp_path / "store")
    before, fingerprint, text = content(path), Store.open(path).fingerprint, card(path)
    (path / "README.md").write_text("my notes")
    assert Store.open(path).fingerprint == fingerprint
    (path / "README.md").unlink()  # as of a store made before there were cards
    assert verify_store(path, read_data=True) == []
    seal = (path / "seal.json").stat().st_mtime_ns
    with open_writer(path) as writer:
        assert fill(writer) == {}
        writer.seal()
    assert card(path) == text
    assert content(path) == before
    assert (path / "seal.json").stat().st_mtime_ns == seal
    with open_writer(path, artifacts=artifacts(threshold=0.8), update=True) as writer:
        fill(writer)
        writer.seal()
    assert '"merge_threshold": 0.8' in card(path)


def test_equal_stores_have_equal_cards_whatever_the_teacher_is_called(tmp_path: Path) -> None:
    first, second = make_store(tmp_path / "a"), make_store(tmp_path / "b")
    assert card(first) == card(second)
    shutil.rmtree(second)
    with open_writer(first, info={"teacher": "renamed", "names": {"ball": "toy ball"}}) as writer:
        writer.seal()
    assert "- Teacher: local-dir:clip" in card(first)


def test_a_card_is_no_reason_to_fail(tmp_path: Path) -> None:
    path = make_store(tmp_path / "store")
    file = path / "status" / "c.0"
    data = file.read_bytes()
    file.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))  # a flipped bit, which only reading finds
    with open_writer(path) as writer:
        writer.seal()
    assert "- Images: 7\n" in card(path)


def test_a_store_without_status_or_classes_has_a_card(tmp_path: Path) -> None:
    with open_writer(
        tmp_path / "store",
        identity={"dataset": "d", "split": "s"},
        artifacts=artifacts()[1:2],
    ) as writer:
        fill(writer)
        writer.seal()
    assert "- Images: 7\n- Seen classes (0): none" in card(tmp_path / "store")


def test_the_command_has_what_is_not_the_default() -> None:
    spec = load_spec("camvid")
    plain = store_command(spec, "train", None, PrecomputeConfig())
    assert plain == (
        "zsseg precompute --dataset camvid --root FOLDER --split train \\\n  --teacher TEACHER"
    )
    config = PrecomputeConfig.model_validate_json(
        '{"dense": {"size": [64, 96]}, "batch": 2, "device": "cpu", "regions": {"windows": [4]}}'
    )
    text = store_command(spec, "train", 3, config)
    words = text.replace(" \\\n", "").split("  ")
    assert words[1:] == [
        "--teacher TEACHER",
        "--limit 3",
        "--set 'dense.size=[64, 96]'",
        "--set 'regions.windows=[4]'",
    ]
    assert yaml.safe_load(words[3].split("=")[1].strip("'")) == [64, 96]


@pytest.mark.parametrize("name", ["README.md", ".used"])
def test_files_that_are_no_content_do_not_stop_a_store_from_being_made(
    tmp_path: Path, name: str
) -> None:
    path = make_store(tmp_path / "store")
    (path / name).touch()
    with open_writer(path, artifacts=artifacts(threshold=0.7), update=True) as writer:
        fill(writer)
        writer.seal()
    assert verify_store(path, read_data=True) == []
