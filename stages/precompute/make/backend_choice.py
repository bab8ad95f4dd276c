"""Which library mines regions: what is asked for, or the fastest that is here.

cuML can be imported without a GPU and fails only in `fit`, so the GPU is looked for first.
"""

import importlib.util
import logging
import time
from collections.abc import Callable
from typing import Literal

import numpy as np
import torch

from zsseg.stages.errors import ResourceError
from zsseg.stages.precompute.make.kmeans import Backend
from zsseg.stages.precompute.make.regions import mine_batch, mine_regions
from zsseg.stages.precompute.precompute_config import RegionConfig

_IMAGES, _SIDE, _WIDTH = 16, 32, 512
"""Of the drawn tokens that libraries are timed on."""

_log = logging.getLogger(__name__)


def choose_backend(asked: Literal["auto", "cuml", "sklearn", "torch"], device: str) -> Backend:
    """The library that runs k-means for a teacher on a `device` ("cpu" or "cuda").

    `auto`: torch on a GPU, or cuML where that is there and faster; scikit-learn on a CPU, unless
    cuML has a GPU of its own to use. Raises ResourceError when cuML is asked for and cannot run.
    """
    if asked in ("sklearn", "torch"):
        return asked
    # Finding the package is cheap; importing it takes seconds and is left to the first fit.
    gpu, package = torch.cuda.is_available(), importlib.util.find_spec("cuml") is not None
    if asked == "auto":
        if gpu and package:
            return "cuml" if device == "cpu" else faster_backend()
        return "sklearn" if device == "cpu" else "torch"
    if not gpu:
        raise ResourceError(
            "regions.backend is 'cuml', but torch sees no CUDA GPU; "
            "use --set regions.backend=sklearn, or 'auto' to take what is there"
        )
    if not package:
        raise ResourceError(
            "regions.backend is 'cuml', but cuML is not installed; "
            "pip install 'zsseg[gpu]' (the package cuml-cu13, Linux only), "
            "or use --set regions.backend=sklearn"
        )
    return "cuml"


def faster_backend() -> Backend:
    """cuML or torch, whichever mines drawn tokens faster on this GPU; it says so in the log.

    Drawn ones, for a run's own are there only when its dense tokens are; both libraries make the
    same number of products for any tokens of this shape.
    """
    rng, config = np.random.default_rng(0), RegionConfig()
    dense_BDhw = rng.normal(size=(_IMAGES, _WIDTH, _SIDE, _SIDE)).astype(np.float16)
    unlabelled_Bhw = np.ones((_IMAGES, _SIDE, _SIDE), np.bool_)

    def by_torch() -> None:
        mine_batch(dense_BDhw, unlabelled_Bhw, config, device=torch.device("cuda"))

    def by_cuml() -> None:
        for dense_Dhw, unlabelled_hw in zip(dense_BDhw, unlabelled_Bhw, strict=True):
            mine_regions(dense_Dhw, unlabelled_hw, config, backend="cuml")

    seconds: dict[Backend, float] = {"torch": _timed(by_torch), "cuml": _timed(by_cuml)}
    chosen = min(seconds, key=seconds.__getitem__)
    told = ", ".join(f"{name} {1000 * spent / _IMAGES:.1f}" for name, spent in seconds.items())
    _log.info("k-means, ms an image: %s; regions.backend=%s is taken", told, chosen)
    return chosen


def _timed(mine: Callable[[], None]) -> float:
    mine()  # what each library does once
    start = time.perf_counter()
    mine()
    return time.perf_counter() - start
