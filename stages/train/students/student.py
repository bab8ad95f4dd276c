"""Students: a segmentation network whose last layer projects to CLIP's width.

A student's feature lies at the decoder's own stride, 4 pixels at the finest: class scores are
computed there and only scores are upsampled, never the D channels (512 x 512 x 512 is half a GiB
for one image).

Legend: B batch, C classes, D CLIP width, H W pixels, h w feature grid.
"""

import math
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zsseg.stages.best_names import best_names, name_rows
from zsseg.stages.errors import UserError
from zsseg.stages.train.run_config import StudentConfig, TrainConfig
from zsseg.stages.train.students.networks import build_network
from zsseg.stages.train.students.recompute import recompute_blocks
from zsseg.stages.train.students.similarity import cosines

FINEST_STRIDE = 4
"""Pixels between two feature positions, at least."""

_UNDECAYED = ("pos_embed", "relative_position", "cls_token", "reg_token", "dist_token")
"""Tables of timm's transformers that stand for positions or tokens, not for weights."""


class Student(nn.Module):
    """A network with an `encoder`, and the 1 x 1 projection of its decoded map to D channels."""

    def __init__(self, network: nn.Module, *, channels: int, width: int, multiple: int) -> None:
        """`network` maps (B, 3, H, W) to (B, channels, h, w) when H and W divide by `multiple`."""
        super().__init__()
        self.network = network
        self.projection = nn.Conv2d(channels, width, kernel_size=1)
        self.multiple = multiple

    def forward(self, image_B3HW: Tensor) -> Tensor:
        """Un-normalised feature (B, D, h, w) of ImageNet-normalised images of any size.

        Position (i, j) belongs to the pixels from (i * stride, j * stride) on; h = ceil(H / stride)
        and so w, where stride is the decoder's own but at least FINEST_STRIDE. Sides that the
        encoder cannot divide are padded with the mean colour (0), and the padding is cut off.
        """
        feature_BDhw: Tensor = self.projection(self.decoded(image_B3HW))
        return feature_BDhw

    def decoded(self, image_B3HW: Tensor) -> Tensor:
        """(B, channels, h, w) what `forward` projects."""
        height, width = image_B3HW.shape[2:]
        padding = (0, -width % self.multiple, 0, -height % self.multiple)
        decoded: Tensor = self.network(F.pad(image_B3HW, padding))
        stride = (height + padding[3]) // decoded.shape[2]
        if stride < FINEST_STRIDE:
            decoded = F.avg_pool2d(decoded, FINEST_STRIDE // stride)
            stride = FINEST_STRIDE
        return decoded[:, :, : math.ceil(height / stride), : math.ceil(width / stride)]


def build_student(config: StudentConfig, width: int, *, pretrained: bool = True) -> Student:
    """The student that a configuration names, with D = `width`, on the CPU in training mode.

    `pretrained` False leaves out the encoder's weights: a checkpoint's will take their place.
    Raises UserError for an architecture or encoder that does not exist, or a pair of them that
    does not fit, for an encoder without blocks to checkpoint, and ResourceError when the encoder's
    weights cannot be had.
    """
    network = build_network(config, pretrained=pretrained)
    if config.checkpointing and not recompute_blocks(network.module.get_submodule("encoder")):
        raise UserError(
            f"student.checkpointing: encoder '{config.encoder}' has no blocks that repeat, which "
            "could be computed again. Use student.checkpointing=false, or another encoder"
        )
    return Student(
        network.module, channels=network.channels, width=width, multiple=network.multiple
    )


@torch.no_grad()
def feature_stride(student: Student) -> int:
    """Pixels between two positions of the student's feature, as a blank image shows it."""
    device = next(student.parameters()).device
    blank_13HW = torch.zeros(1, 3, student.multiple, student.multiple, device=device)
    training = student.training
    # A normalisation in training mode would take the blank image into its statistics.
    rows: int = student.eval()(blank_13HW).shape[2]
    student.train(training)
    return student.multiple // rows


def check_crop(student: Student, crop: tuple[int, int]) -> None:
    """Raise UserError when a crop is not a whole number of the student's feature cells."""
    stride = feature_stride(student)
    if any(side % stride for side in crop):
        raise UserError(
            f"augmentation.crop: {list(crop)} is not a whole number of the student's feature "
            f"cells of {stride} x {stride} pixels. Use multiples of {stride}"
        )


def class_logits(
    feature_BDhw: Tensor,
    text_CD: Tensor,
    scale: float,
    product: Literal["cosine", "dot"] = "cosine",
) -> Tensor:
    """Scores scale * F.A (B, C, h, w) in float32; the rows of `text_CD` are L2-normalised.

    Of (C, S, D), several names of each class, the best one's at each position. `product` as in
    `image_logits`.
    """
    names_BND = name_rows(text_CD).expand(len(feature_BDhw), -1, -1)
    logits_BNhw = image_logits(feature_BDhw, names_BND, scale, product)
    return best_names(logits_BNhw, text_CD, dim=1)


def image_logits(
    feature_BDhw: Tensor,
    text_BCD: Tensor,
    scale: float,
    product: Literal["cosine", "dot"] = "cosine",
) -> Tensor:
    """The same for classes of each image's own.

    With `cosine` F is divided by its norm: one pass over the feature for the products and one for
    the norm, and no second D-channel tensor.
    """
    batch, _, height, width = feature_BDhw.shape
    feature_BDL = feature_BDhw.flatten(2)
    text_BCD = text_BCD.to(feature_BDL.dtype)
    if product == "cosine":
        logits_BCL = cosines(feature_BDL, text_BCD, scale=scale)
    else:
        logits_BCL = torch.bmm(text_BCD, feature_BDL).float() * scale
    return logits_BCL.view(batch, -1, height, width)


def parameter_groups(
    student: Student, decoder: nn.Module | None, config: TrainConfig
) -> list[dict[str, Any]]:
    """AdamW's groups: encoder and head (decoder, projection), each with and without decay.

    The head learns `head_multiplier` times as fast as the encoder (mmsegmentation's SegFormer
    schedule), and so does the `decoder` of latent embeddings. Norms, biases, other vectors and
    position embeddings have no weight decay. `name` is for the log.
    """
    named = [*student.named_parameters()]
    if decoder is not None:
        named += [(f"latent.{name}", each) for name, each in decoder.named_parameters()]
    groups: dict[str, dict[str, Any]] = {}
    for name, parameter in named:
        encoder = name.startswith("network.encoder.")
        vector = parameter.ndim <= 1 or any(part in name for part in _UNDECAYED)
        group = ("encoder" if encoder else "head") + (" without decay" if vector else "")
        values = groups.setdefault(
            group,
            {
                "name": group,
                "params": [],
                "lr": config.learning_rate * (1 if encoder else config.head_multiplier),
                "weight_decay": 0.0 if vector else config.weight_decay,
            },
        )
        values["params"].append(parameter)
    return list(groups.values())
