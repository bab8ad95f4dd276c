"""A small CLIP of random weights on disk."""

import json
from pathlib import Path


def write_clip(folder: Path, *, tower: str = "vit", seed: int = 0) -> str:
    """Write a small random CLIP in open_clip's `local-dir:` form and return its teacher spec.

    `vit`: open_clip's own ViT, 32 px, patch 8, width 32, 2 layers; `cnn`: timm's resnet10t.
    """
    import open_clip
    import torch
    from safetensors.torch import save_file

    vision: dict[str, object] = {"image_size": 32, "layers": 2, "width": 32, "patch_size": 8}
    vision["head_width"] = 16
    if tower == "cnn":
        vision = {
            "timm_model_name": "resnet10t",
            "timm_model_pretrained": False,
            "timm_pool": "avg",
            "timm_proj": "linear",
            "image_size": 32,
        }
    text = {"context_length": 77, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1}
    config = {
        "model_cfg": {"embed_dim": 24, "vision_cfg": vision, "text_cfg": text},
        "preprocess_cfg": {"mean": [0.48, 0.46, 0.41], "std": [0.27, 0.26, 0.28]},
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = open_clip.create_model(f"local-dir:{folder}", load_weights=False)
    save_file(model.state_dict(), folder / "open_clip_model.safetensors")
    return f"local-dir:{folder}"
