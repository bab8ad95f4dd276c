"""What `zsseg tune` writes: tune.json, tune.md and, when all is scored, picked.yaml.

All scores are in percent.
"""

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zsseg.pipeline.ablate.orders import Statistic
from zsseg.pipeline.ablate.shared_work import Failures
from zsseg.pipeline.ablate.table_report import grid_lines
from zsseg.pipeline.tune.candidates import Candidate, full_settings
from zsseg.pipeline.tune.choice import Choice, FoldChoice, choose
from zsseg.pipeline.tune.folds import Fold
from zsseg.pipeline.tune.trials import TrialInputs, scores_of, trainings, try_all
from zsseg.pipeline.tune.tune_plan import TunePlan
from zsseg.stages.cache.disk.durable import make_folder, write_durably
from zsseg.stages.cache.reader import Store
from zsseg.stages.yaml_files import yaml_text

_SCORES = ("hIoU", "sIoU", "uIoU")


@dataclass(frozen=True)
class TuneHeader:
    """What the figures are of."""

    plan: TunePlan
    command: str


@dataclass(frozen=True)
class TuneTable:
    """Every candidate with its scores so far."""

    tried: tuple[Candidate, ...]
    folds: tuple[Fold, ...]
    scores: Mapping[str, Mapping[str, tuple[Statistic, ...]]]
    """hIoU, sIoU, uIoU -> candidate -> over seeds, in each fold."""
    to_do: int
    """Trainings that have neither scores nor failed."""
    failures: Mapping[str, str]
    """Candidate, fold and seed -> why it has no scores."""
    choice: Choice | None
    """None before all is done, and where no candidate is scored in every fold."""

    @property
    def picked(self) -> Candidate | None:
        """The chosen candidate."""
        if self.choice is None:
            return None
        return next(each for each in self.tried if each.name == self.choice.picked)


def tabulate(plan: TunePlan, failures: Failures) -> TuneTable:
    """The table of the trials that are scored by now."""
    tried, folds, trials = plan.tried, plan.folds, plan.trials
    found = {id(trial): scores_of(trial) for trial in trials}

    def over_seeds(candidate: Candidate, fold: Fold, name: str) -> Statistic:
        values = {
            trial.seed: 100 * getattr(score, name.lower())
            for trial in trials
            if trial.candidate == candidate and trial.fold is fold and (score := found[id(trial)])
        }
        return Statistic(tuple(values.values()), tuple(values))

    scores = {
        name: {each.name: tuple(over_seeds(each, fold, name) for fold in folds) for each in tried}
        for name in _SCORES
    }
    failed = {
        f"{trial.candidate.name}, {_title(folds, trial.fold)}, seed {trial.seed}": why
        for trial in trials
        if (why := failures.get(trial.run.folder))
    }
    to_do = sum(
        folder not in failures and not all(found[id(trial)] for trial in each)
        for folder, each in trainings(trials).items()
    )
    failing = {trial.candidate.name for trial in trials if trial.run.folder in failures}
    whole = {name: each for name, each in scores["hIoU"].items() if name not in failing}
    choice = None if to_do else choose(whole)
    return TuneTable(tried, folds, scores, to_do, failed, choice)


def _title(folds: Sequence[Fold], fold: Fold) -> str:
    return f"fold {1 + folds.index(fold)}"


def markdown(header: TuneHeader, table: TuneTable) -> str:
    """The table, what is picked and how well the folds agree, as Markdown."""
    request, store, first = header.plan.request, header.plan.store, table.folds[0].held_out
    steps = "as in the experiment" if request.steps is None else str(request.steps)
    facts = {
        "Store": f"`{store.path.name}` (fingerprint {store.fingerprint}): its first "
        f"{first.trained} images are trained on, {len(first.samples)} of the others scored",
        "Hidden in turn": "; ".join(
            f"fold {i}: {', '.join(fold.hidden)}" for i, fold in enumerate(table.folds, start=1)
        ),
        "Never looked at": f"labels of {', '.join(header.plan.spec.unseen)}",
        "Steps": steps,
        "Seeds": str(request.seeds),
        "Command": f"`{header.command}`",
    }
    lines = ["# What `zsseg tune` tried", ""]
    lines += [f"- {name}: {text}" for name, text in facts.items()]
    columns = ["candidate", "mean hIoU", "sIoU", "uIoU"]
    columns += [f"fold {i} hIoU" for i in range(1, 1 + len(table.folds))]
    rows = [_row(table, candidate) for candidate in table.tried]
    lines += ["", "Percent.", "", *grid_lines(columns, rows), ""]
    lines += [f"- {name}: failed. {reason}" for name, reason in table.failures.items()]
    return "\n".join([*lines, *_verdict(table)]) + "\n"


def _row(table: TuneTable, candidate: Candidate) -> list[str]:
    means = [_mean_text(table.scores[name][candidate.name]) for name in _SCORES]
    folds = [_text(score) for score in table.scores["hIoU"][candidate.name]]
    chosen = table.picked is not None and table.picked.name == candidate.name
    return [f"{candidate.name}{' (picked)' if chosen else ''}", *means, *folds]


def _text(score: Statistic) -> str:
    if score.mean is None:
        return "-"
    return f"{score.mean:.1f}" + ("" if score.deviation is None else f" ± {score.deviation:.1f}")


def _over_folds(scores: Sequence[Statistic]) -> float | None:
    """Mean of the folds' means; None unless all are there."""
    means = [score.mean for score in scores if score.mean is not None]
    return statistics.fmean(means) if len(means) == len(scores) else None


