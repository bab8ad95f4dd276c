"""A run folder: its record, its text embeddings, and the lock of the training that writes it.

run.json            RunRecord, as the run was started, and a hash of it (`check`; not in runs of
                    zsseg 0.1); never changed afterwards
text.safetensors    text (C, D), or (C, S, D) of several names of a class (`best_names.py`): text
                    embeddings, so that nothing needs the store
plan.yaml           of a planned run: its settings and why, for `zsseg train --config`
resumed.jsonl       one line per resumption: step, versions, revision, processes, and
                    the settings that were changed
metrics.jsonl, tensorboard/    see metrics_log
metrics.previous.jsonl    log of an attempt that ended before its first checkpoint
checkpoints/        see checkpoint
.lock, .writer.json    of the one training that writes here: see `zsseg.stages.cache.disk.lock`
"""

import json
import logging
import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict, ValidationError
from safetensors import SafetensorError

from zsseg.stages.cache.disk.disk_errors import disk_errors
from zsseg.stages.cache.disk.durable import PARTIAL, append_durably, make_folder, write_durably
from zsseg.stages.cache.disk.hashing import hash_bytes, hash_file
from zsseg.stages.cache.disk.json_files import json_lines
from zsseg.stages.cache.disk.lock import HOLDER, LOCK, acquire, held_by
from zsseg.stages.cache.format.recipe import differing_fields, fingerprint
from zsseg.stages.data.spec import DatasetSpec
from zsseg.stages.errors import CacheLocked, UserError
from zsseg.stages.file_bytes import TEXT_BYTES, read_file
from zsseg.stages.setting_marks import marked, selection
from zsseg.stages.train.run.pretrained import is_pretrained
from zsseg.stages.train.run_config import RunConfig
from zsseg.stages.validation_errors import error_lines

if TYPE_CHECKING:
    from torch import Tensor

# torch is loaded by what reads and writes tensors: a mistake in a setting is told without it.
_RECORD, _TEXT, _RESUMED = "run.json", "text.safetensors", "resumed.jsonl"
_CHECKPOINTS = "checkpoints"
PLAN_FILE = "plan.yaml"
"""Of a run whose settings zsseg planned."""
_OLD_LOG = "metrics.previous.jsonl"
_FIRST_FILES = {LOCK, HOLDER, _TEXT, _TEXT + PARTIAL, _RECORD + PARTIAL}
"""What a folder may hold when its run was killed before the record was written."""
_PACKAGES = ("torch", "segmentation_models_pytorch", "timm", "albumentations", "numpy", "pillow")

logger = logging.getLogger(__name__)


class RunRecord(BaseModel):
    """One run of stage two, complete enough to resume, evaluate and repeat it."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    format: int = 1
    experiment: str
    config: RunConfig
    dataset: DatasetSpec
    split: str
    root: Path
    teacher: str
    """CLIP's name or folder, for embedding other class names later."""
    templates: str
    """Name of the prompt templates of the text embeddings."""
    synonyms: str = "mean"
    """What is made of several names of a class: the store's text.synonyms."""
    store: str
    """Path or URL."""
    store_fingerprint: str
    versions: dict[str, str]
    revision: str | None
    """git revision of the code, `-dirty` with uncommitted changes; None outside a checkout."""
    processes: int = 1
    """How many processes shared each batch."""
    text_hash: str | None = None
    """xxh3_128 of text.safetensors; None in runs of zsseg 0.1."""
    check: str | None = None
    """Fingerprint of the rest of the file; None in runs of zsseg 0.1."""


def package_versions() -> dict[str, str]:
    """Versions of the packages that a run's numbers depend on."""
    return {name: version(name) for name in _PACKAGES}


