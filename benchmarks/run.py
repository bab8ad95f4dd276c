"""`make bench`: every ratio that the documentation quotes, with machine, versions and spread.

    python -m benchmarks.run [--quick] [--only NAME] [--json FILE]

Each figure is a ratio of two things measured in one run. docs/performance.md says what each means.
"""

import argparse
import json
import logging
import os
import sys
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks import (
    exported,
    host,
    inference,
    loader,
    online,
    pixel_losses,
    scale,
    stage_one,
    step,
)
from benchmarks.machine import machine
from benchmarks.ratio import Ratio

Measure = Callable[[], Ratio | Iterable[Ratio]]

SIZED = (*stage_one.MEASURES, *scale.MEASURES, host.utilisation_ratios)
"""Take fewer images when they are asked to be quick."""
OTHERS: tuple[Measure, ...] = (
    *step.MEASURES,
    *online.MEASURES,
    loader.loader_ratios,
    loader.row_ratios,
    pixel_losses.ratios,
    pixel_losses.peak_ratios,
    exported.random_student_ratios,
    inference.agreement_ratios,
    *inference.MEASURES,
)


def named(*, quick: bool) -> dict[str, Measure]:
    """Every measure by `file.function`."""
    sized: list[tuple[Any, Measure]] = [(each, partial(each, quick=quick)) for each in SIZED]
    others: list[tuple[Any, Measure]] = [(each, each) for each in OTHERS]
    return {
        f"{each.__module__.removeprefix('benchmarks.')}.{each.__name__}": measure
        for each, measure in [*sized, *others]
    }


def measured(measures: dict[str, Measure], *, show: Callable[[str], object]) -> dict[str, Any]:
    """Do one after the other, and show each ratio as it is found."""
    results: dict[str, Any] = {}
    for name, measure in measures.items():
        show(f"\n{name}\n")
        found = measure()
        ratios = [found] if isinstance(found, Ratio) else list(found)
        load = round(os.getloadavg()[0], 2)
        for ratio in ratios:
            show(f"  {ratio}\n")
        show(f"  load of the machine: {load}\n")
        results[name] = {"load": load, "ratios": [ratio.as_json() for ratio in ratios]}
    return results


def main() -> None:
    """Print the machine and the ratios, and write them as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="fewer images in stage one")
    parser.add_argument("--only", metavar="NAME", help="measures with this in their name")
    parser.add_argument("--json", type=Path, default=Path("benchmarks/results.json"))
    given = parser.parse_args()
    every = named(quick=given.quick)
    chosen = {name: each for name, each in every.items() if not given.only or given.only in name}
    if not chosen:
        parser.error(f"--only {given.only}: none is called so; there are {', '.join(every)}")
    logging.basicConfig(level=logging.ERROR)  # that weights are random is meant
    about = machine()
    sys.stdout.write(f"{json.dumps(about)}\n")

    def show(text: str) -> None:
        sys.stdout.write(text)
        sys.stdout.flush()

    results = measured(chosen, show=show)
    kept = {"machine": about, "quick": given.quick, "results": results}
    given.json.write_text(json.dumps(kept, indent=1) + "\n")
    sys.stdout.write(f"\n{given.json}\n")


if __name__ == "__main__":
    main()
