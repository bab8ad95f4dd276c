"""Builds the network that a configuration names: encoder and decoder, of smp or of the papers.

The only door to segmentation_models_pytorch (smp). What it does not have is in files of its own
(`segnext.py`, `setr.py`), with a function here and a line in `_OTHERS`.
"""

import logging
import math
from collections.abc import Callable, Iterable
from functools import partial
from itertools import islice
from typing import Any, NamedTuple

import segmentation_models_pytorch as smp
import torch
from segmentation_models_pytorch.decoders.segformer.decoder import SegformerDecoder
from torch import nn

from zsseg.stages.errors import ResourceError, UserError
from zsseg.stages.offline import hub_at_once
from zsseg.stages.train.run_config import StudentConfig
from zsseg.stages.train.students import mscan, segnext, setr
from zsseg.stages.train.students.encoder_names import (
    TIMM,
    encoder_exists,
    near_encoders,
    near_timm,
    timm_has,
    timm_repository,
    whole_network,
)
from zsseg.stages.train.students.encoder_weights import load_encoder_weights
from zsseg.stages.train.students.segformer import FusedFirst

_COARSEST_STRIDE = 32
"""Of every encoder of smp, also of dilated and of shortened ones, and of MSCAN."""

_OTHER_MULTIPLES = (128, 224, 256)
"""Tried where the first one is refused: PAN pools a map of stride 16 three times; the windows of
MaxViT have 7 x 7 or 8 x 8 positions, also at stride 32."""

_OF_ONE_KIND = {
    "dpt": "tu-vit_base_patch16_224",
    **dict.fromkeys(("setr_mla", "setr_naive", "setr_pup"), "vit_base_patch16_384"),
    "segnext": "mscan_b",
}
"""What architectures take whose encoders are of one kind; the others take most."""

_DILATED = ("deeplabv3", "deeplabv3plus", "pan")

_logger = logging.getLogger(__name__)


class Network(NamedTuple):
    """What a student needs to know of its network."""

    module: nn.Module
    """(B, 3, H, W) to (B, channels, h, w); its `encoder` is the part that weights exist for."""
    channels: int
    multiple: int
    """Pixels that H and W must divide by."""


def build_network(config: StudentConfig, *, pretrained: bool) -> Network:
    """The network of a configuration, on the CPU in training mode.

    `pretrained` False leaves out the encoder's weights. Raises UserError for an architecture or
    encoder that does not exist, or a pair of them that does not fit, and ResourceError when the
    encoder's weights cannot be had.
    """
    hub = pretrained and config.weights == "hub"
    build = _OTHERS.get(config.architecture, _smp_network)
    try:
        with hub_at_once(wanted=hub):
            network = build(config, hub)
    except UserError:
        raise
    except Exception as error:  # of smp, timm and the hub's transport, which share no class
        if not hub:
            raise UserError(
                f"{_named(config)} cannot be built: {_reason(error, config)}. {_advice(config)}"
            ) from error
        build_network(config, pretrained=False)  # UserError where the weights are not the reason
        raise ResourceError(
            f"student.weights: the ImageNet weights of encoder '{config.encoder}' could not be "
            f"had: {_first_line(error)}. Without network give a file (`--set "
            "student.weights=FILE`), or start from random weights (`--set student.weights=none`)"
        ) from error
    network = network._replace(multiple=_accepted_multiple(network, config))
    if pretrained and not hub:
        encoder = network.module.get_submodule("encoder")
        # An encoder of timm ends at its last map, its published weights do not.
        timms = config.encoder.startswith(TIMM) and config.architecture not in _OTHERS
        whole = whole_network(config.encoder.removeprefix(TIMM)) if timms else None
        _logger.info(load_encoder_weights(encoder, config.weights, whole=whole))
    return network


def hub_place(encoder: str) -> tuple[str, str | None] | None:
    """The hub's repository and revision of an encoder's ImageNet weights; None: not known."""
    if encoder.startswith(TIMM):
        repository = timm_repository(encoder.removeprefix(TIMM))
        return None if repository is None else (repository, None)
    known = smp.encoders.encoders.get(encoder, {}).get("pretrained_settings") or {}
    place = known.get("imagenet", {})
    return (place["repo_id"], place["revision"]) if "repo_id" in place else None


def _accepted_multiple(network: Network, config: StudentConfig) -> int:
    """The smallest number of pixels by which the network takes sides of any multiple.

    Raises UserError for a network that takes one image size only, or no map of one stride.
    """
    reasons: list[str] = []
    others = [each for each in _OTHER_MULTIPLES if each > network.multiple]
    for multiple in (network.multiple, *others):
        if (reason := _refusal(network.module, multiple)) is None:
            if multiple != network.multiple:
                _logger.info("%s: sides are padded to multiples of %d", _named(config), multiple)
            return multiple
        reasons.append(reason)
    raise UserError(
        f"{_named(config)} does not take images of any size, as a student must ({reasons[0]}). "
        f"{_advice(config)}"
    )


@torch.no_grad()  # not inference_mode: what a network keeps for later is used in training
def _refusal(module: nn.Module, side: int) -> str | None:
    """Why a network does not take a blank image of `side` x 2 `side` pixels; None: it does."""
    training = module.training
    try:
        rows, columns = module.eval()(torch.zeros(1, 3, side, 2 * side)).shape[2:]
    except Exception as error:  # of any layer of smp or timm
        return _first_line(error)
    finally:
        module.train(training)
    if columns != 2 * rows or side % rows:
        return f"{side} x {2 * side} pixels become a map of {rows} x {columns}"
    return None


