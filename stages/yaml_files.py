"""YAML text as plain values, and the YAML files that come with zsseg (`configs/`)."""

import re
from collections.abc import Mapping
from importlib.resources import files
from typing import Any, Literal

import yaml

from zsseg.stages.errors import UserError


class _Loader(yaml.SafeLoader):
    """Safe YAML in which 1e-4 is a number, as in YAML 1.2; PyYAML's own rule wants 1.0e-4."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"),
    list("-+.0123456789"),
)


class _Dumper(yaml.SafeDumper):
    """YAML in blocks, but lists in one line: `crop: [512, 512]`."""


_Dumper.add_representer(
    list,
    lambda dumper, value: dumper.represent_sequence(
        "tag:yaml.org,2002:seq", value, flow_style=True
    ),
)


def yaml_text(values: Mapping[str, Any]) -> str:
    """Values as a YAML text, in their order."""
    return yaml.dump(values, Dumper=_Dumper, sort_keys=False)


def parse_yaml(text: str, *, where: str, error: type[UserError] = UserError) -> Any:
    """The values of a YAML text; None for an empty one. `where` names it in the error raised."""
    try:
        return yaml.load(text, Loader=_Loader)
    except yaml.YAMLError as reason:
        raise error(f"{where}: not valid YAML: {reason}") from reason


def builtin_names(folder: Literal["ablations", "datasets", "experiments"]) -> list[str]:
    """Names of the YAML files in a folder of `configs`, without their ending, sorted."""
    entries = (files("zsseg.configs") / folder).iterdir()
    return sorted(
        entry.name.removesuffix(".yaml") for entry in entries if entry.name.endswith(".yaml")
    )


def packaged_text(name: str) -> str:
    """The text of a file that comes with zsseg, by its path in `configs`: 'datasets/camvid.yaml'"""
    return files("zsseg.configs").joinpath(name).read_text(encoding="utf-8")


def packaged_values(name: str) -> Any:
    """The values of a YAML file that comes with zsseg, by its path in `configs`."""
    return parse_yaml(packaged_text(name), where=f"configs/{name}")
