"""Reference pages that are read from the code: commands with their options, settings."""

import re
from collections.abc import Iterator
from typing import Any

import typer
from pydantic import BaseModel

from zsseg.pipeline.cli.examples import EXAMPLES
from zsseg.pipeline.cli.main import app
from zsseg.stages.setting_notes import setting_notes


def commands(group: Any = None, path: str = "zsseg") -> Iterator[tuple[str, Any]]:
    """Every command with its whole name, groups left out."""
    group = group or typer.main.get_command(app)
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from commands(command, f"{path} {name}")
        else:
            yield f"{path} {name}", command


def command_page() -> str:
    """Markdown: what `--help` of every command says."""
    lines = [
        "# Commands",
        "",
        "What `--help` of each command says. [Exit codes](../errors.md).",
        "",
    ]
    for name, command in commands():
        words = [
            (each.metavar or each.name.upper()) + ("..." if each.nargs == -1 else "")
            for each in command.params
            if each.param_type_name == "argument"
        ]
        lines += [f"## {name}", "", f"`{' '.join([name, *words, '[OPTIONS]'])}`", ""]
        lines += [_text(command.help or ""), ""]
        lines += ["```", *EXAMPLES[name.removeprefix("zsseg ")], "```", ""]
        lines += ["| option | default | meaning |", "|---|---|---|"]
        lines += [_row(each) for each in command.params if not each.hidden]
        lines.append("")
    return "\n".join(lines)


def _row(each: Any) -> str:
    is_option = each.param_type_name == "option"
    names = [*each.opts, *each.secondary_opts] if is_option else [each.metavar or each.name.upper()]
    text, _, stated = (each.help or "").replace("\\[", "[").partition("[default: ")
    default = stated.rstrip("]") if stated else _default(each)
    return f"| {'<br>'.join(f'`{name}`' for name in names)} | {_text(default)} | {_text(text)} |"


def _default(each: Any) -> str:
    if each.required:
        return "required"
    value = each.default() if callable(each.default) else each.default
    return "" if value is None or value is False or value in ((), []) else f"`{value}`"


def settings_page(model: type[BaseModel], title: str, *, command: str) -> str:
    """Markdown: every setting of a model with meaning, unit, source and default, by section."""
    lines = [
        f"# {title}",
        "",
        f"`{command} --set section.name=value` changes one. `[ours]` marks a default that no paper "
        "states.",
        "",
    ]
    section = None
    for note in setting_notes(model):
        now, _, field = note.name.rpartition(".")
        if now != section:
            lines += ["", f"## {now or 'general'}", "", "| setting | default | meaning |"]
            lines.append("|---|---|---|")
            section = now
        lines.append(
            f"| `{field}` | `{_value(note.default)}` | {_text(note.meaning)}<br>"
            f"<small>{_text(note.kind)}</small> |"
        )
    return "\n".join(lines) + "\n"


def _value(value: Any) -> str:
    if isinstance(value, tuple):
        return f"[{', '.join(map(_value, value))}]"
    words = {None: "null", True: "true", False: "false"}
    return words[value] if value is None or isinstance(value, bool) else str(value)


def _text(text: str) -> str:
    """Help as a cell or paragraph of Markdown: nothing in it ends a cell or begins a tag."""
    outside = re.split(r"(`[^`]*`)", text)
    outside[::2] = [
        re.sub(r"([*_<|\[\]])", r"\\\1", part).replace("\\<", "&lt;") for part in outside[::2]
    ]
    return "".join(outside)
