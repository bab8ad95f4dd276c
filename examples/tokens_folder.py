"""Writes a folder of maps for `--teacher tokens:FOLDER`: what any other system can do.

    python examples/tokens_folder.py IMAGES FOLDER sky ground "cardboard box" ball

IMAGES is a folder of images; a map is named by the image's id, which is its path below that folder
without the ending. The names are those of the classes. The model is a toy, `python_teacher.py`; a
real one (RADIO with SigLIP, dino.txt, ...) only has to write the same three kinds of files.
"""

import json
import sys
from pathlib import Path

import numpy as np
from PIL import Image

sys.path.insert(0, str(Path(__file__).parent))
from python_teacher import ColourTeacher

ENDINGS = {".jpg", ".jpeg", ".png"}
SIZE = (64, 96)  # height and width in pixels that the model sees


def write_folder(images: Path, folder: Path, names: list[str]) -> None:
    """Write teacher.json, text.npz and images/ID.npz of each image."""
    model = ColourTeacher()
    folder.mkdir(parents=True, exist_ok=True)
    description = {
        "name": "colour-maps",
        # Another text whenever the maps are other ones.
        "fingerprint": f"{model.fingerprint} at {SIZE}",
        "width": model.width,
        "grid": [SIZE[0] // model.stride, SIZE[1] // model.stride],
    }
    (folder / "teacher.json").write_text(json.dumps(description, indent=2) + "\n")
    np.savez(folder / "text.npz", names=np.array(names), text=model.text(names))
    for path in sorted(each for each in images.rglob("*") if each.suffix.lower() in ENDINGS):
        with Image.open(path) as image:
            pixels = np.array(image.convert("RGB").resize(SIZE[::-1]))[None]
        out = folder / "images" / path.relative_to(images).with_suffix(".npz")
        out.parent.mkdir(parents=True, exist_ok=True)
        # float16 halves the bytes. cls may be left out: it is pooled from the map then.
        dense, cls = (
            made[0].astype(np.float16) for made in (model.dense(pixels), model.cls(pixels))
        )
        np.savez(out, dense=dense, cls=cls)


if __name__ == "__main__":
    write_folder(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:])
