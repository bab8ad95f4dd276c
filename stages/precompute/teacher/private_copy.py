"""A teacher's folder as open_clip and transformers see it: a copy of what they may read.

transformers looks for many names in a folder and follows what stands in them: code (`auto_map`),
adapters of other models, kernels of the hub. It gets a folder of known files, without the settings
that lead elsewhere, and the hub is switched off meanwhile.
"""

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from huggingface_hub import constants

from zsseg.stages.precompute.teacher.teacher_config import (
    CONFIG_FILE,
    SETTINGS_FILES,
    TOKENIZER_FILES,
)

FOLDER = "local-dir:"

_LEADING_ELSEWHERE = ("implementation", "kernel", "name_or_path", "quantization", "_file")
"""In the names of settings: other implementations and kernels are fetched as code, and the others
are paths of the machine that wrote them."""


@contextmanager
def private_copy(model: str) -> Iterator[str]:
    """The name to give to open_clip for a model: that of a copy for one of a folder, else its own.

    The copy has no weights and is gone afterwards.
    """
    if not model.startswith(FOLDER):
        yield model
        return
    folder = Path(model.removeprefix(FOLDER))
    with TemporaryDirectory(prefix="zsseg-teacher-") as copy, _hub_switched_off():
        for name in dict.fromkeys((CONFIG_FILE, *SETTINGS_FILES, *TOKENIZER_FILES)):
            if not (folder / name).is_file():
                continue
            if name in SETTINGS_FILES:
                stated = json.loads((folder / name).read_text(encoding="utf-8"))
                (Path(copy) / name).write_text(json.dumps(_inert(stated)), encoding="utf-8")
            else:
                shutil.copyfile(folder / name, Path(copy) / name)
        yield f"{FOLDER}{copy}"


def _inert(value: Any) -> Any:
    """Settings without those that lead elsewhere, at any depth."""
    if isinstance(value, list):
        return [_inert(each) for each in value]
    if not isinstance(value, dict):
        return value
    return {
        name: _inert(each)
        for name, each in value.items()
        if not any(part in name for part in _LEADING_ELSEWHERE)
    }


@contextmanager
def _hub_switched_off() -> Iterator[None]:
    """Every request to the hub fails at once, as with HF_HUB_OFFLINE=1."""
    before = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before
