"""Train the small CLIP of the demo: `python -m zsseg.stages.demo.train_clip FOLDER`.

FOLDER holds an open_clip_config.json; the weights are written beside it. Windows and captions are
of the small world, from seeds that the demo does not use. The objective is CLIP's contrastive loss
(Radford et al. 2021) with soft targets: two pictures of a dog are no negatives of each other.

A window is encoded in two ways: as a crop of its own, and as part of the scene, by the mean of the
scene's features inside it. With crops alone the tower would learn from maps of a few cells, in
which zero padding has much weight, and would not know the features of a whole scene.

Legend: B windows, N scenes or crops, T texts, C classes, D CLIP width, H W pixels, h w feature
grid, E the tower's inner width.
"""

import argparse
import json
import logging
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional as F

from zsseg.stages.data.images import resize_image
from zsseg.stages.demo.captions import Window, caption, look
from zsseg.stages.demo.scenes import CLASSES, SIZE, draw_scene

WORLD_SEED = 1000
"""Seed of the training scenes; the demo's own seeds are smaller."""

_WINDOWS = 12
"""Windows per scene and step; the first of them is also encoded as a crop."""

_ENLARGED = (2 * SIZE[0], 2 * SIZE[1])
"""Height and width of a scene as the tower sees it, and as the demo's dense tokens are made."""

_WORDS = 320
"""First token that is a word; those before are single letters and fragments."""

logger = logging.getLogger(__name__)


def train_small_clip(folder: Path, *, scenes: int, steps: int, batch: int, seed: int) -> None:
    """Train the model that FOLDER's configuration describes, from random weights."""
    started = time.perf_counter()
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    model: Any = open_clip.create_model(f"local-dir:{folder}", load_weights=False)
    tokenizer = open_clip.get_tokenizer(f"local-dir:{folder}")
    side = model.visual.image_size[0]
    config = json.loads((folder / "open_clip_config.json").read_text())["preprocess_cfg"]
    mean, std = (torch.tensor(config[name]).view(3, 1, 1) for name in ("mean", "std"))

    def pixels(images: Sequence[NDArray[np.uint8]]) -> Tensor:
        image_NHW3 = torch.from_numpy(np.stack(images))
        return (image_NHW3.permute(0, 3, 1, 2) / 255 - mean) / std

    with ProcessPoolExecutor() as pool:
        world = list(pool.map(partial(draw_scene, WORLD_SEED), range(scenes), chunksize=32))
    logger.info("%d scenes drawn in %.0f s", scenes, time.perf_counter() - started)
    optimiser = torch.optim.AdamW(_groups(model), lr=1e-3, betas=(0.9, 0.98))
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, max_lr=2e-3, total_steps=steps, pct_start=0.1
    )
    model.train().to(memory_format=torch.channels_last)
    for step in range(1, steps + 1):
        chosen = [world[i] for i in rng.integers(len(world), size=batch)]
        seen = [[look(scene, rng) for _ in range(_WINDOWS)] for scene in chosen]
        crops = [
            resize_image(scene.image_HW3[y0:y1, x0:x1], (side, side), interpolation="bicubic")
            for scene, (window, *_) in zip(chosen, seen, strict=True)
            for x0, y0, x1, y1 in [window.box]
        ]
        whole = [resize_image(scene.image_HW3, _ENLARGED) for scene in chosen]
        feature_BE = torch.cat(
            [
                _inside(model.visual.trunk.forward_features(pixels(whole)), seen),
                model.visual.trunk.forward_features(pixels(crops)).mean((2, 3)),
            ]
        )
        names = [window.names for windows in seen for window in windows]
        names += [windows[0].names for windows in seen]
        named = [place for place, each in enumerate(names) if each]
        image_BD = F.normalize(model.visual.head(feature_BE[named]), dim=1)
        loss = contrast(model, tokenizer, image_BD, [names[place] for place in named], rng)
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        if step % 50 == 0 or step == steps:
            minutes = (time.perf_counter() - started) / 60
            logger.info("step %d of %d, loss %.4f, %.1f minutes", step, steps, loss.item(), minutes)
    half = {name: value.half().contiguous() for name, value in model.state_dict().items()}
    save_file(half, folder / "open_clip_model.safetensors")


