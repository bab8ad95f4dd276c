"""Options and exit codes that several commands share."""

from enum import IntEnum
from pathlib import Path
from typing import Annotated

import typer

from zsseg.stages.cache.disk.store_path import StorePath, store_path
from zsseg.stages.train.validation_config import Which

Settings = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="A.B=C", help="Change one setting; may be given many times."),
]
PLACE = "DIR|URL"
"""Stands in help for a store or a folder of stores, which may be at a URL (s3://bucket/folder)."""

CacheFolder = Annotated[
    StorePath,
    typer.Option(
        "--cache",
        parser=store_path,
        metavar=PLACE,
        help="Folder of stores, or one store; here, or at a URL (s3://bucket/folder).",
        show_default=True,
    ),
]
StoreArgument = Annotated[
    StorePath,
    typer.Argument(
        parser=store_path, metavar="STORE", help="A store, or a folder that holds only one."
    ),
]
FolderArgument = Annotated[
    StorePath,
    typer.Argument(parser=store_path, metavar=PLACE, help="Folder of stores.", show_default=True),
]
MovedRoot = Annotated[
    Path | None, typer.Option("--root", help="Folder of the data set, if it has moved.")
]
DatasetRoot = Annotated[
    Path | None,
    typer.Option(
        "--root",
        help="Folder of the data set; never written to. \\[default: the description's `root`]",
    ),
]
MovedTeacher = Annotated[
    str | None,
    typer.Option("--teacher", help="The store's teacher, if its files have moved."),
]
Checkpoint = Annotated[
    Which | None,
    typer.Option(
        help="Of a run that was validated: its best or its last checkpoint. \\[default: best, if "
        "validation chose one]",
    ),
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Only warnings and errors.")]


class Exit(IntEnum):
    """Exit codes of commands, beside those of the errors in zsseg.stages.errors."""

    SKIPPED = 3
    RESOURCES = 7
    INTERRUPTED = 130
    TERMINATED = 143
