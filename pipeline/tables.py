"""Tables and lines of text for the screen: data sets, stores, progress, scores."""

import math
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING

from rich.table import Table

from zsseg.pipeline.console import size_text
from zsseg.stages.cache.catalogue import StoreSummary
from zsseg.stages.cache.dense_loss import DenseLoss
from zsseg.stages.data.dataset_check import VerifyReport
from zsseg.stages.data.spec import DatasetSpec
from zsseg.stages.evaluate.result import BY_UNSEEN, EvaluationResult, class_rows
from zsseg.stages.printable import counted

if TYPE_CHECKING:
    from zsseg.stages.precompute.progress import Phase, Progress


def percent(value: float) -> str:
    """A fraction as a percentage with one decimal, as papers print IoU; a dash for NaN."""
    return "-" if math.isnan(value) else f"{100 * value:.1f}"


def dataset_table(specs: Sequence[DatasetSpec]) -> Table:
    """One line per data set."""
    table = Table("name", "classes", "seen", "unseen", "about", box=None)
    for spec in specs:
        classes, unseen = len(spec.classes), len(spec.unseen)
        table.add_row(spec.name, str(classes), str(classes - unseen), str(unseen), spec.about)
    return table


def class_table(spec: DatasetSpec) -> Table:
    """One line per class of a data set."""
    table = Table("id", "class", "prompt name", "group", box=None)
    for index, (name, prompt) in enumerate(zip(spec.classes, spec.prompt_names, strict=True)):
        group = "unseen" if name in spec.unseen else "seen"
        table.add_row(str(index), name, prompt, group)
    return table


def pixel_table(spec: DatasetSpec, report: VerifyReport) -> Table:
    """Pixels per class and per group, with shares of all pixels, in percent."""
    total = max(int(report.pixels.sum()) + report.void, 1)
    table = Table("class", "group", "pixels", "share %", box=None)
    for name, pixels in zip(spec.classes, report.pixels, strict=True):
        group = "unseen" if name in spec.unseen else "seen"
        table.add_row(name, group, f"{pixels:,}", percent(pixels / total))
    table.add_section()
    groups = {
        "all seen": int(report.pixels[list(spec.seen_ids)].sum()),
        "all unseen": int(report.pixels[list(spec.unseen_ids)].sum()),
        "void": report.void,
    }
    for name, pixels in groups.items():
        table.add_row(name, "", f"{pixels:,}", percent(pixels / total))
    return table


def store_table(
    stores: Sequence[StoreSummary], uses: Sequence[tuple[datetime | None, int]]
) -> Table:
    """One line per store; `uses` has when each was last used, and by how many runs."""
    table = Table("store", "data set", "split", "images", "size", "teacher", "state", box=None)
    table.add_column("last used")
    table.add_column("runs")
    for store, (used, runs) in zip(stores, uses, strict=True):
        table.add_row(
            store.path.name,
            store.dataset,
            store.split,
            f"{store.images:,}",
            size_text(store.bytes),
            store.teacher,
            "complete" if store.sealed else "unfinished",
            f"{used.astimezone():%Y-%m-%d %H:%M}" if used else "-",
            str(runs),
        )
    return table


def precompute_words(now: "Progress") -> str:
    """Progress of stage one in words: speed, bytes written, failures, and where the time goes."""
    words = [f"{now.images_per_second:.1f} images/s"] if now.images_per_second else []
    words += [size_text(now.bytes)] if now.bytes else []
    words += [f"{now.failures} failed"] if now.failures else []
    return ", ".join([*words, *([shares(now.seconds)] if now.seconds else [])])


def shares(seconds: "Mapping[Phase, float]") -> str:
    """`read 4% | preprocess 3% | teacher 90% | ...`: shares of the sum of all phases."""
    from zsseg.stages.precompute.progress import PHASES

    total = sum(seconds.values()) or 1.0
    return " | ".join(f"{p} {seconds[p] / total:.0%}" for p in PHASES if p in seconds)


def loss_line(loss: DenseLoss) -> str:
    """What storing dense tokens in fewer bytes saves and loses, in one line."""
    return (
        f"dense {loss.format}: {loss.bytes:.3f} of the bytes of fp16; cosine to the original "
        f"tokens {loss.cosine_mean:.5f} on average, {loss.cosine_worst:.5f} at worst; "
        f"{percent(loss.agreement)} % nearest to the same class name "
        f"({counted(loss.tokens, 'token')} of {counted(loss.images, 'image')})"
    )


def score_table(results: Sequence[EvaluationResult]) -> Table:
    """IoU and accuracy per class in percent, side by side for several results."""
    labels = [f", {label}" if label else "" for label in _labels(results)]
    columns = [f"{score}{label}" for label in labels for score in ("IoU", "accuracy")]
    table = Table("class", "group", *columns, box=None)
    for rows in zip(*map(class_rows, results), strict=True):
        group = "unseen" if rows[0].unseen else "seen"
        shown = [percent(value) for row in rows for value in (row.iou, row.accuracy)]
        table.add_row(rows[0].name, group, *shown)
    return table


def score_lines(results: Sequence[EvaluationResult]) -> list[str]:
    """The mean scores, one line per result, in percent; several begin with what tells them apart:
    gamma, or whether it is the student's or the teacher's.
    """
    lines = [_score_line(result) for result in results]
    labels = _labels(results)
    width = max(map(len, labels))
    return [
        f"{label:<{width}}  {line}" if width else line
        for label, line in zip(labels, lines, strict=True)
    ]


def _labels(results: Sequence[EvaluationResult]) -> list[str]:
    """What tells several results apart; an empty text where there is one.

    What of the teacher was scored is said wherever its store has a map of names.
    """
    by_subject = len({result.subject for result in results}) > 1
    by_gamma = len({result.settings["calibration"] for result in results}) > 1

    def words(result: EvaluationResult) -> list[str]:
        source = result.settings.get("from")
        named = [str(source)] if source else []
        return [result.subject] * by_subject + named + [gamma_text(result)] * by_gamma

    return [", ".join(words(result)) for result in results]


def trained_on_text(result: EvaluationResult) -> str | None:
    """A warning where a run was scored on images that it was trained on."""
    if not result.trained_on:
        return None
    return (
        f"trained on {result.trained_on} of these {result.images} images: the scores are no "
        "measure of what the run does on other images"
    )


def checkpoint_text(result: EvaluationResult) -> str | None:
    """A warning where labels of unseen classes have chosen the checkpoint that was scored."""
    if BY_UNSEEN not in result.variant:
        return None
    return (
        "this checkpoint was chosen by labels of unseen classes (validation.unseen): these are no "
        "zero-shot scores"
    )


def memory_text(result: EvaluationResult) -> str | None:
    """A warning where images did not fit the memory with the settings asked for."""
    counts = result.settings.get("out_of_memory")
    if counts is None:
        return None
    return (
        f"out of memory: {counted(counts['changed'], 'image')} scored with other settings, "
        f"{counts['left_out']} left out (named above)"
    )


def gamma_text(result: EvaluationResult) -> str:
    """`gamma 0.02`: what was subtracted from the cosines of the seen classes."""
    return f"gamma {result.settings['calibration']:g}"


def _score_line(result: EvaluationResult) -> str:
    return "  ".join(f"{name} {percent(value)}" for name, value in result.means.items())
