"""Small generated inputs that several test files share."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real data beside the checkout (CamVid and a small CLIP for it), where it is there."""
    if not (SHARED / "camvid").is_dir():
        pytest.skip(f"no real data at {SHARED}")
    return SHARED


WORLD = """\
name: tiny-world
layout: folder
classes: [sky, ground, box, ball]
unseen: [ball]
names: {box: cardboard box}
ignore: [255]
patterns: {images: "images/{split}", labels: "labels/{split}"}
"""


def draw_world(root: Path, *, split: str = "train", images: int = 6, seed: int = 0) -> Path:
    """Write `images` pictures of 48 x 64 pixels with labels in the `folder` layout.

    Returns the path of the data set's description.
    """
    rng = np.random.default_rng(seed)
    colours = np.array([[120, 180, 240], [110, 90, 60], [200, 60, 40], [240, 220, 60]])
    row_H1, column_1W = np.mgrid[0:48, 0:1][0], np.mgrid[0:1, 0:64][1]
    for kind in ("images", "labels"):
        (root / kind / split).mkdir(parents=True, exist_ok=True)
    for number in range(images):
        label_HW = np.where(row_H1 < rng.integers(16, 30), 0, 1) + np.zeros((1, 64), np.int64)
        top, left = rng.integers(18, 30), rng.integers(2, 24)
        label_HW[top : top + 16, left : left + 18] = 2
        centre_y, centre_x = rng.integers(20, 36), rng.integers(40, 54)
        label_HW[(row_H1 - centre_y) ** 2 + (column_1W - centre_x) ** 2 < 90] = 3
        image_HW3 = colours[label_HW] + rng.normal(0, 12, (48, 64, 3))
        label_HW[:2] = 255
        name = f"scene_{number:03d}"
        image = Image.fromarray(np.clip(image_HW3, 0, 255).astype(np.uint8))
        image.save(root / "images" / split / f"{name}.png")
        Image.fromarray(label_HW.astype(np.uint8)).save(root / "labels" / split / f"{name}.png")
    description = root / "world.yaml"
    description.write_text(WORLD)
    return description


@pytest.fixture
def tiny_world(tmp_path: Path) -> Path:
    """A `folder` data set of six training images; the fixture is its description's path."""
    root = tmp_path / "world"
    draw_world(root, split="train", images=6)
    return draw_world(root, split="val", images=3, seed=1)


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


@pytest.fixture(scope="session")
def tiny_clip(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Teacher spec of a small random ViT CLIP."""
    return write_clip(tmp_path_factory.mktemp("clip-vit"), tower="vit")


@pytest.fixture(scope="session")
def tiny_cnn_clip(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Teacher spec of a small random CLIP with a timm tower."""
    return write_clip(tmp_path_factory.mktemp("clip-cnn"), tower="cnn")


@pytest.fixture
def one_teacher(monkeypatch: pytest.MonkeyPatch) -> None:
    """Loading one costs more than most tests of stage one; equal files are the same teacher."""
    from clip_store import load_once

    monkeypatch.setattr("stages.precompute.teacher.load_teacher", load_once)


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory, tiny_clip: str) -> tuple[Path, Path]:
    """A world of six images and the store of it, for tests that change neither."""
    from clip_store import make

    folder = tmp_path_factory.mktemp("made")
    world = draw_world(folder / "world", images=6)
    return world, make(world, tiny_clip, folder / "cache")


@pytest.fixture
def fresh(made: tuple[Path, Path], tmp_path: Path) -> tuple[Path, Path]:
    """A copy of the world, and of its store beside it in `tmp_path / "cache"`."""
    world, store = made
    shutil.copytree(world.parent, tmp_path / "world")
    shutil.copytree(store, tmp_path / "cache" / store.name)
    return tmp_path / "world" / world.name, tmp_path / "cache" / store.name
