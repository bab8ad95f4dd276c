"""Towers of docs/teachers.md: the path they take, their width and stride; without weights.

The first of each line; ZSSEG_WALK=all builds all of them.
"""

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from open_clip.model import _build_vision_tower

from zsseg.stages.errors import UserError
from zsseg.stages.precompute.precompute_config import DenseConfig
from zsseg.stages.precompute.teacher.dense_tokens import dense_path, dense_tokens, tower_strides
from zsseg.stages.precompute.teacher.teacher_config import builtin_configs

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "teachers.md"
ROW = re.compile(
    r"^\| (?P<names>`[^|]+) \| (?P<path>[^|]+) \| (?P<width>[\d, ]+) \| (?P<px>[\d, ]+) \|"
)


def lines() -> list[list[tuple[str, str, int, int]]]:
    """Model, path, width and stride of every name in each line of the table."""
    found = []
    for row in map(ROW.match, DOCUMENT.read_text().splitlines()):
        if row is None:
            continue
        names = re.findall(r"`([^`]+)`", row["names"].partition(" with ")[0])
        widths, strides = (
            [int(each) for each in row[column].split(",")] for column in ("width", "px")
        )
        line = []
        for index, name in enumerate(names):
            width, stride = (
                each[index] if len(each) > 1 else each[0] for each in (widths, strides)
            )
            line.append((name, row["path"].strip("`"), width, stride))
        found.append(line)
    return found


def tower(name: str) -> tuple[Any, int]:
    """A model's image tower without memory for its weights, and CLIP's width."""
    config = json.loads(builtin_configs()[name].read_text())
    with torch.device("meta"):
        visual = _build_vision_tower(
            config["embed_dim"], dict(config["vision_cfg"]), config.get("quick_gelu", False)
        )
    return visual.eval(), config["embed_dim"]


def test_the_table_is_there() -> None:
    names = {name for line in lines() for name, *_ in line}
    assert len(names) > 50
    assert names <= set(builtin_configs())


def walked() -> list[tuple[str, str, int, int]]:
    every = os.environ.get("ZSSEG_WALK") == "all"
    return sorted({each for line in lines() for each in (line if every else line[:1])})


@pytest.mark.parametrize(("name", "path", "width", "stride"), walked())
@torch.inference_mode()
def test_a_tower_takes_the_path_that_the_table_says(
    name: str, path: str, width: int, stride: int
) -> None:
    visual, embedding = tower(name)
    assert embedding == width
    config = DenseConfig(size=(2 * stride, 3 * stride))
    if path.startswith("refused"):
        with pytest.raises(UserError, match="learned queries"):
            dense_path(visual, config)
        return
    assert tower_strides(visual) == (stride, stride)
    assert dense_path(visual, config) == ("clearclip" if path == "as asked" else path)
    image = torch.zeros(1, 3, *config.pixels, device="meta")
    assert dense_tokens(visual, image, config).shape == (1, width, 2, 3)
