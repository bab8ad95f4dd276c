"""Sends a run's log to a service as well: Weights & Biases, MLflow or trackio, if asked for.

`open_tracker` is the one way in. What goes out: the settings, the numbers of the log and the
pictures of validations; no path, no label file, no weights. A service that fails later is told of
once and left out: a training does not end because of its log.

tracker.json    in the run folder: which service has the run, and by which id, for a resumption
"""

import json
import logging
import math
import re
import sys
from collections.abc import Callable, Mapping
from contextlib import redirect_stdout
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Literal, Protocol
from uuid import uuid4

from zsseg.stages.cache.disk.durable import write_durably
from zsseg.stages.errors import ResourceError, UserError

if TYPE_CHECKING:  # the command line is parsed without numpy
    import numpy as np
    from numpy.typing import NDArray

Service = Literal["wandb", "mlflow", "trackio"]

_PROJECT = "zsseg"
_NOTE = "tracker.json"

logger = logging.getLogger(__name__)


class Tracker(Protocol):
    """A service that shows the log of a run."""

    id: str
    """By which the service finds the run again."""

    def numbers(self, step: int, values: Mapping[str, float]) -> None:
        """Record numbers of a step; all are finite."""

    def picture(self, step: int, name: str, picture_HW3: "NDArray[np.uint8]") -> None:
        """Record a picture of a step."""

    def close(self) -> None:
        """The training has ended."""


class _WandB:
    """https://docs.wandb.ai/ref/python: a run, found again by its id."""

    def __init__(self, wandb: ModuleType, run: Path, settings: dict[str, Any], id: str) -> None:
        self.id, self._wandb = id, wandb
        self._run = wandb.init(
            project=_PROJECT,
            name=run.name,
            id=id,
            resume="allow",
            dir=str(run),
            config=settings,
        )

    def numbers(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log(dict(values), step=step)

    def picture(self, step: int, name: str, picture_HW3: "NDArray[np.uint8]") -> None:
        self._run.log({name: self._wandb.Image(picture_HW3, caption=name)}, step=step)

    def close(self) -> None:
        self._run.finish()


class _Trackio:
    """https://huggingface.co/docs/trackio: a run in a local database, found again by its name."""

    def __init__(self, trackio: ModuleType, run: Path, settings: dict[str, Any], id: str) -> None:
        self.id, self._trackio = id, trackio
        self._run = trackio.init(
            project=_PROJECT,
            name=f"{run.name}-{id}",
            resume="allow",
            config=settings,
            embed=False,
        )

    def numbers(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log(dict(values), step=step)

    def picture(self, step: int, name: str, picture_HW3: "NDArray[np.uint8]") -> None:
        self._run.log({name: self._trackio.Image(picture_HW3, caption=name)}, step=step)

    def close(self) -> None:
        self._run.finish()


class _MLflow:
    """https://mlflow.org/docs: a run on the server of MLFLOW_TRACKING_URI, else in a local folder.

    Its ids are its own: an empty one begins a run.
    """

    def __init__(self, mlflow: ModuleType, run: Path, settings: dict[str, Any], id: str) -> None:
        self._mlflow = mlflow
        mlflow.set_experiment(_PROJECT)
        started = mlflow.start_run(run_id=id or None, run_name=run.name)
        self.id = str(started.info.run_id)
        mlflow.log_dict(settings, "settings.json")

    def numbers(self, step: int, values: Mapping[str, float]) -> None:
        allowed = {_mlflow_name(name): value for name, value in values.items()}
        self._mlflow.log_metrics(allowed, step=step)

    def picture(self, step: int, name: str, picture_HW3: "NDArray[np.uint8]") -> None:
        self._mlflow.log_image(picture_HW3, f"step-{step:06d}/{_mlflow_name(name)}.png")

    def close(self) -> None:
        self._mlflow.end_run()


def _mlflow_name(name: str) -> str:
    """The name with what MLflow takes: letters, digits, and `_-. /`."""
    return re.sub(r"[^\w\-. /]", "_", name)


_KINDS: Mapping[Service, Callable[[ModuleType, Path, dict[str, Any], str], Tracker]] = {
    "wandb": _WandB,
    "mlflow": _MLflow,
    "trackio": _Trackio,
}


class _Guarded:
    """A tracker whose failures are told once, and end it, not the training."""

    def __init__(self, service: Service, tracker: Tracker) -> None:
        self.id, self._service = tracker.id, service
        self._tracker: Tracker | None = tracker

    def numbers(self, step: int, values: Mapping[str, float]) -> None:
        finite = {name: value for name, value in values.items() if math.isfinite(value)}
        self._try(lambda tracker: tracker.numbers(step, finite))

    def picture(self, step: int, name: str, picture_HW3: "NDArray[np.uint8]") -> None:
        self._try(lambda tracker: tracker.picture(step, name, picture_HW3))

    def close(self) -> None:
        self._try(lambda tracker: tracker.close())

    def _try(self, do: Callable[[Tracker], None]) -> None:
        if self._tracker is None:
            return
        try:
            with redirect_stdout(sys.stderr):
                do(self._tracker)
        except Exception as error:
            self._tracker = None
            logger.warning(
                "%s: failed (%s: %s), and gets no more of this run. Its log in the run folder is "
                "whole",
                self._service,
                type(error).__name__,
                error,
            )


def check_installed(service: Service) -> None:
    """Raise UserError where a service's package is not installed; nothing is imported."""
    if service not in sys.modules and find_spec(service) is None:
        raise UserError(
            f"--log-to {service}: its package is not installed. Install it with `pip install "
            f"'zsseg[{service}]'`, or leave --log-to out"
        )


def open_tracker(
    service: Service, run: Path, settings: dict[str, Any], *, resumed: bool
) -> Tracker:
    """The service, opened for a run; a run that is resumed there is found again.

    Raises UserError where its package is not installed, ResourceError where it cannot be opened.
    """
    check_installed(service)
    known = _noted(run, service) if resumed else None
    try:
        with redirect_stdout(sys.stderr):
            fresh = "" if service == "mlflow" else uuid4().hex[:12]
            module = import_module(service)
            tracker = _KINDS[service](module, run, settings, known or fresh)
    except Exception as error:
        raise ResourceError(
            f"--log-to {service}: cannot be opened ({type(error).__name__}: {error}). Mend what it "
            "names (is it logged in, is its server there?), or leave --log-to out"
        ) from error
    write_durably(run / _NOTE, json.dumps({"service": service, "id": tracker.id}).encode())
    return _Guarded(service, tracker)


def _noted(run: Path, service: Service) -> str | None:
    """The id by which a service knows a run; None where it does not."""
    try:
        found = json.loads((run / _NOTE).read_bytes())
        return str(found["id"]) if found["service"] == service else None
    except (OSError, ValueError, KeyError, TypeError):
        return None
