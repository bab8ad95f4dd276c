"""What the commands `precompute`, `train` and `evaluate` do, as functions.

Settings are those of the commands: `settings={"train.steps": 100}` is `--set train.steps=100`.
Paths may be text; a cache may be a URL (s3://bucket/folder).
"""

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zsseg.pipeline.named_stores import dataset_root, stored_spec, training_store
from zsseg.pipeline.run_options import evaluate_config, fixed_settings, text_encoder
from zsseg.pipeline.settings import apply_settings, build, read_experiment
from zsseg.pipeline.training_plan import PLANNED, check_given, planned
from zsseg.stages.cache.disk.store_path import store_path
from zsseg.stages.cache.reader import Store
from zsseg.stages.data.spec import chosen_root, described_root, load_spec
from zsseg.stages.errors import UserError

if TYPE_CHECKING:
    from zsseg.pipeline.face.model import Model
    from zsseg.stages.evaluate.result import EvaluationResult
    from zsseg.stages.precompute.run import PrecomputeResult
    from zsseg.stages.train.batches.training_data import TrainingData
    from zsseg.stages.train.run_config import RunConfig

logger = logging.getLogger(__name__)

Done = Callable[[int, int], None]
"""Is called now and then with what is done and what there is to do."""

CACHE = "data_cache"


def precompute(
    dataset: str | Path,
    *,
    teacher: str,
    root: str | Path | None = None,
    split: str = "train",
    cache: str | Path = CACHE,
    settings: Mapping[str, Any] | None = None,
    progress: Done | None = None,
) -> "PrecomputeResult":
    """Stage one: run CLIP once over a split and write the store; called again it goes on.

    `dataset`: a built-in name, or a description (YAML). Raises as `zsseg precompute` does, with
    subclasses of `UserError`.
    """
    from zsseg.stages.precompute.plan.request import PrecomputeRequest
    from zsseg.stages.precompute.precompute_config import PrecomputeConfig
    from zsseg.stages.precompute.run import precompute as run

    named = str(dataset)
    values = apply_settings({}, _texts(settings))
    request = PrecomputeRequest(
        spec=load_spec(named),
        root=chosen_root(named, None if root is None else Path(root)),
        split=split,
        teacher=teacher,
        typed=True,
        cache=store_path(cache),
        config=build(PrecomputeConfig, values, where="precompute"),
        limit=None,
    )
    return run(request, progress=lambda now: _tell(progress, now.done, now.total), update=False)


def train(
    *,
    out: str | Path,
    config: str | Path | None = None,
    cache: str | Path = CACHE,
    root: str | Path | None = None,
    settings: Mapping[str, Any] | None = None,
    resume: bool = False,
    progress: Done | None = None,
) -> "Model":
    """Stage two: train a student against a store, and give it back; CLIP is not loaded.

    `config`: an experiment by name (`zsseg config ls`), or a YAML file; without one the settings
    are planned, and logged with their reasons. `resume`: go on from the last checkpoint in `out`,
    if there is one. Raises as `zsseg train` does.
    """
    from zsseg.pipeline.face.model import load
    from zsseg.stages.evaluate.validator import make_validator
    from zsseg.stages.train.batches.training_data import TrainingData
    from zsseg.stages.train.loop import TrainExtras
    from zsseg.stages.train.loop import train as run

    changes = _texts(settings)
    if config is None and not resume:
        check_given(changes)
    store = Store.open(training_store(store_path(cache)))
    folder = dataset_root(None if root is None else Path(root), store)
    data = TrainingData(store, stored_spec(store), folder)
    begun = Path(out) if resume else None
    name, checked, plan = _training_settings(config, changes, data, begun=begun)
    run(
        checked,
        data,
        out=Path(out),
        resume=resume,
        experiment=name,
        extras=TrainExtras(plan, make_validator),
        progress=lambda now: _tell(progress, now.step, now.steps),
    )
    return load(out)


def _training_settings(
    config: str | Path | None, changes: Sequence[str], data: "TrainingData", *, begun: Path | None
) -> "tuple[str, RunConfig, str | None]":
    """Name and settings of a training, and the text of its plan where it is planned here."""
    from zsseg.stages.train.run.run_folder import is_run, read_record
    from zsseg.stages.train.run_config import RunConfig

    if config is not None:
        values, name = read_experiment(str(config)), Path(config).stem
    elif begun is not None and is_run(begun):
        record = read_record(begun)
        values, name = record.config.model_dump(mode="json"), record.experiment
    else:
        plan = planned(data, changes, minutes=None, tell=logger.info)
        return PLANNED, plan.config(), plan.text()
    where = str(begun if config is None else config)
    return name, build(RunConfig, apply_settings(values, changes), where=where), None


def evaluate(
    model: "Model | str | Path",
    *,
    split: str = "val",
    dataset: str | Path | None = None,
    root: str | Path | None = None,
    calibration: float | None = None,
    settings: Mapping[str, Any] | None = None,
    progress: Done | None = None,
) -> "list[EvaluationResult]":
    """The scores of a student on a split: hIoU, sIoU, uIoU and every class.

    With a gamma (`calibration`, or the run's own) above 0 two results, with and without it. Nothing
    is written. `dataset`: another one than the run's. Raises as `zsseg evaluate` does.
    """
    from zsseg.pipeline.face.model import Model
    from zsseg.stages.evaluate.evaluation import evaluate_run
    from zsseg.stages.evaluate.trained_run import load_run
    from zsseg.stages.evaluate.vocabulary import renamed

    path = model.run.path if isinstance(model, Model) else Path(model)
    teacher = model.teacher if isinstance(model, Model) else None
    changes = _texts(settings)
    opened = load_run(path, evaluate=evaluate_config(path, calibration, changes))
    student = replace(opened, fixed=fixed_settings(changes))
    named = None if dataset is None else str(dataset)
    spec = student.spec if named is None else load_spec(named)
    own = described_root(named) if named else None
    folder = Path(root) if root is not None else own or student.record.root
    asked = renamed(student, spec, encode=text_encoder(student, teacher), teacher=teacher)
    return list(
        evaluate_run(
            asked,
            spec,
            folder,
            split,
            progress=lambda done, total: _tell(progress, done, total),
        )
    )


def _texts(settings: Mapping[str, Any] | None) -> Sequence[str]:
    """Settings as the command line writes them: A.B=VALUE, the value in JSON."""
    if settings is None:
        return []
    if not isinstance(settings, Mapping):
        raise UserError(f"settings are {settings!r}. Give a dict such as {{'train.steps': 100}}")
    texts = []
    for name, value in settings.items():
        try:
            texts.append(f"{name}={json.dumps(value)}")
        except TypeError as error:
            raise UserError(
                f"settings: {name} is {value!r}, which no settings file can hold. Give a number, "
                "a text, a list, True, False or None"
            ) from error
    return texts


def _tell(progress: Done | None, done: int, total: int) -> None:
    if progress is not None:
        progress(done, total)