def git_revision() -> str | None:
    """The checked out revision of this code, if it runs from a git checkout."""
    checkout = Path(__file__).resolve().parents[3]  # `zsseg/stages` is a link to `stages`
    if not (checkout / ".git").exists():
        return None
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        done = subprocess.run(command, cwd=checkout, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        logger.warning("git revision unknown: %s", error)
        return None
    return done.stdout.strip()


@contextmanager
def only_writer(out: Path) -> Iterator[None]:
    """Lock a run folder against other trainings; a folder made here is removed if it stays empty.

    Raises CacheLocked when another process trains into it, UserError when it is something else,
    and ResourceError when it cannot be written.
    """
    check_new_or_run(out)
    new = not out.exists()
    with disk_errors(out, f"its {LOCK}"):
        make_folder(out)
        try:
            lock = acquire(out)
        except CacheLocked as error:
            raise CacheLocked(
                f"{out}: {held_by(out)} trains into this folder. Wait until it ends, and the lock "
                "with it, or give another --out"
            ) from error
    try:
        yield
    finally:
        # Where the folder or its disk is gone, the error of the training must still be seen, and
        # the lock released.
        with suppress(OSError):
            if new and _names(out) <= {LOCK, HOLDER}:
                shutil.rmtree(out, ignore_errors=True)
        with suppress(OSError):
            lock.release(out)


def is_checkpoint(folder: Path) -> bool:
    """Has a folder the name of a checkpoint? A partial one or a copy (step-000200.bak) has not."""
    return re.fullmatch(r"step-\d+", folder.name) is not None


def has_checkpoint(out: Path) -> bool:
    """Has a run a checkpoint, be it a damaged one? Without one there is nothing to go on with."""
    return any(map(is_checkpoint, (out / _CHECKPOINTS).glob("step-*")))


def check_folder(out: Path, record: RunRecord, *, resume: bool) -> bool:
    """Is there a run to go on with? False: `write_record` may make one here.

    A run that failed before its first checkpoint counts as none. Raises UserError for a run without
    `resume`, for one that was started with other settings (those that change no result may differ:
    `Mark.result`), and for a folder that holds anything else.
    """
    check_new_or_run(out)
    if not (out / _RECORD).exists():
        return False
    # Damaged checkpoints count: a person should look at them before anything replaces them.
    if not has_checkpoint(out):
        _check_no_scores(out)
        return False
    if not resume:
        raise UserError(
            f"{out}: holds a run already. Go on with it by --resume, or give another --out"
        )
    if changed := differing_fields(_comparable(read_record(out)), _comparable(record)):
        raise UserError(
            f"{out}: cannot be resumed with other settings:",
            *map("  {}".format, changed),
            "Resume with the settings it was started with, or give another --out",
        )
    return True


def check_new_or_run(out: Path) -> None:
    """Raise UserError for a path that is there and is no run, not even the beginning of one."""
    if is_pretrained(out):
        raise UserError(
            f"{out}: a student that is handed on, without what a training needs. Give another --out"
        )
    if is_run(out) or not out.exists():
        return
    if not (out.is_dir() and _names(out) <= _FIRST_FILES):
        raise UserError(f"{out}: exists and is no run. Give another --out")


def _check_no_scores(out: Path) -> None:
    """Raise UserError for a run whose checkpoints were deleted, but which was scored."""
    if scores := sorted(path.name for path in out.glob("evaluation-*")):
        raise UserError(
            f"{out}: its checkpoints are gone, and scores of its student are there "
            f"({', '.join(scores[:3])}), which would be taken for those of a new one. Put the "
            "checkpoints back, delete or move the folder, or give another --out"
        )


def _names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def write_record(
    out: Path, record: RunRecord, text_CD: "Tensor", *, plan: str | None = None
) -> None:
    """Make the folder a run: its text embeddings, then its record; then the plan, if there is one.

    What a run without a checkpoint left there is deleted first, and its log is set aside; other
    files stay. Raises UserError for paths that are no text: the record is JSON,
    and TensorBoard's log takes no other.
    """
    from safetensors.torch import save

    for path in (str(out), record.store, str(record.root), record.teacher):
        if any("\udc80" <= each <= "\udcff" for each in path):
            raise UserError(
                f"{path}: this name is not UTF-8, as the files of a run are. Rename the folder"
            )
    (out / _RESUMED).unlink(missing_ok=True)
    if (log := out / "metrics.jsonl").exists():
        kept = out / _OLD_LOG
        log.replace(kept)
        logger.warning("%s: a run without a checkpoint is begun anew; its log is kept", kept)
    for folder in (out / "tensorboard", *(out / _CHECKPOINTS).glob(f"step-*{PARTIAL}")):
        shutil.rmtree(folder, ignore_errors=True)
    text = save({"text": text_CD.contiguous()})
    record = record.model_copy(update={"text_hash": hash_bytes(text), "check": None})
    record = record.model_copy(update={"check": _check_of(record.model_dump_json())})
    write_durably(out / _TEXT, text)
    write_durably(out / _RECORD, (record.model_dump_json(indent=2) + "\n").encode())
    (out / PLAN_FILE).unlink(missing_ok=True)
    if plan is not None:
        write_durably(out / PLAN_FILE, plan.encode())


def handed_on(record: RunRecord, *, teacher: str) -> str:
    """A record as text for another machine: without the folders of this one."""
    kept = record.model_copy(
        update={
            "root": Path(record.dataset.name),
            "store": record.store.rstrip("/").rpartition("/")[2],
            "teacher": teacher,
            "check": None,
        }
    )
    checked = kept.model_copy(update={"check": _check_of(kept.model_dump_json())})
    return checked.model_dump_json(indent=2) + "\n"


def note_resumption(run: Path, step: int, record: RunRecord) -> None:
    """Add to the run's `resumed.jsonl` that it goes on after `step` steps, with which code, and
    which settings are not those that it was started with."""
    changed = differing_fields(
        read_record(run).config.model_dump(),
        record.config.model_dump(),
        sides=("started with", "now"),
    )
    entry = {
        "step": step,
        "versions": record.versions,
        "revision": record.revision,
        "processes": record.processes,
        "changed": changed,
    }
    append_durably(run / _RESUMED, json_lines([entry]))


def is_run(path: Path) -> bool:
    """Does a path hold the record of a run?"""
    return (path / _RECORD).is_file()


def read_record(run: Path) -> RunRecord:
    """The record of a run. Raises UserError when there is none, or when it is damaged."""
    path = run / _RECORD
    try:
        content = read_file(path, at_most=TEXT_BYTES)
        record = RunRecord.model_validate_json(content)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise UserError(
            f"{path}: the file is missing, so {run} is no run. Give a folder that `zsseg train` "
            "wrote"
        ) from error
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error}). Put the file back") from error
    except ValidationError as error:
        lines = error_lines(RunRecord, error)
        raise UserError(
            f"{path}: damaged, or of another version: {'; '.join(lines)}. Use the version of zsseg "
            "that trained this run, or train it again"
        ) from error
    if record.check not in (None, _check_of(content)):
        raise UserError(
            f"{path}: damaged: it does not fit its own checksum. Put the file back, or train the "
            "run again. If you have changed it on purpose, delete its entry `check`"
        )
    return record


def _check_of(content: str | bytes) -> str:
    """Fingerprint of a record's JSON without its own `check`."""
    return fingerprint({**json.loads(content), "check": None})


def read_text(run: Path) -> "Tensor":
    """(C, D) or (C, S, D) float32 text embeddings of a run's classes. Raises UserError."""
    from safetensors.torch import load_file

    path = run / _TEXT
    try:
        wanted = read_record(run).text_hash if is_run(run) else None
        if wanted not in (None, hash_file(path)):
            raise UserError(
                f"{path}: damaged: its content is not what was written. Put the file back, or "
                "train the run again"
            )
        return load_file(path)["text"].float()
    except (OSError, SafetensorError, KeyError) as error:
        raise UserError(f"{path}: missing or damaged ({error}). Train the run again") from error


def _comparable(record: RunRecord) -> dict[str, object]:
    """What must not change between a run's start and its resumption."""
    return record.model_dump(
        mode="json",
        include={"config": True, "dataset": True, "store_fingerprint": True},
        exclude={"config": selection(marked(RunConfig, result=False)), "dataset": {"colours"}},
    )
