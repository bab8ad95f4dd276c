"""Renders the HTML pages that commands write: each one file that loads nothing else."""

from collections.abc import Mapping
from importlib.resources import files

from jinja2 import Environment, StrictUndefined


def render_page(package: str, name: str, values: Mapping[str, object]) -> bytes:
    """The template `name` of a package with these values, which are escaped.

    `page_style` in it is what all pages look like (`page.css`).
    """
    style = (files("zsseg.pipeline") / "page.css").read_text(encoding="utf-8")
    page = (files(package) / name).read_text(encoding="utf-8")
    template = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    ).from_string(page)
    return template.render({**values, "page_style": style}).encode()
