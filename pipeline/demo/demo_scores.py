"""What a demo's table shows: results by row, and what is said below it."""

from collections.abc import Mapping

from rich.table import Table

from zsseg.pipeline.compare.ceiling import as_if_unseen
from zsseg.pipeline.demo.demo_commands import BASELINE, CEILING, Demo
from zsseg.pipeline.tables import gamma_text, percent
from zsseg.stages.evaluate.result import EvaluationResult, class_rows, file_stem, read_result

TOKENS, NAMES = "teacher: dense tokens", "teacher: map of names"
ALL_LABELS = "ceiling: labels of all classes"

GAMMA_NOTE = (
    "gamma is taken off the cosines of the seen classes before the argmax. 0.01 was chosen by "
    "`zsseg tune` with demo_best, on seen classes that were hidden in training as if unseen, in "
    "scenes of `train`: docs/experiments.md."
)


def demo_results(demo: Demo) -> dict[str, EvaluationResult]:
    """Scores by row: all without gamma, then those of the runs with theirs, if they have one."""
    teacher = {TOKENS: (), NAMES: ("names",)}
    results = {
        row: read_result(demo.out / f"{file_stem('teacher', 'val', words)}.json")
        for row, words in teacher.items()
    }
    methods = {BASELINE: BASELINE, demo.ours: demo.method}
    for row, method in methods.items():
        results[row] = read_result(demo.scores(method, gamma=False))
    unseen = results[NAMES].unseen
    results[ALL_LABELS] = as_if_unseen(read_result(demo.scores(CEILING, gamma=False)), unseen)
    for row, method in methods.items():
        with_gamma = read_result(demo.scores(method))
        if with_gamma.settings["calibration"]:
            results[f"{row}, {gamma_text(with_gamma)}"] = with_gamma
    return results


def score_table(results: Mapping[str, EvaluationResult]) -> Table:
    """The means of every row, for the screen."""
    table = Table("IoU in percent", "hIoU", "seen (sIoU)", "unseen (uIoU)", box=None)
    for name, result in results.items():
        means = result.scores
        table.add_row(name, *(percent(value) for value in (means.hiou, means.siou, means.uiou)))
    return table


def notes(results: Mapping[str, EvaluationResult], ours: str) -> list[str]:
    """What has to be said below the scores: where ours is worse, and where gamma is from."""
    said = [worse_classes(results, ours)]
    if any(result.settings["calibration"] for result in results.values()):
        said.append(GAMMA_NOTE)
    return said


def worse_classes(results: Mapping[str, EvaluationResult], ours: str) -> str:
    """A sentence that names the classes of which our row finds less than the teacher by itself."""
    pairs = zip(class_rows(results[ours]), class_rows(results[NAMES]), strict=True)
    worse = [
        f"{own.name} ({percent(own.iou)}, {percent(teacher.iou)})"
        for own, teacher in pairs
        if own.iou < teacher.iou
    ]
    if not worse:
        return f"Without gamma no class of {ours} is worse than in the teacher's map of names."
    return (
        f"Without gamma these classes of {ours} are worse than in the teacher's map of names "
        f"(IoU of ours, of the map): {', '.join(worse)}."
    )
