"""How alike the regions of cuML and scikit-learn are, and how long both take, on a GPU.

    python -m benchmarks.kmeans_backends data_cache/STORE [--root DIR] [--every 12]

Mines again from a store's dense tokens, with the settings of `zsseg precompute`. Without a GPU or
without cuML there is nothing to compare: it says which is missing, and that is no error.
"""

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from zsseg.pipeline.named_stores import dataset_root, stored_spec
from zsseg.stages.cache.reader import Store
from zsseg.stages.data.samples import list_samples
from zsseg.stages.data.visible import read_visible_label
from zsseg.stages.errors import ResourceError
from zsseg.stages.precompute.make.agreement import BACKENDS, backend_agreement
from zsseg.stages.precompute.make.kmeans import choose_backend
from zsseg.stages.precompute.make.regions import unlabelled_tokens
from zsseg.stages.precompute.precompute_config import RegionConfig


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
        choose_backend("cuml")
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
