"""The command that makes a store, for its card."""

import json
from collections.abc import Iterator, Mapping
from typing import Any

from zsseg.stages.data.spec import DatasetSpec
from zsseg.stages.precompute.precompute_config import PrecomputeConfig
from zsseg.stages.setting_marks import marked


def store_command(
    spec: DatasetSpec, split: str, limit: int | None, config: PrecomputeConfig
) -> str:
    """`zsseg precompute ...` with every setting that the store depends on and is not the default.

    FOLDER and TEACHER stand for the data set's folder and the teacher's files, whose places differ
    from machine to machine.
    """
    words = ["zsseg precompute", f"--dataset {spec.name}", "--root FOLDER", f"--split {split}"]
    words += ["--teacher TEACHER", *([f"--limit {limit}"] if limit is not None else [])]
    words += [f"--set '{setting}'" for setting in changed_settings(config)]
    return " \\\n  ".join([" ".join(words[:4]), *words[4:]])


def changed_settings(config: PrecomputeConfig) -> list[str]:
    """The settings that a store depends on and that are not the default, as for `--set`."""
    asked, default = (
        dict(_settings(each.model_dump(mode="json"))) for each in (config, PrecomputeConfig())
    )
    beside = marked(PrecomputeConfig, result=False)
    return [
        f"{name}={json.dumps(value)}"
        for name, value in asked.items()
        if name not in beside and value != default[name]
    ]


def _settings(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, dict):
            yield from _settings(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
