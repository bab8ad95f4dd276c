"""zsseg: zero-shot semantic segmentation with an offline CLIP cache (the public Python face).

The functions behind the commands, imported on first use, so `import zsseg` loads no torch.
"""

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from stages.cache.reader import Store as Store
    from stages.data.spec import load_spec as load_spec
    from stages.evaluate.evaluate import evaluate_run as evaluate_run
    from stages.evaluate.evaluate import evaluate_teacher as evaluate_teacher
    from stages.evaluate.predict import predict_files as predict_files
    from stages.evaluate.run import load_run as load_run
    from stages.precompute.config import PrecomputeConfig as PrecomputeConfig
    from stages.precompute.run import precompute as precompute
    from stages.train.config import RunConfig as RunConfig
    from stages.train.loop import train as train

__version__ = version("zsseg")

_HOME = {
    "PrecomputeConfig": "stages.precompute.config",
    "RunConfig": "stages.train.config",
    "Store": "stages.cache.reader",
    "evaluate_run": "stages.evaluate.evaluate",
    "evaluate_teacher": "stages.evaluate.evaluate",
    "load_run": "stages.evaluate.run",
    "load_spec": "stages.data.spec",
    "precompute": "stages.precompute.run",
    "predict_files": "stages.evaluate.predict",
    "train": "stages.train.loop",
}

__all__ = [*sorted(_HOME), "__version__"]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(_HOME[name]), name)
    raise AttributeError(f"module 'zsseg' has no attribute '{name}'")


def __dir__() -> list[str]:
    return __all__
