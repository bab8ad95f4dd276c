"""How alike the regions of cuML and scikit-learn are, and how long both take, on a GPU.

    python -m benchmarks.kmeans_backends data_cache/STORE [--root DIR] [--every 12]

Mines again from a store's dense tokens, with the settings of `zsseg precompute`. Without a GPU or
without cuML there is nothing to compare: it says which is missing, and that is no error.

cuML is not reproducible bit for bit, not even against itself, so regions of the two libraries are
compared by the adjusted Rand index over an image's unlabelled tokens, which ignores how regions are
numbered. Legend: h w token grid, D CLIP width.
"""

import argparse
import sys
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from zsseg.pipeline.named_stores import dataset_root, stored_spec
from zsseg.stages.cache.reader import Store
from zsseg.stages.data.splits import list_samples
from zsseg.stages.data.visible import read_visible_label
from zsseg.stages.errors import ResourceError
from zsseg.stages.precompute.check.against_teacher import rand_index
from zsseg.stages.precompute.make.backend_choice import choose_backend
from zsseg.stages.precompute.make.kmeans import EMPTIED
from zsseg.stages.precompute.make.regions import mine_regions, unlabelled_tokens
from zsseg.stages.precompute.precompute_config import RegionConfig

BACKENDS: tuple[Literal["sklearn", "cuml"], ...] = ("sklearn", "cuml")


@dataclass(frozen=True)
class Agreement:
    """Adjusted Rand index of both libraries' regions."""

    images: int
    """Images with an unlabelled token; the others are not counted."""
    mean: float
    worst: float
    seconds: tuple[float, float]
    """To mine all of them, in the order of BACKENDS."""


def backend_agreement(
    images: Iterable[tuple[NDArray[np.floating], NDArray[np.bool_]]],
    config: RegionConfig,
) -> Agreement | None:
    """Mine every image with both libraries, one after the other, and compare.

    An image is its dense tokens (D, h, w) and which of them are unlabelled (h, w). All tokens that
    are in no region (of too few tokens) count as one region. The first image is mined once more
    before it is timed, for what each library does once. None when no image has an unlabelled token.
    """
    scores: list[float] = []
    seconds = [0.0, 0.0]
    for dense_Dhw, unlabelled_hw in images:
        if not unlabelled_hw.any():
            continue
        mined = []
        for place, backend in enumerate(BACKENDS):
            # Labels, not the warning, tell which clusters are empty: see `region_arrays`.
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", EMPTIED)
                if not scores:
                    mine_regions(dense_Dhw, unlabelled_hw, config, backend=backend)
                start = perf_counter()
                region_hw = mine_regions(dense_Dhw, unlabelled_hw, config, backend=backend)
                seconds[place] += perf_counter() - start
            mined.append(region_hw[unlabelled_hw])
        scores.append(rand_index(*mined))
    if not scores:
        return None
    return Agreement(
        images=len(scores),
        mean=float(np.mean(scores)),
        worst=min(scores),
        seconds=(seconds[0], seconds[1]),
    )


def stored_images(
    store: Store, root: Path, *, every: int, share: float
) -> Iterator[tuple[NDArray[np.floating], NDArray[np.bool_]]]:
    """Dense tokens (D, h, w) and unlabelled tokens (h, w) of every so manieth usable image."""
    spec = stored_spec(store)
    samples = {s.id: s for s in list_samples(spec, root, str(store.identity["split"]))}
    for row in np.flatnonzero(store.read_all("status") == 0)[::every]:
        dense_Dhw = store.read("dense", int(row))
        visible_HW = read_visible_label(spec, samples[store.index[row]["id"]])
        grid = (dense_Dhw.shape[1], dense_Dhw.shape[2])
        yield dense_Dhw, unlabelled_tokens(visible_HW, grid, share)


def main() -> None:
    """Print the agreement and both times, or why there are none."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("store", type=Path)
    parser.add_argument("--root", type=Path)
    parser.add_argument("--every", type=int, default=12)
    options = parser.parse_args()
    try:
        choose_backend("cuml", "cuda")
    except ResourceError as missing:
        sys.stdout.write(f"nothing to compare: {missing}\n")
        return
    store = Store.open(options.store)
    config = RegionConfig()
    found = backend_agreement(
        stored_images(
            store,
            dataset_root(options.root, store),
            every=options.every,
            share=config.unlabelled_share,
        ),
        config,
    )
    if found is None:
        sys.stdout.write(f"nothing to compare: no unlabelled token in {store.path}\n")
        return
    sys.stdout.write(
        f"{found.images} images of {store.path.name}\n"
        f"adjusted Rand index of the regions: mean {found.mean:.4f}, worst {found.worst:.4f}\n"
    )
    for backend, seconds in zip(BACKENDS, found.seconds, strict=True):
        sys.stdout.write(f"{backend}: {1000 * seconds / found.images:.1f} ms per image\n")


if __name__ == "__main__":
    main()
