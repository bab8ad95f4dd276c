"""What is done between two steps: a validation when it is time, and a checkpoint."""

from pathlib import Path

from zsseg.stages.train.run import checkpoint
from zsseg.stages.train.run.metrics_log import MetricsLog
from zsseg.stages.train.run_config import RunConfig
from zsseg.stages.train.state import State, save_state
from zsseg.stages.train.validation import Validation


class BetweenSteps:
    """Validates a training and writes its checkpoints."""

    def __init__(
        self,
        config: RunConfig,
        out: Path,
        saved: Path | None,
        state: State,
        validation: Validation | None,
        log: MetricsLog | None,
    ) -> None:
        """`saved`: the checkpoint that the training goes on from; `log`: None in all processes but
        the first."""
        self._config, self._out, self._state = config.train, out, state
        self._validation, self._log = validation, log
        self._known = [] if saved is None else [saved]

    @property
    def ended(self) -> bool:
        """Do the validations end the run?"""
        return self._validation is not None and self._validation.state.stopped

    def make_up_for(self, start: int) -> None:
        """The validation that a signal came before, if the checkpoint of step `start` lacks it."""
        watched = self._validation
        if start and watched is not None and watched.due(start):
            watched.after(start, self._state.student, self._log)
            self._save(start)

    def after(self, done: int, *, stopped: bool) -> float:
        """What is to do after `done` steps; the seconds that a validation took.

        A run that is `stopped` by a signal is not validated now, but when it goes on.
        """
        settings, watched = self._config, self._validation
        writes = done % settings.checkpoint_every == 0 or done == settings.steps or stopped
        seconds = 0.0
        if watched is not None and watched.due(done) and not stopped:
            before = watched.seconds
            best = watched.after(done, self._state.student, self._log)
            seconds = watched.seconds - before
            # The best one is kept with all that its run knew, so that a resumed run knows it too.
            writes = writes or best or self.ended
        if writes:
            self._save(done)
        return seconds

    def _save(self, done: int) -> None:
        if self._log is None:
            return
        self._log.sync()
        noted = None if self._validation is None else self._validation.noted
        written = save_state(self._out, done, self._state, validation=noted)
        self._known = [*(each for each in self._known if each != written), written]
        checkpoint.prune(self._out, self._known)
