"""Shared by the commands on a trained run: its evaluation settings, and CLIP for new names."""

import csv
from pathlib import Path
from typing import TYPE_CHECKING, cast

from zsseg.pipeline.settings import apply_settings, build
from zsseg.stages.errors import UserError
from zsseg.stages.file_bytes import read_text_file
from zsseg.stages.yaml_files import parse_yaml

_SHOWN = 3
"""Names in a message."""

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from zsseg.stages.data.spec import Colour
    from zsseg.stages.evaluate.trained_run import TrainedRun
    from zsseg.stages.train.run_config import EvaluateConfig

    Embeddings = NDArray[np.float32]


def evaluate_config(
    run: Path, calibration: float | None, settings: "Sequence[str]"
) -> "EvaluateConfig":
    """The run's own evaluation settings, with the changes of the command line."""
    from zsseg.stages.train.run.run_folder import read_record
    from zsseg.stages.train.run_config import RunConfig

    if wrong := [setting for setting in settings if not setting.startswith("evaluate.")]:
        raise UserError(f"--set {wrong[0]}: the run is trained; set only evaluate.* now")
    values = read_record(run).config.model_dump(mode="json")
    changes = [*settings]
    if calibration is not None:
        changes.append(f"evaluate.calibration={calibration}")
    return build(RunConfig, apply_settings(values, changes), where="--set").evaluate


def fixed_settings(settings: "Sequence[str]") -> frozenset[str]:
    """Names of the evaluation settings that the command line gives: they are never changed."""
    return frozenset(each.partition("=")[0].strip().removeprefix("evaluate.") for each in settings)


def read_names(text: str | None, option: str) -> list[str]:
    """Names separated by commas, with double quotes around one that holds a comma; or `@FILE` with
    one name in a line. No text, no names.
    """
    if text is None:
        return []
    if not text.strip():
        raise UserError(f"{option} '{text}': holds no name. Give at least one")
    if text.startswith("@"):
        return _names_of_file(Path(text[1:]), option)
    try:
        (names,) = csv.reader(filter(None, [text]), skipinitialspace=True, strict=True)
    except (csv.Error, ValueError) as error:
        raise UserError(
            f"{option} {text}: not a list of names ({error}). Separate names by commas; only one "
            'that holds a comma needs quotes: car, "bed, double"'
        ) from error
    return [name.strip() for name in names]


def _names_of_file(path: Path, option: str) -> list[str]:
    try:
        lines = read_text_file(path).split("\n")
    except UserError as error:
        raise UserError(f"{option} @{error}") from error
    names = [line.strip() for line in lines if line.strip()]
    if not names:
        raise UserError(f"{option} @{path}: holds no name. Write one in a line")
    return names


def read_palette(text: str) -> "dict[str, Colour] | None":
    """Colours by name: None for `dataset`, none for `names`, else those of a file, a mapping or a
    `classes.json` of `zsseg predict`.
    """
    from pydantic import TypeAdapter, ValidationError

    from zsseg.stages.data.spec import Colour

    if text in ("dataset", "names"):
        return None if text == "dataset" else {}
    values = parse_yaml(read_text_file(Path(text), kind="palette"), where=f"--palette {text}")
    try:
        if isinstance(values, list):
            values = {each["name"]: each["colour"] for each in values}
        return TypeAdapter(dict[str, Colour]).validate_python(values)
    except (KeyError, TypeError, ValidationError) as error:
        raise UserError(
            f"--palette {text}: not colours by name. Write a line such as car: '#0000ff' for each, "
            "or give dataset, names or the classes.json of an earlier prediction"
        ) from error


def text_encoder(
    run: "TrainedRun", teacher: str | None = None
) -> "Callable[[Sequence[str]], Embeddings]":
    """CLIP's text tower with the run's templates, loaded when it is first called.

    Raises what loading it raises, with what else can be done.
    """

    def encode(names: "Sequence[str]") -> "Embeddings":
        from zsseg.stages.precompute.teacher.teacher_files import resolve_teacher
        from zsseg.stages.precompute.teacher.text_embeddings import (
            Synonyms,
            Templates,
            encode_names,
        )

        templates = cast(Templates, run.record.templates)
        synonyms = cast(Synonyms, run.record.synonyms)
        spec, typed = teacher or run.record.teacher, teacher is not None
        try:
            files = resolve_teacher(spec, typed=typed)
        except UserError as error:
            new = ", ".join(f"'{name}'" for name in names[1:][:_SHOWN])
            error.args = (
                *([f"{new}: new to the run, so its CLIP is needed once"] if new else []),
                *error.args,
                "Say where the run's CLIP is now with --teacher; or make the embeddings where it "
                "is with `zsseg names`, and give them to `zsseg predict` with --names",
            )
            raise
        return encode_names(files, names, templates, synonyms=synonyms)

    return encode
