"""Train the small CLIP of the demo: `python -m stages.demo.train_clip FOLDER`.

FOLDER holds an open_clip_config.json; the weights are written beside it. Pictures and captions are
of the small world, from seeds that the demo does not use. The objective is SigLIP's (Zhai et al.,
ICCV 2023, Eq. 1): a sigmoid per pair of picture and text. A pair is positive when all that the
text names is to be seen in the picture, so that two pictures of the same thing are no negatives.

Legend: B pictures, T texts, D CLIP width.
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
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional as F

from stages.demo.captions import Picture, caption, take_picture
from stages.demo.scenes import CLASSES, draw_scene

WORLD_SEED = 1000
"""Seed of the training scenes; the demo draws its own from seeds below."""

_WORDS = 320
"""Tokens below are single letters and fragments."""

logger = logging.getLogger(__name__)


def train(folder: Path, *, scenes: int, steps: int, batch: int, seed: int) -> None:
    """Train the model that FOLDER's configuration describes, from random weights."""
    started = time.perf_counter()
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    model: Any = open_clip.create_model(f"local-dir:{folder}", load_weights=False)
    tokenizer = open_clip.get_tokenizer(f"local-dir:{folder}")
    side = model.visual.image_size[0]
    pixels = json.loads((folder / "open_clip_config.json").read_text())["preprocess_cfg"]
    mean, std = (torch.tensor(pixels[name]).view(3, 1, 1) for name in ("mean", "std"))
    with ProcessPoolExecutor() as pool:
        world = list(pool.map(partial(draw_scene, WORLD_SEED), range(scenes), chunksize=32))
    logger.info("%d scenes drawn in %.0f s", scenes, time.perf_counter() - started)
    optimiser = torch.optim.AdamW(_groups(model), lr=1e-3, betas=(0.9, 0.98))
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, max_lr=2e-3, total_steps=steps, pct_start=0.1
    )
    model.train().to(memory_format=torch.channels_last)
    for step in range(1, steps + 1):
        chosen = rng.integers(len(world), size=batch)
        pictures = [take_picture(world[i], side, rng) for i in chosen]
        pictures = [picture for picture in pictures if picture.names]
        pixel_BHW3 = torch.from_numpy(np.stack([picture.image_SS3 for picture in pictures]))
        image_B3HW = (pixel_BHW3.permute(0, 3, 1, 2) / 255 - mean) / std
        captions = [caption(picture.names, rng) for picture in pictures]
        alone = [caption([name], rng) for name in CLASSES]
        nonsense_TL = _nonsense(tokenizer, len(CLASSES), rng)
        token_TL = torch.cat([tokenizer([*captions, *alone]), nonsense_TL])
        image_BD = model.encode_image(image_B3HW, normalize=True)
        text_TD = model.encode_text(token_TL, normalize=True)
        prominence_BC = _prominence(pictures)
        logit_BT = model.logit_scale.exp().clamp(max=100) * image_BD @ text_TD.T
        logit_BB, logit_BC = logit_BT[:, : len(pictures)], logit_BT[:, len(pictures) :]
        likeness_BB = likeness(prominence_BC)
        loss = (
            soft_cross_entropy(logit_BB, likeness_BB) + soft_cross_entropy(logit_BB.T, likeness_BB)
        ) / 2 + soft_cross_entropy(logit_BC, F.pad(prominence_BC, (0, len(CLASSES))))
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


def _prominence(pictures: Sequence[Picture]) -> Tensor:
    """(B, C) shares of the names in a caption: the n-th name counts 1/n."""
    share_BC = torch.zeros(len(pictures), len(CLASSES))
    for row_C, picture in zip(share_BC, pictures, strict=True):
        for place, name in enumerate(picture.names, start=1):
            row_C[CLASSES.index(name)] = 1 / place
    return share_BC / share_BC.sum(1, keepdim=True)


def _nonsense(tokenizer: Any, count: int, rng: np.random.Generator) -> Tensor:
    """(count, L) texts about random words, which hold of no picture: unknown is not everything."""
    token_TL = tokenizer(["a photo of a x."] * count)
    place = int((token_TL[0] == tokenizer(["x"])[0, 1]).nonzero()[0])
    words = rng.integers(_WORDS, token_TL.max().item() - 1, size=count)
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
    parser.add_argument("--scenes", type=int, default=3000)
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    train(given.folder, scenes=given.scenes, steps=given.steps, batch=given.batch, seed=given.seed)


if __name__ == "__main__":
    main()
