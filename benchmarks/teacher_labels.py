"""How right the teacher's pseudo labels are, by the true labels, for each confidence and share.

    python -m benchmarks.teacher_labels data_cache/STORE [--root DIR] [--every 2]

The labels are those of `self_training.source=teacher`, at a quarter of the image's resolution, and
are made by the training's own code. Right: share of the pixels with a pseudo label whose true label
it is; void: share of them that have none.
"""

import argparse
import sys
from itertools import product
from pathlib import Path
from typing import get_args

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from zsseg.pipeline.named_stores import dataset_root, stored_spec
from zsseg.stages.cache.reader import Store
from zsseg.stages.data.labels import read_label
from zsseg.stages.data.spec import VOID
from zsseg.stages.data.splits import list_samples
from zsseg.stages.data.visible import read_visible_label
from zsseg.stages.train.losses.resample import nearest
from zsseg.stages.train.losses.self_training import pseudo_labels
from zsseg.stages.train.method_config import Confidence
from zsseg.stages.train.students.student import FINEST_STRIDE, class_logits

SHARES = (0.5, 0.75, 0.9, 1.0)


def main() -> None:
    """Print one line per confidence and share."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("store", type=Path)
    parser.add_argument("--root", type=Path)
    parser.add_argument("--every", type=int, default=2)
    options = parser.parse_args()
    store = Store.open(options.store)
    spec = stored_spec(store)
    root = dataset_root(options.root, store)
    samples = {s.id: s for s in list_samples(spec, root, str(store.identity["split"]))}
    text_CD = torch.from_numpy(store.read_all("text"))
    choices = list(product(get_args(Confidence), SHARES))
    right, void, labelled = (dict.fromkeys(choices, 0) for _ in range(3))
    rows = range(0, store.rows, options.every)
    for row in rows:
        sample = samples[store.index[row]["id"]]
        label_HW = read_label(spec, sample)
        grid = (label_HW.shape[0] // FINEST_STRIDE, label_HW.shape[1] // FINEST_STRIDE)
        token_1Dyx = torch.from_numpy(store.read("dense", row).astype(np.float32))[None]
        score_1Chw = F.interpolate(class_logits(token_1Dyx, text_CD, 1.0), grid, mode="bilinear")
        label_hw = _small(label_HW, grid)
        unlabelled_hw = _small(read_visible_label(spec, sample), grid) == VOID
        for confidence, share in choices:
            pseudo_hw = pseudo_labels(
                score_1Chw,
                unlabelled_Bhw=unlabelled_hw[None],
                region_Bhw=torch.zeros(1, *grid, dtype=torch.uint8),
                unseen_ids=torch.tensor(spec.unseen_ids),
                share=share,
                method="st",
                confidence=confidence,
            )[0]
            given_hw = pseudo_hw != VOID
            right[confidence, share] += int((given_hw & (pseudo_hw == label_hw)).sum())
            void[confidence, share] += int((given_hw & (label_hw == VOID)).sum())
            labelled[confidence, share] += int(given_hw.sum())
    sys.stdout.write(f"{len(rows)} images of {store.path.name}\nconfidence, share: right, void\n")
    for choice in choices:
        count = max(labelled[choice], 1)
        sys.stdout.write(
            f"{choice[0]}, {choice[1]:g}: {right[choice] / count:.3f}, {void[choice] / count:.3f}\n"
        )


def _small(map_HW: NDArray[np.uint8], grid: tuple[int, int]) -> Tensor:
    return nearest(torch.from_numpy(map_HW)[None], grid)[0]


if __name__ == "__main__":
    main()
