"""A step whose loss or gradient is not finite, kept on disk so that it can be done again.

non_finite/step-000200.safetensors  the step's batch, of all processes: tensors by field of `Batch`
non_finite/step-000200.json         step, images, losses, checkpoint with the weights, and the
                                    configuration; random numbers follow from its seed and the step
"""

import json
from dataclasses import dataclass, fields
from math import isfinite
from pathlib import Path

import torch
from pydantic import BaseModel, ConfigDict, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save

from zsseg.stages.cache.disk.durable import write_durably
from zsseg.stages.cache.format.recipe import differing_fields
from zsseg.stages.cache.reader import Store
from zsseg.stages.device import choose_device
from zsseg.stages.errors import NonFiniteError, ResourceError, UserError
from zsseg.stages.printable import first_line
from zsseg.stages.setting_marks import InReplay, marked, selection
from zsseg.stages.train.batches.batch import Batch
from zsseg.stages.train.batches.known_classes import make_classes
from zsseg.stages.train.processes import gathered, processes
from zsseg.stages.train.run import checkpoint
from zsseg.stages.train.run.run_folder import is_run, read_record, read_text
from zsseg.stages.train.run_config import RunConfig
from zsseg.stages.train.state import State, is_finite, load_state, new_state, save_state
from zsseg.stages.train.step import StepResult, gradients, restore
from zsseg.stages.train.student_precision import autocast_type

_FOLDER = "non_finite"


class Capture(BaseModel):
    """The content of the JSON file."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    format: int = 1
    step: int
    images: tuple[str, ...]
    """Ids of the batch's images, in its order."""
    losses: dict[str, str]
    """Losses, total and gradient norm as text, because JSON has no NaN."""
    checkpoint: str
    """Name of the folder with the weights before the step."""
    parts: int
    """Parts that all processes together divided the batch into."""
    config: RunConfig


@dataclass(frozen=True)
class Replay:
    """A captured step, done again."""

    step: int
    images: tuple[str, ...]
    losses: dict[str, float]
    """Unweighted losses, `total` and `gradient norm`."""

    @property
    def bad(self) -> list[str]:
        """What is not finite, by name and value; nothing when the step could be made."""
        return _bad(self.losses)


def finite(outcome: StepResult, state: State) -> bool:
    """May the step be made? With an infinite gradient of fp16 it may: its scaler leaves that step
    out and halves its scale, until a scale of 1 shows that the gradient itself is not finite."""
    scale = state.scaler.scale(torch.ones_like(outcome.total))
    fits = outcome.norm.isfinite() | (scale > 1)
    # The only number of a step that the host waits for: a step cannot be taken back.
    return bool(outcome.total.isfinite() & fits)


def capture(
    out: Path,
    step: int,
    batch: Batch,
    outcome: StepResult,
    state: State,
    config: RunConfig,
    *,
    store: Store,
) -> NonFiniteError:
    """Save the weights and the batch of a step that is not finite; returns the error to raise.

    Every process calls it, and process 0 writes. Weights that are not finite are not saved.
    """
    batch = batch.each(gathered)
    restore(state, outcome.buffers)
    values = _values(outcome)
    images = tuple(str(store.index[row]["id"]) for row in batch.row_B.tolist())
    bad = ", ".join(_bad(values))
    what = f"step {step}: {bad}, with the images {', '.join(images)}. The weights before this step"
    lower = (
        "Start a new run with a lower train.learning_rate, with train.clip_norm=1 or with "
        "train.precision=fp32"
    )
    if not is_finite(state):
        return NonFiniteError(f"{what} are not finite either: use the checkpoint before. {lower}")
    number, count = processes()
    file = out / _FOLDER / f"step-{step:06d}.json"
    if number == 0:
        saved = save_state(out, step, state)
        tensors = {
            name: tensor.cpu().contiguous()
            for name in (field.name for field in fields(Batch))
            if (tensor := getattr(batch, name)) is not None
        }
        written = Capture(
            step=step,
            images=images,
            losses={name: str(value) for name, value in values.items()},
            checkpoint=saved.name,
            parts=state.parts * count,
            config=config,
        )
        try:
            write_durably(file.with_suffix(".safetensors"), save(tensors))
            write_durably(file, (written.model_dump_json(indent=2) + "\n").encode())
        except OSError as error:
            raise ResourceError(
                f"{what} are saved in {saved}, but its batch is not ({error}). Free disk space. "
                f"{lower}"
            ) from error
    return NonFiniteError(
        f"{what} are saved in {checkpoint.folder_of(out, step)}, its batch beside {file}: "
        f"`zsseg train --replay {file}` does it again, with --set to try other settings. {lower}"
    )


