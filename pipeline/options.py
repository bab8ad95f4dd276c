"""Options and exit codes that several commands share."""

from enum import IntEnum
from pathlib import Path
from typing import Annotated

import typer

Settings = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="A.B=C", help="Change one setting; may be given many times."),
]
CacheFolder = Annotated[
    Path, typer.Option("--cache", help="Folder of stores, or one store.", show_default=True)
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress and no messages.")]


class Exit(IntEnum):
    """Exit codes beside those of stages.errors."""

    SKIPPED = 3
    RESOURCES = 7
    INTERRUPTED = 130
