"""All that `zsseg tune` is going to do: candidates, folds, trials. Nothing is written for it."""

from dataclasses import dataclass
from pathlib import Path

from zsseg.pipeline.named_stores import dataset_root, stored_spec, training_store
from zsseg.pipeline.tune.candidates import Candidate, TuneRequest, candidates
from zsseg.pipeline.tune.folds import Fold, divide, make_folds
from zsseg.pipeline.tune.trials import Trial, plan_trials
from zsseg.stages.cache.disk.store_path import StorePath
from zsseg.stages.cache.reader import Store
from zsseg.stages.data.spec import DatasetSpec


@dataclass(frozen=True)
class Hiding:
    """How folds are made: the options of `zsseg tune`."""

    folds: int
    groups: tuple[str, ...]
    """Classes of each fold ("tree, car"); none: they are chosen."""
    hold_out: float
    """Share of the store's images that are scored."""


@dataclass(frozen=True)
class TunePlan:
    """What is tried, on what."""

    request: TuneRequest
    store: Store
    spec: DatasetSpec
    """With the classes that are really unseen."""
    root: Path
    tried: tuple[Candidate, ...]
    folds: tuple[Fold, ...]
    trials: tuple[Trial, ...]

    @property
    def uses_local(self) -> bool:
        """Does any training look at local tokens?"""
        return any(trial.run.config.uses_local for trial in self.trials)


def plan_tuning(
    request: TuneRequest, cache: StorePath, *, root: Path | None, hiding: Hiding
) -> TunePlan:
    """The plan for the store of training images in `cache`.

    Raises UserError for settings that are not valid and for what cannot be hidden or held out,
    CacheError without a finished store, DatasetError where the data set is not there.
    """
    tried = candidates(request)
    store = Store.open(training_store(cache))
    spec, folder = stored_spec(store), dataset_root(root, store)
    held_out = divide(store, spec, folder, share=hiding.hold_out)
    folds = make_folds(spec, held_out, folds=hiding.folds, given=hiding.groups)
    trials = plan_trials(tried, folds, request)
    return TunePlan(request, store, spec, folder, tuple(tried), tuple(folds), tuple(trials))
