"""zsseg: zero-shot semantic segmentation with an offline CLIP cache (the public Python face).

The functions behind the commands, imported on first use, so `import zsseg` loads no torch.
"""

from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from zsseg.stages.cache.reader import Store as Store
    from zsseg.stages.data.spec import load_spec as load_spec
    from zsseg.stages.evaluate.evaluation import evaluate_run as evaluate_run
    from zsseg.stages.evaluate.predict import predict_files as predict_files
    from zsseg.stages.evaluate.teacher_evaluation import evaluate_teacher as evaluate_teacher
    from zsseg.stages.evaluate.trained_run import load_run as load_run
    from zsseg.stages.precompute.plan.request import PrecomputeRequest as PrecomputeRequest
    from zsseg.stages.precompute.precompute_config import PrecomputeConfig as PrecomputeConfig
    from zsseg.stages.precompute.run import precompute as precompute
    from zsseg.stages.train.batches.training_data import TrainingData as TrainingData
    from zsseg.stages.train.loop import train as train
    from zsseg.stages.train.run_config import RunConfig as RunConfig

if not Path(__file__).with_name("stages").is_dir():
    raise ImportError(
        f"{Path(__file__).parent}: its links to the folders beside it were checked out as text "
        "files. Run `git config core.symlinks true`, then `git checkout -- zsseg`"
    )

__version__ = version("zsseg")

_HOME = {
    "PrecomputeConfig": "zsseg.stages.precompute.precompute_config",
    "PrecomputeRequest": "zsseg.stages.precompute.plan.request",
    "RunConfig": "zsseg.stages.train.run_config",
    "Store": "zsseg.stages.cache.reader",
    "TrainingData": "zsseg.stages.train.batches.training_data",
    "evaluate_run": "zsseg.stages.evaluate.evaluation",
    "evaluate_teacher": "zsseg.stages.evaluate.teacher_evaluation",
    "load_run": "zsseg.stages.evaluate.trained_run",
    "load_spec": "zsseg.stages.data.spec",
    "precompute": "zsseg.stages.precompute.run",
    "predict_files": "zsseg.stages.evaluate.predict",
    "train": "zsseg.stages.train.loop",
}

__all__ = [*sorted(_HOME), "__version__"]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(_HOME[name]), name)
    raise AttributeError(f"module 'zsseg' has no attribute '{name}'")


def __dir__() -> list[str]:
    return __all__