def read_capture(path: Path) -> tuple[Capture, Batch]:
    """A capture and its batch, on the CPU. Raises UserError when it is missing or damaged."""
    try:
        written = Capture.model_validate_json(path.read_bytes())
        tensors = load_file(path.with_suffix(".safetensors"))
        batch = Batch(**{field.name: tensors.get(field.name) for field in fields(Batch)})  # type: ignore[arg-type]
    except (OSError, SafetensorError, ValidationError, json.JSONDecodeError) as error:
        reason = first_line(error)
        raise UserError(
            f"{path}: not a saved step, or a damaged one ({reason}). Give the .json file that "
            f"a run wrote into its folder {_FOLDER}, with the .safetensors file beside it"
        ) from error
    return written, batch


def replay(path: Path, config: RunConfig) -> Replay:
    """Do a captured step again, with the weights from before it; `config` may be another.

    Raises UserError when the capture, its run or its checkpoint is gone, when the student is
    another, when `config` needs what the run did not read, and when it changes what no captured
    step depends on.
    """
    written, batch = read_capture(path)
    run = path.resolve().parents[1]
    folder = run / "checkpoints" / written.checkpoint
    if not is_run(run) or not folder.is_dir():
        raise UserError(
            f"{path}: needs its run's record and {folder}, and not both are there. Leave a capture "
            "in the folder of its run"
        )
    record, text_CD = read_record(run), read_text(run)
    if changed := _changed(written.config, config, "fixed"):
        raise UserError(
            f"{path}: its weights belong to another student:",
            *map("  {}".format, changed),
            "Leave these settings out",
        )
    if lacking := _lacking(written, batch, config):
        raise UserError(
            f"{path}: the step was made without {', '.join(lacking)}, so it cannot be done again "
            "with settings that need them. Leave objectives.* and self_training.* out that the run "
            "did not have"
        )
    if changed := _changed(written.config, config, "nothing"):
        raise UserError(
            f"{path}: holds the crops that the step saw, and a replay moves no weights, so these "
            "settings change nothing:",
            *map("  {}".format, changed),
            "Leave them out, or try them in a new run",
        )
    device = choose_device(config.train.device)
    state = new_state(
        config,
        width=text_CD.shape[-1],
        device=device,
        precision=autocast_type(config.train.precision, device),
        weights=False,
    )
    load_state(folder, state)
    if config.train.accumulate == written.config.train.accumulate:
        state.parts = written.parts  # which may be more, where memory was short
    state.parts = min(state.parts, len(batch.row_B))
    classes = make_classes(record.dataset, text_CD, device, protocol=config.protocol)
    outcome = gradients(state, batch.to(device), classes, config, number=written.step, logs=False)
    return Replay(written.step, written.images, _values(outcome))


def _changed(then: RunConfig, now: RunConfig, replay: InReplay) -> list[str]:
    """Settings with this mark that differ from those of the run, in words."""
    fields = selection(marked(RunConfig, replay=replay))
    old, new = (each.model_dump(mode="json", include=fields) for each in (then, now))
    return differing_fields(old, new, sides=("the run had", "asked"))


def _lacking(written: Capture, batch: Batch, config: RunConfig) -> list[str]:
    """Inputs that the settings need and that a captured step did not have."""
    regions, dense = (
        any(each is not None for each in given)
        for given in (
            (batch.region_BHW, batch.image_region_Bhw),
            (batch.dense_BDyx, batch.image_dense_BDhw),
        )
    )
    needs = {
        "CLIP's tokens of the images": (config.uses_token, batch.token_BD is not None),
        "latent regions": (config.uses_regions, regions),
        "local tokens": (config.uses_local, batch.local_BKD is not None),
        "dense tokens": (config.objectives.need("dense"), dense),
        "the teacher's names of pixels": (
            config.asks_teacher,
            dense or batch.names_B3qr is not None,
        ),
        "an averaged student": (config.uses_average, written.config.uses_average),
    }
    return [what for what, (needed, there) in needs.items() if needed and not there]


def _bad(values: dict[str, float]) -> list[str]:
    bad = {name: value for name, value in values.items() if not isfinite(value)}
    if len(bad) > 1:
        bad.pop("total", None)  # adds nothing to its parts
    return [f"{name} {value}" for name, value in bad.items()]


def _values(outcome: StepResult) -> dict[str, float]:
    scalars = {**outcome.losses, "total": outcome.total, "gradient norm": outcome.norm}
    return {name: float(value) for name, value in scalars.items()}
