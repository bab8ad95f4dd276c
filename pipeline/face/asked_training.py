"""What a training is asked for, and what is trained then: store, settings, data set's folder."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from zsseg.pipeline.face.make_store import CACHE
from zsseg.pipeline.settings import apply_settings, build, read_experiment
from zsseg.pipeline.training_plan import PLANNED, check_given, planned
from zsseg.stages.cache.disk.store_path import StorePath, store_path
from zsseg.stages.errors import CacheError, UserError
from zsseg.stages.train.run.trackers import Service, check_installed

if TYPE_CHECKING:
    from zsseg.stages.cache.reader import Store
    from zsseg.stages.train.batches.training_data import TrainingData
    from zsseg.stages.train.run.run_folder import RunRecord
    from zsseg.stages.train.run_config import RunConfig

logger = logging.getLogger(__name__)


def named_settings(
    steps: int | None, every: int | None, patience: int | None, *, unseen: bool
) -> list[str]:
    """Settings that have an argument of their own, as A.B=VALUE."""
    given = {
        "train.steps": steps,
        "validation.every": every,
        "validation.patience": patience,
        "validation.unseen": "true" if unseen else None,
    }
    return [f"{name}={value}" for name, value in given.items() if value is not None]


class Settled(NamedTuple):
    """What is trained, and from what."""

    name: str
    config: "RunConfig"
    data: "TrainingData"
    plan: str | None
    """The text of the plan, of a training that was planned."""


@dataclass(frozen=True)
class AskedTraining:
    """What a person says of a training; None where nothing is said."""

    cache: StorePath | None = None
    config: str | None = None
    root: Path | None = None
    out: Path | None = None
    changes: Sequence[str] = ()
    """Settings, as A.B=VALUE."""
    resume: bool = False
    minutes: float | None = None
    log_to: Service | None = None

    @property
    def folder(self) -> Path:
        """The run folder."""
        return self.out or Path("runs") / Path(self.config or PLANNED).stem

    def check(self) -> None:
        """Raise UserError for what cannot be, as far as that is known without torch."""
        if self.minutes is not None and (self.config is not None or self.resume):
            raise UserError(
                "--minutes: is for a training that is planned, and its steps then follow from it. "
                "Leave out --config, or use --steps; a run that goes on has its steps already"
            )
        if self.log_to is not None:
            check_installed(self.log_to)
        if self.resume:
            return
        if self.config is None:
            check_given(self.changes)
        else:
            _, config = self._experiment(None)
            if config.validation.patience and not config.validation.every:
                raise UserError(
                    f"--patience {config.validation.patience}: counts validations, and there are "
                    "none. Give --validate-every N too (the setting validation.every), or leave it "
                    "out"
                )
        from zsseg.pipeline.named_stores import training_store

        training_store(self._place())

    def begun(self) -> "RunRecord | None":
        """The record of the run to go on with; None: a new one is asked for, or there is none."""
        from zsseg.stages.train.run.run_folder import is_run, read_record

        return read_record(self.folder) if self.resume and is_run(self.folder) else None

    def settled(self) -> Settled:
        """The settings of `config` or of the run to go on with; without either they are planned,
        and logged."""
        from zsseg.pipeline.named_stores import stored_spec
        from zsseg.stages.train.batches.training_data import TrainingData

        begun = self.begun()
        found = None if self.config is None and begun is None else self._experiment(begun)
        store = self._store(begun)
        data = TrainingData(store, stored_spec(store), self._root(begun, store))
        if found is not None:
            return Settled(*found, data, None)
        plan = planned(data, self.changes, minutes=self.minutes, tell=logger.info)
        return Settled(PLANNED, plan.config(), data, plan.text())

    def _experiment(self, begun: "RunRecord | None") -> "tuple[str, RunConfig]":
        """Name and settings: those of `config`, else of the run to go on with, with the changes."""
        from zsseg.stages.train.run_config import RunConfig

        if self.config is None and begun is not None:
            name, where = begun.experiment, str(self.folder)
            values = begun.config.model_dump(mode="json")
        else:
            assert self.config is not None, "without one, settings are planned"
            where = self.config
            name, values = Path(where).stem, read_experiment(where)
        return name, build(RunConfig, apply_settings(values, self.changes), where=where)

    def _place(self) -> StorePath:
        return store_path(CACHE) if self.cache is None else self.cache

    def _store(self, begun: "RunRecord | None") -> "Store":
        """The store of `cache`, else of the run to go on with."""
        from zsseg.pipeline.named_stores import training_store
        from zsseg.stages.cache.reader import Store

        if self.cache is not None or begun is None:
            return Store.open(training_store(self._place()))
        try:
            return Store.open(store_path(begun.store))
        except CacheError as error:
            raise CacheError(
                *error.args,
                f"{self.folder} is trained from this store; if it has moved, say where it is with "
                "--cache",
            ) from error

    def _root(self, begun: "RunRecord | None", store: "Store") -> Path:
        """The data set's folder: `root`, else that of the run to go on with, else the store's."""
        from zsseg.pipeline.named_stores import dataset_root

        if self.root is None and begun is not None and begun.root.is_dir():
            return begun.root
        return dataset_root(self.root, store)
