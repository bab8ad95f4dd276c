"""Options of `zsseg train` on how a run is watched: its validations, and where its log goes."""

from typing import Annotated

import typer

from zsseg.stages.train.run.trackers import Service

ValidateEvery = Annotated[
    int | None,
    typer.Option(
        min=0,
        help="Score the student on held-out images every so many steps, by labels of seen classes, "
        "and keep the best one; 0: never. \\[default: a few times where it is planned]",
    ),
]
ValidateUnseen = Annotated[
    bool,
    typer.Option(
        "--validate-unseen",
        help="Validate by labels of unseen classes too: what is chosen is no zero-shot result.",
    ),
]
Patience = Annotated[
    int | None,
    typer.Option(min=0, help="End after so many validations without a better one; 0: never."),
]
LogTo = Annotated[
    Service | None,
    typer.Option(
        help="Send settings, numbers and pictures of validations to this service too; nothing is "
        "sent otherwise."
    ),
]
