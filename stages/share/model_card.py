"""The model card: README.md of a student that is handed on, in the Hub's form."""

import json
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from typing import Any

from zsseg.stages.evaluate.trained_run import TrainedRun
from zsseg.stages.share.run_facts import evaluations, licences, teacher_name

_SCORES = ("hIoU", "sIoU", "uIoU", "mIoU", "pAcc")


def model_card(run: TrainedRun, *, picture: str | None) -> str:
    """The card in Markdown; `picture`: the file beside it that shows a prediction."""
    spec, config = run.spec, run.record.config
    seen = [spec.classes[i] for i in spec.seen_ids]
    front = {
        "library_name": "zsseg",
        "pipeline_tag": "image-segmentation",
        "tags": ["zero-shot-segmentation", "semantic-segmentation"],
        "license": "other",
    }
    shown = [f"![{_text('A prediction')}]({picture})"] if picture else []
    parts = [
        "---\n" + "".join(f"{key}: {json.dumps(value)}\n" for key, value in front.items()) + "---",
        f"# {_text(run.record.experiment)} on {_text(spec.name)}",
        f"A student for semantic segmentation of any class names, trained by zsseg "
        f"{version('zsseg')}. It needs no CLIP to find the classes below; for other names CLIP's "
        "text tower is loaded once.",
        *shown,
        "```python\nimport zsseg\n\n"
        'model = zsseg.load("THIS_FOLDER")\n'
        f'model.predict("image.jpg", classes={json.dumps(list(spec.classes[:2]))}).overlay()\n```',
        "## What it was trained on\n\n"
        f"- Data set: {_text(spec.name)}, split {_text(run.record.split)} ({_text(spec.about)})\n"
        f"- Seen classes, with labels ({len(seen)}): {_names(seen)}\n"
        f"- Unseen classes, by their names ({len(spec.unseen)}): {_names(spec.unseen)}\n"
        f"- Protocol: {config.protocol}\n"
        f"- Teacher: {_text(teacher_name(run))}\n"
        f"- Student: {_text(config.student.architecture)}, encoder {_text(config.student.encoder)}"
        f"; {run.step} steps",
        "## Scores\n\n" + _scores(evaluations(run.path)),
        f"## Licences\n\n{_text(licences(run))}",
        "## Settings\n\n```json\n"
        + json.dumps(config.model_dump(mode="json"), indent=1, sort_keys=True)
        + "\n```",
    ]
    return "\n\n".join(parts) + "\n"


def _scores(found: Sequence[Mapping[str, Any]]) -> str:
    if not found:
        return (
            "None: the run had not been scored. `zsseg evaluate --run RUN --split val` does, where "
            "labels of all classes are."
        )
    lines = [
        f"| scored | gamma | images | {' | '.join(_SCORES)} |",
        f"|---|---|---|{'---|' * len(_SCORES)}",
    ]
    for each in found:
        scores = each["scores"]
        values = (scores.get(name) for name in _SCORES)
        cells = ["-" if value is None else f"{100 * value:.1f}" for value in values]
        what = f"{each['subject']}, {each['dataset']} {each['split']}"
        gamma = each["settings"].get("calibration", 0)
        lines.append(f"| {_text(what)} | {gamma} | {each['images']} | {' | '.join(cells)} |")
    return "\n".join(lines) + (
        "\n\nIn percent; IoU accumulated over the whole split, all classes in one argmax. sIoU and "
        "uIoU: means over the seen and the unseen classes; hIoU: their harmonic mean. Made by "
        "`zsseg evaluate --run RUN --split SPLIT`, with `--calibration GAMMA` where there is one."
    )


def _names(names: Sequence[str]) -> str:
    return ", ".join(map(_text, names)) or "none"


def _text(text: object) -> str:
    """Text of a user as Markdown shows it: no markup, no line ends, no end of a table's cell."""
    flat = " ".join(str(text).split())
    return "".join(f"\\{each}" if each in "\\`*_{}[]<>#|!" else each for each in flat)