def _named(config: StudentConfig) -> str:
    return f"student: {config.architecture} with encoder '{config.encoder}'"


def _advice(config: StudentConfig) -> str:
    """Encoders that the architecture takes."""
    encoders = _OF_ONE_KIND.get(config.architecture, "resnet18 or tu-efficientnet_b0")
    return f"Use another encoder, such as {encoders}"


def _unknown(config: StudentConfig, near: Iterable[str]) -> str:
    """The message about an encoder that there is not: of those near in name, it offers what fits.

    They are built without memory for their weights, which takes no more than a second.
    """
    fitting = (encoder for encoder in near if _can_be_built(config, encoder))
    close = ", ".join(islice(fitting, 3))
    return (
        f"student.encoder: there is no '{config.encoder}' for {config.architecture}"
        + (f"; close: {close}" if close else "")
        + f". {_advice(config)}"
    )


def _can_be_built(config: StudentConfig, encoder: str) -> bool:
    try:
        with torch.device("meta"):
            build_network(config.model_copy(update={"encoder": encoder}), pretrained=False)
    except (UserError, ResourceError):
        return False
    return True


def _reason(error: Exception, config: StudentConfig) -> str:
    """Why smp or timm cannot build a pair, in words of a student; else in their own."""
    text = _first_line(error)
    if "dynamic_img_size" in text or "Only Timm encoders" in text:
        return "DPT needs a plain ViT of timm"
    if "downsampling pattern" in text:
        return "its maps do not halve from stage to stage"
    if config.architecture in _DILATED and (
        "output_stride" in text or "dilat" in text or isinstance(error, AssertionError)
    ):
        return f"{config.architecture} dilates the last stages, which this encoder cannot"
    if "upport" in text and config.encoder in text:
        return f"{config.architecture} does not support this encoder"
    return text


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(".") if lines else type(error).__name__


def _segnext(config: StudentConfig, hub: bool) -> Network:
    """SegNeXt by the name of its encoder."""
    encoder = config.encoder
    if encoder not in mscan.SIZES:
        raise UserError(
            f"student.encoder: '{encoder}' is no encoder of segnext; there are "
            f"{', '.join(mscan.SIZES)}"
        )
    if hub:
        raise UserError(
            f"student.weights: no hub has the weights of {encoder}. Download {encoder}.pth from "
            "the SegNeXt repository (Visual-Attention-Network/SegNeXt) and give the file "
            "(`--set student.weights=FILE`), or start from random weights "
            "(`--set student.weights=none`)"
        )
    module = segnext.SegNext(encoder)
    return Network(module, module.channels, _COARSEST_STRIDE)


def _setr(head: setr.Head, config: StudentConfig, hub: bool) -> Network:
    """SETR by the name of its ViT, also with smp's `tu-` before it."""
    name = config.encoder.removeprefix(TIMM)
    if not timm_has(name):
        raise UserError(_unknown(config, near_timm(name)))
    vit, patch = setr.build_vit(name, head, pretrained=hub)
    module = setr.Setr(head, vit)
    return Network(module, module.channels, patch)


def _smp_network(config: StudentConfig, hub: bool) -> Network:
    """A network of smp whose last layer, the classifier, is taken off."""
    if config.architecture not in smp.MODEL_ARCHITECTURES_MAPPING:
        known = sorted([*smp.MODEL_ARCHITECTURES_MAPPING, *_OTHERS])
        raise UserError(
            f"student.architecture: '{config.architecture}' is not known; "
            f"there are {', '.join(known)}"
        )
    names = smp.encoders.get_encoder_names()
    if not encoder_exists(config.encoder, names):
        raise UserError(_unknown(config, near_encoders(config.encoder, names)))
    weights = True if config.encoder.startswith(TIMM) else "imagenet"
    # A ViT of timm accepts one image size only, unless it is told to resample its positions; and a
    # Swin, unless it is told not to insist.
    options = {"dynamic_img_size": True} if config.architecture == "dpt" else {}
    if config.encoder.startswith("tu-swin"):
        options["strict_img_size"] = False
    module = smp.create_model(
        config.architecture,
        encoder_name=config.encoder,
        encoder_weights=weights if hub else None,
        **options,
    )
    if config.architecture == "segformer":
        stride_2 = module.encoder.out_channels[1]
        module.decoder = FusedFirst(_four_stages(module.encoder) if stride_2 else module.decoder)
    head = next(part for part in module.segmentation_head.modules() if isinstance(part, nn.Conv2d))
    module.segmentation_head = nn.Identity()
    multiple = math.lcm(module.encoder.output_stride, _COARSEST_STRIDE)
    return Network(module, head.in_channels, multiple)


def _four_stages(encoder: Any) -> SegformerDecoder:
    """SegFormer's decoder of strides 4 to 32, as in its paper, for a convolutional encoder.

    smp decodes the encoder's stride-2 map too where there is one: 256 channels at twice the side,
    computed only to be shrunk to stride 4. A map without channels has no part in its decoder.
    """
    channels = encoder.out_channels
    return SegformerDecoder(encoder_channels=[channels[0], 0, *channels[2:]])


_OTHERS: dict[str, Callable[[StudentConfig, bool], Network]] = {
    "segnext": _segnext,
    "setr_mla": partial(_setr, "setr_mla"),
    "setr_naive": partial(_setr, "setr_naive"),
    "setr_pup": partial(_setr, "setr_pup"),
}
"""Architectures that smp does not have. The second argument: are the hub's weights asked for?"""
