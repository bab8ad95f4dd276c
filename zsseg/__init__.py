"""zsseg: zero-shot semantic segmentation with an offline CLIP cache (the public Python face).

Everything is imported on first use, so `import zsseg` loads no torch. docs/python.md shows it all.
"""

from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zsseg.stages.offline import obey_offline

if TYPE_CHECKING:
    from zsseg.pipeline.face.make_store import precompute as precompute
    from zsseg.pipeline.face.model import Model as Model
    from zsseg.pipeline.face.model import load as load
    from zsseg.pipeline.face.open_store import OpenStore as OpenStore
    from zsseg.pipeline.face.open_store import open_store as open_store
    from zsseg.pipeline.face.score_student import evaluate as evaluate
    from zsseg.pipeline.face.train_student import train as train
    from zsseg.stages.errors import UserError as UserError
    from zsseg.stages.evaluate.prediction import Look as Look
    from zsseg.stages.evaluate.prediction import Prediction as Prediction

if not Path(__file__).with_name("stages").is_dir():
    raise ImportError(
        f"{Path(__file__).parent}: its links to the folders beside it were checked out as text "
        "files. Run `git config core.symlinks true`, then `git checkout -- zsseg`"
    )

obey_offline()  # before any library asks a hub

__version__ = version("zsseg")

_HOME = {
    "Look": "zsseg.stages.evaluate.prediction",
    "Model": "zsseg.pipeline.face.model",
    "OpenStore": "zsseg.pipeline.face.open_store",
    "Prediction": "zsseg.stages.evaluate.prediction",
    "UserError": "zsseg.stages.errors",
    "evaluate": "zsseg.pipeline.face.score_student",
    "load": "zsseg.pipeline.face.model",
    "open_store": "zsseg.pipeline.face.open_store",
    "precompute": "zsseg.pipeline.face.make_store",
    "train": "zsseg.pipeline.face.train_student",
}

__all__ = [*sorted(_HOME), "__version__"]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(_HOME[name]), name)
    raise AttributeError(f"module 'zsseg' has no attribute '{name}'")


def __dir__() -> list[str]:
    return __all__
