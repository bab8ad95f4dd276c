"""The problems of a data set by kind, each with what would mend it."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from zsseg.stages.data.dataset_check import FileProblem, Kind, VerifyReport
from zsseg.stages.data.spec import DatasetSpec

_TITLES: dict[Kind, tuple[str, str]] = {
    "image": ("image that cannot be read", "images that cannot be read"),
    "label": ("label that cannot be read", "labels that cannot be read"),
    "values": ("label with values that have no meaning", "labels with values that have no meaning"),
    "size": ("label of another size than its image", "labels of another size than their images"),
    "unlabelled": ("image without a label", "images without a label"),
    "label-alone": ("label without an image", "labels without an image"),
}
_LISTED = 8  # values named in one line
_LONGEST = 30  # classes whose encoding is written out


@dataclass(frozen=True)
class ProblemSummary:
    """The problems of one kind."""

    kind: Kind
    title: str
    """Such as `3 images without a label`."""
    problems: tuple[FileProblem, ...]
    advice: str
    """What would mend them; of a description the line of YAML."""
    allowed: bool
    """Is it none that keeps the data set from use? An image without a label counts as unlabelled;
    only a built-in data set promises that each has one."""


def summarised(spec: DatasetSpec, report: VerifyReport) -> list[ProblemSummary]:
    """The kinds of problems that a split has, those that are allowed last."""
    found = []
    for kind, (one, several) in _TITLES.items():
        problems = tuple(each for each in report.problems if each.kind == kind)
        if problems:
            count = len(problems)
            title = f"{count:,} {one if count == 1 else several}"
            allowed = kind == "unlabelled" and spec.patterns is not None
            advice = _advice(kind, spec, problems, labels=report.samples - report.unlabelled)
            found.append(ProblemSummary(kind, title, problems, advice, allowed))
    return sorted(found, key=lambda each: each.allowed)


def _advice(kind: Kind, spec: DatasetSpec, problems: Sequence[FileProblem], *, labels: int) -> str:
    own = spec.patterns is not None
    match kind:
        case "values":
            return _of_values(spec, problems, labels=labels) if own else _last_sentence(problems[0])
        case "unlabelled" if own:
            return (
                "They count as unlabelled. On purpose? Write `labelled: some`. Otherwise compare "
                "`patterns` with the names of the labels"
            )
        case "unlabelled":
            return "This data set has a label for each: is the download complete?"
        case "label-alone" if own:
            return "Put their images back, or correct `patterns`: image_extensions, label_suffix"
        case "label-alone":
            return "Put their images back: is the download complete?"
        case "size":
            return "Save image and label with the same size and orientation"
        case "label" if any("holds colours" in each.reason for each in problems):
            return "`zsseg init` makes a data set of pictures of colours"
    return "Replace these files by intact ones, or remove them"


def _of_values(spec: DatasetSpec, problems: Sequence[FileProblem], *, labels: int) -> str:
    """`11 in all labels: void? Write `ignore: [11, 255]``, and what else they may be."""
    holding = Counter(value for each in problems for value in each.values)
    words = [
        f"{value} in {'all' if count == labels else f'{count:,} of {labels:,}'} labels"
        for value, count in sorted(holding.items())
    ]
    more = f" and {len(words) - _LISTED} more" if len(words) > _LISTED else ""
    text = f"{', '.join(words[:_LISTED])}{more}"
    count = len(spec.classes)
    ignore = sorted({*spec.ignore, *holding})
    if len(holding) > _LISTED:
        text += ". List them under `encoding` (value: class id) or `ignore`"
    else:
        text += f": void? Write `ignore: {ignore}`"
    if spec.encoding is None and set(holding) == {count} and count <= _LONGEST:
        pairs = ", ".join(f"{number + 1}: {number}" for number in range(count))
        text += f". Do the ids begin at 1? Write `encoding: {{{pairs}}}` and `ignore: [0, 255]`"
    elif spec.encoding is not None and len(holding) <= _LISTED:
        text += ". A class? Add `value: class id` to `encoding`"
    return text


def _last_sentence(problem: FileProblem) -> str:
    return problem.reason.rpartition("px). ")[2] or problem.reason
