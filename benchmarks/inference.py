"""What a label map costs: `python -m benchmarks.inference`.

One picture of 512 x 512 pixels, 171 classes, `mit_b0` with random weights. Cells disagree in half
of the squares between them, more than in photographs (an eighth in images of CamVid). Noise instead
of a picture, where they disagree nearly everywhere, is the worst case.
"""

import platform
import sys
from dataclasses import dataclass
from typing import Any

import numpy as np
import open_clip
import segmentation_models_pytorch as smp
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from benchmarks.ratio import ROUNDS, Ratio, timed_in_turn
from zsseg.stages.evaluate.inference import predict_scores, prepared
from zsseg.stages.evaluate.labelling import upsampled_argmax
from zsseg.stages.evaluate.scorer import Scorer, class_scorer
from zsseg.stages.precompute.precompute_config import DenseConfig
from zsseg.stages.precompute.teacher.dense_tokens import dense_tokens
from zsseg.stages.train.run_config import EvaluateConfig, StudentConfig
from zsseg.stages.train.students.student import build_student, class_logits

CLASSES, WIDTH, SIZE, STRIDE = 171, 512, (512, 512), 4
WHAT = f"mit_b0, {SIZE[0]} x {SIZE[1]}, {CLASSES} classes"


@dataclass(frozen=True)
class Subject:
    """A student with its classes."""

    scorer: Scorer
    config: EvaluateConfig

    def scores(self, image_HW3: NDArray[np.uint8]) -> Tensor:
        """(C, h, w) from the pixels of a file on."""
        image_3HW = prepared(image_HW3, config=self.config, stride=STRIDE)
        return predict_scores(self.scorer, image_3HW, config=self.config, stride=STRIDE)

    def label(self, image_HW3: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """(H, W) as `zsseg predict` makes it."""
        return upsampled_argmax(self.scores(image_HW3), SIZE)


def subject() -> Subject:
    """Random weights and random class embeddings, always the same."""
    torch.manual_seed(0)
    student = build_student(StudentConfig(encoder="mit_b0", weights="none"), WIDTH).eval()
    student = student.to(memory_format=torch.channels_last)
    text_CD = F.normalize(torch.randn(CLASSES, WIDTH), dim=1)
    config = EvaluateConfig(short_side=None, mode="whole")
    return Subject(class_scorer(student, text_CD), config)


def picture() -> NDArray[np.uint8]:
    """Areas of 32 to some hundred pixels with the grain of a photograph."""
    rng = np.random.default_rng(0)
    colour_hw3 = rng.integers(0, 256, (16, 16, 3)) * (rng.random((16, 16, 1)) < 0.5)
    image_HW3 = np.kron(colour_hw3, np.ones((32, 32, 1))) + rng.normal(0, 12, (*SIZE, 3))
    return np.clip(image_HW3, 0, 255).astype(np.uint8)


def noise() -> NDArray[np.uint8]:
    return np.random.default_rng(1).integers(0, 256, (*SIZE, 3), dtype=np.uint8)


@torch.inference_mode()
def plainly(score_Chw: Tensor) -> NDArray[np.uint8]:
    """All classes upsampled, and the best at each pixel."""
    score_CHW = F.interpolate(score_Chw[None], size=SIZE, mode="bilinear")[0]
    return score_CHW.max(0).indices.to(torch.uint8).numpy()


def agreement() -> dict[str, float]:
    """Share of pixels at which the map is that of the plain way; disputed squares likewise."""
    one = subject()
    found = {}
    for name, image_HW3 in (("picture", picture()), ("noise", noise())):
        score_Chw = one.scores(image_HW3)
        label_HW, plain_HW = upsampled_argmax(score_Chw, SIZE), plainly(score_Chw)
        best_hw = score_Chw.max(0).indices
        agree_hw = (best_hw[1:, 1:] == best_hw[:-1, 1:]) & (best_hw[1:, 1:] == best_hw[1:, :-1])
        agree_hw &= best_hw[1:, 1:] == best_hw[:-1, :-1]
        found[f"{name}: pixels labelled as in the plain way"] = float((label_HW == plain_HW).mean())
        found[f"{name}: squares in which cells disagree"] = 1 - float(agree_hw.float().mean())
    return found


def agreement_ratios() -> list[Ratio]:
    """The shares of `agreement`, each of all there are."""
    return [Ratio(name, (share,), (1.0,), unit="") for name, share in agreement().items()]


def prediction_over_network() -> Ratio:
    """From the pixels of a file to a label map / the encoder and decoder alone, as smp has them."""
    return _over_network("prediction", picture(), ours=False, target="at most 1.25")


def noise_over_network() -> Ratio:
    """The same of noise, the worst case."""
    return _over_network("prediction of noise", noise(), ours=False)


def prediction_over_our_network() -> Ratio:
    """The same beside our order of the decoder, which is about twice as fast as smp's."""
    return _over_network("prediction", picture(), ours=True)


def _over_network(
    name: str, image_HW3: NDArray[np.uint8], *, ours: bool, target: str = ""
) -> Ratio:
    one = subject()
    network = one.scorer.student.network if ours else smp_network(one)
    image_13HW = torch.from_numpy(prepared(image_HW3, config=one.config, stride=STRIDE))[None]

    def bare() -> Any:
        with torch.inference_mode():
            return network(image_13HW)

    whose = "zsseg" if ours else "segmentation_models_pytorch"
    return timed_in_turn(
        f"{name} / bare encoder and decoder of {whose}, {WHAT}",
        lambda: one.label(image_HW3),
        bare,
        target=target,
    )


def plain_prediction_over_prediction() -> Ratio:
    """smp's network, the whole feature, and all classes upsampled / a prediction."""
    one, image_HW3 = subject(), picture()
    network, projection = smp_network(one), one.scorer.student.projection

    @torch.inference_mode()
    def plain() -> object:
        image_3HW = prepared(image_HW3, config=one.config, stride=STRIDE)
        feature_1Dhw = projection(network(torch.from_numpy(image_3HW)[None]))
        return plainly(class_logits(feature_1Dhw, one.scorer.text_CD, 1.0)[0])

    return timed_in_turn(
        f"prediction done plainly / prediction, {WHAT}", plain, lambda: one.label(image_HW3)
    )


def smp_network(one: Subject) -> nn.Module:
    """Encoder and decoder of segmentation_models_pytorch with the subject's weights."""
    network: nn.Module = smp.create_model("segformer", encoder_name="mit_b0", encoder_weights=None)
    network.segmentation_head = nn.Identity()
    network.load_state_dict(one.scorer.student.network.state_dict())
    return network.eval().to(memory_format=torch.channels_last)


def teacher_over_prediction() -> Ratio:
    """ViT-B/16's dense tokens to a label map, the same way / the student's prediction."""
    visual = open_clip.create_model("ViT-B-16-quickgelu").visual.eval()
    one, image_HW3, config = subject(), picture(), DenseConfig()
    image_13HW = torch.from_numpy(prepared(image_HW3, config=one.config, stride=STRIDE))[None]

    def teacher() -> object:
        with torch.inference_mode():
            token_1Dhw = dense_tokens(visual, image_13HW, config)
            return upsampled_argmax(class_logits(token_1Dhw, one.scorer.text_CD, 1.0)[0], SIZE)

    return timed_in_turn(
        f"training-free teacher ViT-B/16 / prediction, {WHAT}",
        teacher,
        lambda: one.label(image_HW3),
        target="4 or more",
    )


MEASURES = (
    prediction_over_network,
    noise_over_network,
    prediction_over_our_network,
    plain_prediction_over_prediction,
    teacher_over_prediction,
)


def main() -> None:
    """Print the machine, the versions and every ratio."""
    sys.stdout.write(
        f"{platform.machine()}, {torch.get_num_threads()} threads, Python "
        f"{platform.python_version()}, torch {torch.__version__}, median of {ROUNDS} rounds\n"
    )
    for name, share in agreement().items():
        sys.stdout.write(f"{name}: {share:.5f}\n")
    for measure in MEASURES:
        sys.stdout.write(f"{measure()}\n")


if __name__ == "__main__":
    main()
