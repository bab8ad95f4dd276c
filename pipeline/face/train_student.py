"""`zsseg.train`: stage two, for the command of this name and from Python."""

import logging
from pathlib import Path
from typing import TYPE_CHECKING

from zsseg.pipeline.face.asked_training import AskedTraining, named_settings
from zsseg.pipeline.face.given_settings import GivenSettings, Progress, nothing, setting_texts
from zsseg.stages.cache.disk.store_path import StorePath, store_path

if TYPE_CHECKING:
    from zsseg.pipeline.face.model import Model
    from zsseg.stages.train.loop import TrainResult
    from zsseg.stages.train.run.trackers import Service

logger = logging.getLogger(__name__)


def train(
    *,
    cache: str | StorePath | None = None,
    config: str | Path | None = None,
    root: str | Path | None = None,
    out: str | Path | None = None,
    minutes: float | None = None,
    steps: int | None = None,
    validate_every: int | None = None,
    validate_unseen: bool = False,
    patience: int | None = None,
    log_to: "Service | None" = None,
    resume: bool = False,
    set: GivenSettings = None,
    progress: Progress = nothing,
) -> "Model":
    """Stage two: train a student against a store, and give it back; CLIP is not loaded.

    `cache`: a store, or a folder of stores, here or at a URL; None: `data_cache`, and with `resume`
    the run's store. `config`: an experiment by name (`zsseg config ls`), or a YAML file; without
    one the settings are planned, for so many `minutes`, and logged with their reasons. `out`: the
    run's folder; None: runs/EXPERIMENT, or runs/plan. `validate_every`: steps between validations
    on held-out images, by labels of seen classes alone unless `validate_unseen`; `patience`: end
    after so many without a better one. `log_to`: a service that is sent the log, too. `resume`: go
    on from the last checkpoint in `out`, if there is one. Raises subclasses of `UserError`, as
    `zsseg train` prints them.
    """
    named = named_settings(steps, validate_every, patience, unseen=validate_unseen)
    asked = AskedTraining(
        cache=None if cache is None else store_path(cache),
        config=None if config is None else str(config),
        root=None if root is None else Path(root),
        out=None if out is None else Path(out),
        changes=[*setting_texts(set), *named],
        resume=resume,
        minutes=minutes,
        log_to=log_to,
    )
    asked.check()
    from zsseg.pipeline.face.model import load

    trained(asked, progress)
    return load(asked.folder)


def trained(asked: AskedTraining, progress: Progress) -> "TrainResult":
    """Do the training that is asked for, or go on with it; for `train` and for the command.

    Raises as `train`.
    """
    from zsseg.pipeline.training_text import progress_words
    from zsseg.stages.evaluate.validator import make_validator
    from zsseg.stages.train.loop import TrainExtras
    from zsseg.stages.train.loop import train as run

    if asked.resume and asked.begun() is None:
        logger.warning(
            "nothing to resume: %s holds no run; one starts there from step 0", asked.folder
        )
    made = asked.settled()
    logger.info("%s from %s into %s", made.name, made.data.store.path, asked.folder)
    return run(
        made.config,
        made.data,
        out=asked.folder,
        resume=asked.resume,
        experiment=made.name,
        progress=lambda now: progress(now.step, now.steps, progress_words(now.metrics)),
        extras=TrainExtras(made.plan, make_validator, asked.log_to),
    )
