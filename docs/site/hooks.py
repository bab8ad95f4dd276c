"""What mkdocs asks while it builds the site: pages made from the code and from files outside docs/.

Links in the documents lead from file to file, as on a code host; here they are turned to pages.
"""

import posixpath
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page
from reference_pages import command_page, settings_page

from zsseg.stages.precompute.precompute_config import PrecomputeConfig
from zsseg.stages.train.run_config import RunConfig

ROOT = Path(__file__).resolve().parents[2]
TAKEN = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "reference/contributing.md",
    "CHANGELOG.md": "reference/changes.md",
    "data_cache/README.md": "reference/store.md",
}
"""Documents outside docs/, and the pages that they are; their links are relative to themselves."""

_LINK = re.compile(r"\[([^\]]*)\]\(([^)#\s]+)(#[^)\s]*)?\)")
MADE = {
    "pipeline/cli/main.py": "reference/commands.md",
    "stages/precompute/precompute_config.py": "reference/settings_precompute.md",
    "stages/train/run_config.py": "reference/settings_train.md",
}
"""Code that a document may lead to, and the pages that are read from it."""

_CODE = re.compile(r"`[^`]+`")
_LIST = re.compile(r"( *)([-*]|\d+\.) ")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that are no files in docs/."""
    pages = {page: (ROOT / file).read_text("utf-8") for file, page in TAKEN.items()}
    pages["reference/commands.md"] = command_page()
    pages["reference/settings_precompute.md"] = settings_page(
        PrecomputeConfig, "Settings of stage one", command="zsseg precompute"
    )
    pages["reference/settings_train.md"] = settings_page(
        RunConfig, "Settings of stage two", command="zsseg train"
    )
    for name, text in pages.items():
        files.append(File.generated(config, name, content=text))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """The text with links to pages, and with what GitHub needs no empty line for."""
    del config, files
    uri = page.file.src_uri
    source = next((file for file, name in TAKEN.items() if name == uri), f"docs/{uri}")
    text = markdown
    if uri == "index.md":
        page.meta["hide"] = ["navigation"]
        text = markdown.partition("\n## The tree\n")[0]
    text = _as_python_markdown(_LINK.sub(lambda found: _to_page(found, source, uri), text))
    text = text.replace(" ± ", "\N{NO-BREAK SPACE}±\N{NO-BREAK SPACE}")
    # A class for the style of the tables that are read from the code.
    is_read = uri in MADE.values()
    return f'<div class="reference" markdown>\n\n{text}\n\n</div>\n' if is_read else text


def _to_page(found: re.Match[str], source: str, uri: str) -> str:
    """A link of `source`, relative to the page `uri`; to what is no page, its text alone.

    A text that is the name of a document becomes its title.
    """
    text, target, anchor = found[1], found[2], found[3] or ""
    if "://" in target or source.startswith("docs/reference/"):
        return found[0]
    aim = posixpath.normpath(posixpath.join(posixpath.dirname(source), target))
    within = aim.removeprefix("docs/") if aim.startswith("docs/") else None
    page = (TAKEN | MADE).get(aim, within)
    if page is None:
        return text
    if text.endswith(".md"):
        text = (ROOT / aim).read_text("utf-8").partition("\n")[0].removeprefix("# ")
    return f"[{text}]({posixpath.relpath(page, posixpath.dirname(uri) or '.')}{anchor})"


def _as_python_markdown(text: str) -> str:
    """Lists set off by an empty line, and bars in code, as Python-Markdown wants them."""
    lines: list[str] = []
    code = in_list = False
    for line in text.split("\n"):
        code ^= line.lstrip().startswith("```")
        if line.startswith("|"):  # GitHub wants "\\|" within code, Python-Markdown a plain "|"
            line = _CODE.sub(lambda found: found[0].replace("\\|", "|"), line)
            line = line.replace(" ± ", "\N{NO-BREAK SPACE}±\N{NO-BREAK SPACE}")
        item = None if code else _LIST.match(line)
        if item and not in_list and lines and lines[-1]:
            lines.append("")
        if item:
            in_list = True
        elif lines and not lines[-1] and line and not line.startswith(" "):
            in_list = False
        lines.append(line)
    return "\n".join(lines)
