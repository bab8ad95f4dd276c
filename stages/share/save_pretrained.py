"""Writes the folder of a student that is handed on (read by `stages/train/run/pretrained.py`)."""

import shutil
from importlib.metadata import version
from pathlib import Path

from safetensors.torch import save

from zsseg.stages.cache.disk.disk_errors import disk_errors
from zsseg.stages.cache.disk.durable import write_durably
from zsseg.stages.data.images import jpeg_bytes, read_image
from zsseg.stages.errors import UserError
from zsseg.stages.evaluate.asked_names import with_text
from zsseg.stages.evaluate.prediction import Look
from zsseg.stages.evaluate.predictor import Predictor
from zsseg.stages.evaluate.trained_run import TrainedRun
from zsseg.stages.share.model_card import model_card
from zsseg.stages.share.run_facts import teacher_name
from zsseg.stages.train.run.pretrained import (
    MANIFEST,
    WEIGHTS,
    PretrainedManifest,
    hashed,
    is_pretrained,
    what_else_is_in,
)
from zsseg.stages.train.run.run_folder import handed_on

_RECORD, _TEXT, _CARD, _PICTURE = "run.json", "text.safetensors", "README.md", "picture.jpg"


def save_pretrained(
    run: TrainedRun, out: Path, *, image: Path | None = None, force: bool = False
) -> tuple[Path, ...]:
    """Write a student as a folder that `zsseg.load` and every `--run` take; the files written.

    The folder holds no path of this machine, and no image of the data set: `image` is one that may
    be handed on, and the card shows what the student makes of it. Raises UserError where something
    else is there already (`force` replaces a folder of this kind), DatasetError for an image that
    cannot be read, ResourceError where the folder cannot be written. Then nothing of it is left.
    """
    _check_place(run, out, force=force)
    picture = None if image is None else _picture(run, image)
    with disk_errors(out.parent, out.name):
        made = out.with_name(f".{out.name}.partial")
        shutil.rmtree(made, ignore_errors=True)
        made.mkdir(parents=True)
        try:
            weights = {name: each.contiguous() for name, each in run.student.state_dict().items()}
            write_durably(made / WEIGHTS, save(weights))
            shutil.copyfile(run.path / _TEXT, made / _TEXT)
            record = handed_on(run.record, teacher=teacher_name(run))
            write_durably(made / _RECORD, record.encode())
            if picture is not None:
                write_durably(made / _PICTURE, picture)
            card = model_card(run, picture=None if picture is None else _PICTURE)
            write_durably(made / _CARD, card.encode())
            files = {name: hashed(made / name) for name in (WEIGHTS, _TEXT, _RECORD)}
            manifest = PretrainedManifest(version=version("zsseg"), step=run.step, files=files)
            write_durably(made / MANIFEST, f"{manifest.model_dump_json(indent=2)}\n".encode())
            _put(made, out)
        finally:
            shutil.rmtree(made, ignore_errors=True)
    return tuple(sorted(out.iterdir()))


def _put(made: Path, out: Path) -> None:
    """Give a finished folder its name; one that has it goes only when that is done."""
    before = out.with_name(f".{out.name}.before")
    if out.exists():
        out.rename(before)
    try:
        made.rename(out)
    except OSError:
        if before.exists():
            before.rename(out)
        raise
    shutil.rmtree(before, ignore_errors=True)


def _check_place(run: TrainedRun, out: Path, *, force: bool) -> None:
    if out.resolve() == run.path.resolve():
        raise UserError(f"{out}: is the run's own folder. Give --out another one")
    if not out.exists():
        return
    if not is_pretrained(out) or (foreign := what_else_is_in(out)):
        what = "no folder of a student" if not is_pretrained(out) else f"holds {foreign}, not ours"
        raise UserError(f"{out}: is there, and {what}. Give another --out")
    if not force:
        raise UserError(f"{out}: is there already. Give another --out, or add --force")


def _picture(run: TrainedRun, image: Path) -> bytes:
    asked = with_text(run, run.spec.classes, (), run.text_CD)
    found = Predictor(run, asked).predict(read_image(image), name=str(image))
    return jpeg_bytes(found.overlay_pixels(Look(legend=True)))