def contrast(
    model: Any,
    tokenizer: Any,
    image_BD: Tensor,
    names: Sequence[tuple[str, ...]],
    rng: np.random.Generator,
) -> Tensor:
    """Loss of windows against each other's captions, both ways, and against every single name."""
    captions = [caption(each, rng) for each in names]
    alone = [caption([name], rng) for name in CLASSES]
    token_TL = torch.cat([tokenizer([*captions, *alone]), _nonsense(tokenizer, len(CLASSES), rng)])
    logit_BT = model.logit_scale.exp() * image_BD @ model.encode_text(token_TL, normalize=True).T
    prominence_BC = prominence(names)
    likeness_BB = likeness(prominence_BC)
    logit_BB, logit_BC = logit_BT[:, : len(names)], logit_BT[:, len(names) :]
    both_ways = (
        soft_cross_entropy(logit_BB, likeness_BB) + soft_cross_entropy(logit_BB.T, likeness_BB)
    ) / 2
    return both_ways + soft_cross_entropy(logit_BC, F.pad(prominence_BC, (0, len(CLASSES))))


def inside_shares(windows: Sequence[Window], grid: tuple[int, int]) -> Tensor:
    """(B, h, w) share of each window's area that lies in each cell of a grid over the scene."""
    shares = []
    for x0, y0, x1, y1 in (window.box for window in windows):
        row_h = _overlap(y0, y1, cells=grid[0], extent=SIZE[0])
        column_w = _overlap(x0, x1, cells=grid[1], extent=SIZE[1])
        shares.append(row_h[:, None] * column_w / ((x1 - x0) * (y1 - y0)))
    return torch.stack(shares)


def _overlap(low: int, high: int, *, cells: int, extent: int) -> Tensor:
    """(cells,) pixels that each cell of an axis shares with the range from `low` to `high`."""
    edge = torch.arange(cells + 1) * (extent / cells)
    return (edge[1:].clamp(max=high) - edge[:-1].clamp(min=low)).clamp(min=0)


def _inside(feature_NEhw: Tensor, windows: Sequence[Sequence[Window]]) -> Tensor:
    """(B, E) mean feature inside each window of each scene."""
    grid = (feature_NEhw.shape[2], feature_NEhw.shape[3])
    share_NBhw = torch.stack([inside_shares(each, grid) for each in windows])
    mean_NBE = torch.einsum("nehw,nbhw->nbe", feature_NEhw, share_NBhw)
    return mean_NBE.flatten(0, 1)


def soft_cross_entropy(logit_BT: Tensor, target_BT: Tensor) -> Tensor:
    """Cross-entropy of softmax(logits) against rows of shares, mean over the rows."""
    return -(target_BT * logit_BT.log_softmax(1)).sum(1).mean()


def likeness(prominence_BC: Tensor) -> Tensor:
    """(B, B) shares: which caption fits which picture; rows sum to 1.

    CLIP's own target is the identity, which calls two pictures of a dog each other's negatives.
    """
    unit_BC = F.normalize(prominence_BC, dim=1)
    same_BB = (unit_BC @ unit_BC.T) ** 4
    return same_BB / same_BB.sum(1, keepdim=True)


def prominence(names: Sequence[tuple[str, ...]]) -> Tensor:
    """(B, C) shares of the names in captions: the n-th name of one counts 1/n."""
    share_BC = torch.zeros(len(names), len(CLASSES))
    for row_C, each in zip(share_BC, names, strict=True):
        for place, name in enumerate(each, start=1):
            row_C[CLASSES.index(name)] = 1 / place
    return share_BC / share_BC.sum(1, keepdim=True)


def _nonsense(tokenizer: Any, count: int, rng: np.random.Generator) -> Tensor:
    """(count, L) captions with random words: negatives, so that unknown words fit no image."""
    token_TL: Tensor = tokenizer(["a photo of a x."] * count)
    place = int((token_TL[0] == tokenizer(["x"])[0, 1]).nonzero()[0])
    words = rng.integers(_WORDS, int(token_TL.max()) - 1, size=count)
    token_TL[:, place] = torch.from_numpy(words)
    return token_TL


def _groups(model: Any) -> list[dict[str, Any]]:
    """Weight decay for matrices only."""
    parameters = list(model.parameters())
    return [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": 0.05},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]


def main() -> None:
    """Parse the command line and train."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--scenes", type=int, default=2500)
    parser.add_argument("--steps", type=int, default=550)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    train_small_clip(
        given.folder, scenes=given.scenes, steps=given.steps, batch=given.batch, seed=given.seed
    )


if __name__ == "__main__":
    main()
