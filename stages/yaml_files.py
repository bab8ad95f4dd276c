"""YAML text as plain values, and the YAML files that come with zsseg (`configs/`)."""

import re
from collections.abc import Mapping
from importlib.resources import files
from typing import Any, Literal

import yaml

from zsseg.stages.errors import UserError

_MAX_CHARACTERS = 4 << 20  # more would take minutes; the longest of ours has 8,000
_MAX_VALUES = 100_000  # a text of aliases of aliases stands for billions


class _Loader(yaml.SafeLoader):
    """Safe YAML in which 1e-4 is a number, as in YAML 1.2; PyYAML's own rule wants 1.0e-4.

    Also as in YAML 1.2, a key given twice is a mistake: PyYAML's own rule takes the last silently.
    """

    def get_single_node(self) -> yaml.Node | None:
        """The text as nodes. Raises YAMLError for what must not become values."""
        node: yaml.Node | None = super().get_single_node()
        if node is not None and _checked(node, {}) > _MAX_VALUES:
            raise yaml.YAMLError(f"its aliases stand for more than {_MAX_VALUES:,} values")
        return node


def _checked(node: yaml.Node, counts: dict[int, int | None]) -> int:
    """How many values a node stands for, each alias counted as what it stands for.

    `counts`: by node, the number, or None while its parts are counted. Raises YAMLError for a node
    that contains itself and for a key given twice.
    """
    if id(node) in counts:
        known = counts[id(node)]
        if known is None:
            raise yaml.YAMLError(f"an alias that contains itself{_line(node)}")
        return known
    counts[id(node)] = None
    parts: list[yaml.Node] = []
    if isinstance(node, yaml.SequenceNode):
        parts = node.value
    elif isinstance(node, yaml.MappingNode):
        given: set[tuple[str, str]] = set()
        for key, value in node.value:
            if isinstance(key, yaml.ScalarNode):
                if (name := (key.tag, key.value)) in given:
                    raise yaml.YAMLError(f"'{key.value}' is given twice, again{_line(key)}")
                given.add(name)
            parts += [key, value]
    counts[id(node)] = number = 1 + sum(_checked(part, counts) for part in parts)
    return number


def _line(node: yaml.Node) -> str:
    return f" in line {node.start_mark.line + 1}"


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
    if len(text) > _MAX_CHARACTERS:
        raise error(
            f"{where}: not read: {len(text):,} characters, and settings have far fewer. Give a "
            "file of settings"
        )
    try:
        return yaml.load(text, Loader=_Loader)
    except (yaml.YAMLError, ValueError) as reason:  # ValueError: a date such as 2024-13-45
        text = " ".join(str(reason).split())
        raise error(f"{where}: not valid YAML: {text}. Correct it") from reason
    except RecursionError as reason:
        raise error(
            f"{where}: not read: values within values, too deep. Write fewer levels"
        ) from reason


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
