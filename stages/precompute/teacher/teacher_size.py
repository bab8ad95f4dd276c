"""Refuses a configuration that asks for a model many times larger than its weights.

Building it would take the machine's memory before anything is compared.
"""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from zsseg.stages.errors import UserError

_TIMES = 4
"""Numbers wanted for each byte of weights, at most; weights have a byte or more for each."""

_FREE = 50_000_000
"""Numbers that any configuration may ask for."""


def refuse_too_large(config: Mapping[str, Any], weights: Path, spec: str) -> None:
    """Raise UserError for a configuration (checked) that cannot be that of the weights."""
    model = config["model_cfg"]
    wanted = _numbers(model["vision_cfg"], 768) + _numbers(model["text_cfg"], 512)
    wanted += _numbers(model.get("multimodal_cfg") or {"layers": 1}, 512)
    held = weights.stat().st_size
    if wanted > _FREE + _TIMES * held:
        raise UserError(
            f"{spec}: its configuration asks for a model of {wanted / 1e9:.1f} billion numbers, "
            f"and {weights} has {held} bytes. Take the file that was published with the weights"
        )


def _numbers(tower: Mapping[str, Any], usual_width: int) -> int:
    """About how many weights a tower has; 0 for one of timm or transformers."""
    if tower.get("timm_model_name") or tower.get("hf_model_name"):
        return 0
    width: int = tower.get("width") or usual_width
    context: int = tower.get("context_length", 77)
    layers = tower.get("layers", 12)
    if isinstance(layers, list):  # a ResNet; its width is that of the first map of 32 times as many
        return 4 * (32 * width) ** 2 + sum(layers) * (8 * width) ** 2
    image, patch = tower.get("image_size", 224), tower.get("patch_size") or 16
    sides = [image, image] if isinstance(image, int) else image
    tokens = math.prod(max(1, side // patch) for side in sides)
    ratio = tower.get("mlp_ratio") or 4
    blocks = int((4 + 2 * ratio) * width**2 * layers)
    words: int = tower.get("vocab_size", 49408)
    return blocks + (tokens + words + context) * width + 3 * patch**2 * width + context**2