def _mean_text(scores: Sequence[Statistic]) -> str:
    mean = _over_folds(scores)
    return "-" if mean is None else f"{mean:.1f}"


def _verdict(table: TuneTable) -> list[str]:
    """What is picked, and what each fold says of it."""
    if table.choice is None or table.picked is None:
        if table.to_do:
            return [f"Nothing is picked yet: {table.to_do} trainings are to do."]
        return ["Nothing is picked: no candidate is scored in every fold."]
    choice = table.choice
    lines = [f"Picked: {choice.picked}", ""]
    lines += [f"- fold {i}: {_of_fold(fold)}" for i, fold in enumerate(choice.folds, start=1)]
    known = choice.folds[0].spread is not None
    within = "best, or within the spread of the best," if known else "best"
    alone = "" if known else " (with one seed the spread is not known: give --seeds 2 or more)"
    lines += ["", f"It is {within} in {choice.agreeing} of {len(choice.folds)} folds{alone}."]
    losses = [each.lost_of_others for each in choice.folds if each.lost_of_others is not None]
    if losses:
        lines.append(
            f"Picked by the other folds alone, a candidate is {statistics.fmean(losses):.1f} "
            "points below the best of a fold on average: so much a choice costs on classes that "
            "had no part in it."
        )
    return [*lines, "", f"zsseg train {table.picked.words}"]


def _of_fold(fold: FoldChoice) -> str:
    spread = "" if fold.spread is None else f" (spread {fold.spread:.1f})"
    if fold.lost == 0:
        return "the best here too"
    return f"{fold.lost:.1f} points below the best here, {fold.best}{spread}"


def as_json(header: TuneHeader, table: TuneTable) -> dict[str, Any]:
    """The same as plain JSON values; null where there is no figure."""
    request, first = header.plan.request, table.folds[0].held_out
    picked, choice = table.picked, table.choice
    return {
        "picked": picked and {"config": picked.experiment, "set": list(picked.tried)},
        "agreeing_folds": choice and choice.agreeing,
        "to_do": table.to_do,
        "store": header.plan.store.path.name,
        "store_fingerprint": header.plan.store.fingerprint,
        "set": list(request.settings),
        "steps": request.steps,
        "seeds": request.seeds,
        "images": {"trained": first.trained, "scored": len(first.samples)},
        "never_looked_at": list(header.plan.spec.unseen),
        "folds": [
            {"hidden": list(fold.hidden), **({} if choice is None else _fold_json(choice, i))}
            for i, fold in enumerate(table.folds)
        ],
        "candidates": [
            {
                "name": each.name,
                "config": each.experiment,
                "set": list(each.tried),
                "scores": {
                    name: {
                        "mean": _over_folds(scores[each.name]),
                        "folds": [list(score.values) for score in scores[each.name]],
                    }
                    for name, scores in table.scores.items()
                },
            }
            for each in table.tried
        ],
        "failures": dict(table.failures),
        "command": header.command,
    }


def _fold_json(choice: Choice, number: int) -> dict[str, Any]:
    fold = choice.folds[number]
    return {
        "best": fold.best,
        "picked_below_best": fold.lost,
        "spread": fold.spread,
        "agrees": fold.agrees,
        "picked_by_other_folds": fold.of_others,
        "that_below_best": fold.lost_of_others,
    }


def make_report(
    header: TuneHeader, stores: Mapping[str, Store], *, quiet: bool
) -> tuple[TuneTable, list[Path]]:
    """Train and score what is missing; the files grow with each run. The table and its files.

    `stores`: of each fold, by its key.
    """
    plan = header.plan

    def update(failures: Failures) -> tuple[TuneTable, list[Path]]:
        table = tabulate(plan, failures)
        return table, write_report(header, table)

    inputs = TrialInputs(plan.spec, plan.root, stores)
    return update(try_all(plan.trials, inputs, after_run=update, quiet=quiet))


def write_report(header: TuneHeader, table: TuneTable) -> list[Path]:
    """Write the files, each whole or not at all; their paths."""
    out = header.plan.request.out
    make_folder(out)
    text = json.dumps(as_json(header, table), ensure_ascii=False, allow_nan=False, indent=1)
    contents = {"tune.json": f"{text}\n", "tune.md": markdown(header, table)}
    if table.picked is not None:
        contents["picked.yaml"] = _experiment(header, table, table.picked)
    for name, content in contents.items():
        write_durably(out / name, content.encode(errors="backslashreplace"))
    return [out / name for name in contents]


def _experiment(header: TuneHeader, table: TuneTable, picked: Candidate) -> str:
    """The picked candidate as an experiment for `--config`."""
    assert table.choice is not None
    hidden = "; ".join(", ".join(fold.hidden) for fold in table.folds)
    comments = [
        f"{Path(picked.experiment).stem}, tuned: {', '.join(picked.tried) or 'as it is'}",
        "",
        f"Chosen by `zsseg tune` among {len(table.tried)} candidates, without labels of unseen",
        f"classes, by scores of seen classes that were hidden in turn: {hidden}.",
        f"It is picked with {table.choice.means[picked.name]:.1f} hIoU; "
        f"{table.choice.agreeing} of {len(table.folds)} folds agree.",
        f"  {header.command}",
    ]
    head = "".join(f"# {' '.join(line.split())}".rstrip() + "\n" for line in comments)
    return head + yaml_text(full_settings(picked, header.plan.request))
