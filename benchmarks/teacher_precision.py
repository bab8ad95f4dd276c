"""How near the dense tokens of a teacher in bf16 and fp16 are to those in fp32.

    python -m benchmarks.teacher_precision TEACHER --dataset camvid --root DIR [--split val]

Compared as a store keeps them, in half precision; what fp32 itself loses by that is the first line.
Cosine of each token, and the share of tokens whose nearest class name is the same. Runs on the GPU
where there is one.
"""

import argparse
import sys
from pathlib import Path

import numpy as np

from zsseg.stages.data.images import read_image
from zsseg.stages.data.spec import load_spec
from zsseg.stages.data.splits import list_samples
from zsseg.stages.precompute.make.token_loss import compare, spread
from zsseg.stages.precompute.precompute_config import DenseConfig, Precision
from zsseg.stages.precompute.teacher.clip_teacher import load_teacher
from zsseg.stages.precompute.teacher.teacher_files import resolve_teacher
from zsseg.stages.precompute.teacher.text_embeddings import embed_classes

PRECISIONS: tuple[Precision, ...] = ("fp32", "fp16", "bf16")


def main() -> None:
    """Print one line per precision."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("teacher")
    parser.add_argument("--dataset", required=True)
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--split", default="val")
    parser.add_argument("--images", type=int, default=8)
    options = parser.parse_args()
    spec, files = load_spec(options.dataset), resolve_teacher(options.teacher)
    samples, config = list_samples(spec, options.root, options.split), DenseConfig()
    teachers = {each: load_teacher(files, device="auto", precision=each) for each in PRECISIONS}
    text_CD = embed_classes(teachers["fp32"], spec.prompt_names, "imagenet80")
    cosines: dict[Precision, list[np.ndarray]] = {each: [] for each in PRECISIONS}
    same = dict.fromkeys(PRECISIONS, 0)
    for place in spread(np.arange(len(samples)), options.images):
        images = [read_image(samples[place].image)]
        (exact_Dhw,) = teachers["fp32"].dense(images, config)
        for precision, teacher in teachers.items():
            (token_Dhw,) = teacher.dense(images, config)
            stored_Dhw = token_Dhw.astype(np.float16)
            cosine_T, agreed = compare(stored_Dhw, exact_Dhw, text_CD)
            cosines[precision].append(cosine_T)
            same[precision] += agreed
    for precision, parts in cosines.items():
        cosine_T = np.concatenate(parts)
        sys.stdout.write(
            f"{precision}: 1 - cosine {1 - cosine_T.mean():.1e}, worst {1 - cosine_T.min():.1e}, "
            f"same nearest class {100 * same[precision] / len(cosine_T):.2f} % of {len(cosine_T)}; "
            f"{teachers[precision].passes.repeated} images again in fp32\n"
        )


if __name__ == "__main__":
    main()
