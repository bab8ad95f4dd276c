"""Which settings `dense.*` name the seen classes best: chosen without unseen labels.

    python -m benchmarks.dense_settings TEACHER --dataset camvid --root DIR [--split train] \\
      --try '{"size": [512, 512]}' '{"size": [448, 576], "scales": [0.85, 1.2, 1.6], "flip": true}'

Training-free mean IoU of the seen classes on images of `split`, evenly spread. Labels are read as
training reads them: pixels of unseen classes have none, and so count nowhere.
"""

import argparse
import sys
from pathlib import Path

import numpy as np
import torch

from zsseg.stages.data.images import read_image
from zsseg.stages.data.spec import load_spec
from zsseg.stages.data.splits import list_samples
from zsseg.stages.data.visible import read_visible_label
from zsseg.stages.evaluate.metrics import confusion, scores
from zsseg.stages.evaluate.teacher_evaluation import teacher_label
from zsseg.stages.precompute.make.token_loss import spread
from zsseg.stages.precompute.precompute_config import DenseConfig
from zsseg.stages.precompute.teacher.clip_teacher import load_teacher
from zsseg.stages.precompute.teacher.teacher_files import resolve_teacher
from zsseg.stages.precompute.teacher.text_embeddings import embed_classes


def main() -> None:
    """Print one line for each of the settings."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("teacher")
    parser.add_argument("--dataset", required=True)
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--split", default="train")
    parser.add_argument("--images", type=int, default=16)
    parser.add_argument("--templates", default="imagenet80")
    parser.add_argument("--try", dest="tried", nargs="+", required=True)
    options = parser.parse_args()
    spec = load_spec(options.dataset)
    teacher = load_teacher(resolve_teacher(options.teacher), device="auto")
    text_CD = torch.from_numpy(embed_classes(teacher, spec.prompt_names, options.templates))
    samples = list_samples(spec, options.root, options.split)
    places = spread(np.arange(len(samples)), options.images)
    for tried in options.tried:
        config, classes = DenseConfig.model_validate_json(tried), len(spec.classes)
        confusion_CC = np.zeros((classes, classes), np.int64)
        for place in places:
            (dense_Dhw,) = teacher.dense([read_image(samples[place].image)], config)
            visible_HW = read_visible_label(spec, samples[place])
            label_HW = teacher_label(dense_Dhw, text_CD, visible_HW.shape)
            confusion_CC += confusion(label_HW, visible_HW, classes)
        passes = sum(seen.windows for seen in teacher.dense_passes(config)) * (1 + config.flip)
        sys.stdout.write(
            f"{tried}: sIoU {100 * scores(confusion_CC, spec.unseen_ids).siou:.1f}, "
            f"{passes} passes, {len(places)} images\n"
        )
        sys.stdout.flush()


if __name__ == "__main__":
    main()
