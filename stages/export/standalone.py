"""Labels an image with an exported student: needs numpy, Pillow and onnxruntime, nothing else.

python run.py model.onnx image.jpg [--names names.npz] [--unsure 0.1] [--out labels.png]
"""

import argparse
import base64
import json

import numpy as np
import onnxruntime
from PIL import Image, ImageOps


def main() -> None:
    """Write a palette PNG, and print the share of each class."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("model")
    parser.add_argument("image")
    parser.add_argument("--names", help="file of `zsseg names`; without it the model's own classes")
    parser.add_argument("--unsure", type=float, default=0.0, help="least confidence; 0: any")
    parser.add_argument("--out", default="labels.png")
    given = parser.parse_args()
    session = onnxruntime.InferenceSession(given.model, providers=["CPUExecutionProvider"])
    about = session.get_modelmeta().custom_metadata_map
    names, colours, background, shape = (
        json.loads(about[f"zsseg.{key}"])
        for key in ("names", "colours", "background", "text_shape")
    )
    text = np.frombuffer(base64.b64decode(about["zsseg.text"]), np.float32).reshape(shape)
    if given.names:
        if len(session.get_inputs()) == 1:
            parser.error("the names of this model are fixed")
        stored = np.load(given.names)
        names, colours, text = stored["names"].tolist(), stored["colours"].tolist(), stored["text"]
        background = int(stored["background"])
    image = np.asarray(ImageOps.exif_transpose(Image.open(given.image)).convert("RGB"))
    feeds = {"image": image[None]} | ({"text": text} if len(session.get_inputs()) > 1 else {})
    labels, confidence = session.run(["labels", "confidence"], feeds)
    labels = np.where(confidence[0] < given.unsure, 255, labels[0])
    classes = len(names) - background
    labels = np.where(labels < classes, labels, 255).astype(np.uint8)
    picture = Image.fromarray(labels)
    table = np.zeros((256, 3), np.uint8)  # whole: of a shorter one Pillow makes fewer bits a pixel
    table[:classes] = colours[:classes]
    picture.putpalette(table.tobytes())
    picture.save(given.out)
    for number in np.argsort(-np.bincount(labels.ravel(), minlength=256)[:classes], kind="stable"):
        if share := float((labels == number).mean()):
            print(f"{share:6.1%}  {names[number]}")  # noqa: T201


if __name__ == "__main__":
    main()
