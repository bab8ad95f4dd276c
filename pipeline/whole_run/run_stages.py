"""Runs the stages of `zsseg run`, each as its command, and says where to look."""

import shlex
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path

from zsseg.pipeline import console
from zsseg.pipeline.whole_run.scored_split import ScoredSplit, scored_split
from zsseg.pipeline.whole_run.stage_commands import (
    StageCommand,
    WholeRunRequest,
    evaluate_command,
    precompute_command,
    report_command,
    train_command,
)
from zsseg.pipeline.whole_run.store_choice import choose_settings, made_store
from zsseg.stages.data.spec import DatasetSpec, load_spec
from zsseg.stages.device import choose_device
from zsseg.stages.errors import UserError
from zsseg.stages.train.run.run_folder import check_new_or_run, has_checkpoint, is_run, read_record

_STAGES = ("precompute", "train", "evaluate", "report")
SKIPPED = 3
"""Exit code of a command that has left some images out and done the rest."""

RunWords = Callable[[Sequence[str]], int]
"""Runs one `zsseg` command from its words; its exit code."""


def run_stages(request: WholeRunRequest, run: RunWords, *, quiet: bool) -> int:
    """All stages; what an earlier call has finished is not done again. The exit code of the first
    that did not end well; SKIPPED where images were left out, and all else is done.

    Raises UserError, with the stage named, DatasetError and CacheError as the commands do.
    """
    spec = load_spec(request.dataset)
    scored = scored_split(spec, request.root)
    _check_folder(request.out, spec)

    with _named("precompute"):
        found = made_store(request.cache, spec, request.teacher)
    chosen = choose_settings(found, device=choose_device("auto").type, request=request)
    first = precompute_command(request, chosen.settings, chosen.reason)
    if (skipped := _done(first, run, quiet=quiet)) not in (0, SKIPPED):
        return skipped
    store = made_store(request.cache, spec, request.teacher)
    assert store is not None, "stage one has made it"
    begun = is_run(request.out) and has_checkpoint(request.out)
    if code := _done(train_command(request, store, begun=begun), run, quiet=quiet):
        return code
    if scored.name is not None:
        code = _done(evaluate_command(request, scored.name), run, quiet=quiet, shown=True)
        if code not in (0, SKIPPED):
            return code
        skipped = skipped or code
    elif not quiet:
        console.err.print(f"{_title('evaluate')}: left out: {scored.missing}", soft_wrap=True)
    if code := _done(report_command(request, scored.name or "train"), run, quiet=quiet):
        return code
    for line in where_to_look(request, scored):
        console.out.print(line, soft_wrap=True)
    return skipped


def where_to_look(request: WholeRunRequest, scored: ScoredSplit) -> list[str]:
    """What the run has left to look at, and the command that makes pictures."""
    out = request.out
    scores = sorted(str(path) for path in out.glob("evaluation*.json"))
    words = ("predict", str(scored.images), "--run", str(out), "--out", str(out / "predictions"))
    return [
        f"student: {out}, as planned in {out / 'plan.yaml'}",
        f"scores: {', '.join(scores)}" if scores else f"no scores: {scored.missing}",
        f"report: {out / 'report.html'}",
        f"look at its labels: {_shell(words)}",
    ]


def _done(stage: StageCommand, run: RunWords, *, quiet: bool, shown: bool = False) -> int:
    """Run the command of a stage; `shown`: what it prints is a result of the whole."""
    if not quiet:
        console.err.print("", f"{_title(stage.stage)}: {stage.reason}", sep="\n", soft_wrap=True)
        console.err.print(f"$ {_shell(stage.words)}", style="bold", soft_wrap=True)
    words = [*stage.words, *(["--quiet"] if quiet else [])]
    with _named(stage.stage), nullcontext() if shown else console.no_output():
        return run(words)


@contextmanager
def _named(stage: str) -> Iterator[None]:
    """Within, an error of the user's is told with the stage that it comes from."""
    try:
        yield
    except UserError as error:
        first, *more = error.args
        error.args = (f"{_title(stage)}: {first}", *more)
        raise


def _title(stage: str) -> str:
    return f"stage {_STAGES.index(stage) + 1} of {len(_STAGES)}, {stage}"


def _shell(words: Sequence[str]) -> str:
    return f"zsseg {shlex.join(words)}"


def _check_folder(out: Path, spec: DatasetSpec) -> None:
    """Raise UserError for a folder that is used otherwise, before anything is computed."""
    check_new_or_run(out)
    if not is_run(out):
        return
    dataset = read_record(out).dataset
    asked = (spec.name, spec.classes, spec.unseen)
    if (dataset.name, dataset.classes, dataset.unseen) != asked:
        raise UserError(
            f"{out}: holds a run of '{dataset.name}' with other classes or of another data set. "
            "Give another --out"
        )
