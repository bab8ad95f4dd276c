"""`zsseg doctor`: what this machine has, and what to do about what is missing."""

import json
import sys
from typing import Annotated

import typer

from zsseg.pipeline import console


def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
) -> None:
    """Say what is here: GPU, memory, disk, weights, extras, network; what to do for what is not.

    Takes a second or two. It asks whether huggingface.co takes a connection; nothing is sent,
    written or changed.
    """
    from zsseg.pipeline.machine_report import Place, machine_report

    found = machine_report(Place())
    if as_json:
        values = {
            each.subject: {"text": each.text, "advice": each.advice, **each.values}
            for each in found
        }
        sys.stdout.write(json.dumps(values) + "\n")
        return
    width = max(len(each.subject) for each in found) + 2
    for each in found:
        mark = "!" if each.advice else " "
        advice = f". {each.advice}" if each.advice else ""
        console.out.print(f"{mark} {each.subject:<{width}}{each.text}{advice}", soft_wrap=True)
