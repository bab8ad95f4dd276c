"""Paddings that are computed from the size of an image, as numbers.

TensorFlow's "same" padding of a convolution of stride s, as in timm's `tf_...` encoders, depends
on the size i of its input: max((ceil(i / s) - 1) s + (k - 1) d + 1 - i, 0), with kernel k and
dilation d. Where s divides i it is max((k - 1) d + 1 - s, 0), a number. The exporter would carry
the formula through every layer behind it, and does not come to an end for a deep encoder.
"""

from typing import Any

import torch
from torch import Tensor, nn

from zsseg.stages.train.students.student import Student

_SAME = "Conv2dSame"
"""timm's class, by name: its package is imported where students are built."""


def fix_paddings(student: Student) -> None:
    """Give each such convolution of a student its padding as a number, in place.

    It sees images in multiples of `student.multiple`. A layer whose stride does not divide its
    input in the smallest of them stays as it is.
    """
    layers = [(name, each) for name, each in student.named_modules() if _is_same(each)]
    sizes: dict[int, tuple[int, ...]] = {}

    def note(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        sizes[id(module)] = tuple(inputs[0].shape[2:])

    hooks = [each.register_forward_pre_hook(note) for _, each in layers]
    with torch.no_grad():
        student(torch.zeros(1, 3, student.multiple, student.multiple))
    for hook in hooks:
        hook.remove()
    for name, layer in layers:
        sides = sizes.get(id(layer), ())
        if sides and not any(side % step for side, step in zip(sides, layer.stride, strict=True)):
            parent, _, own = name.rpartition(".")
            setattr(student.get_submodule(parent), own, _padded(layer))


def _is_same(module: nn.Module) -> bool:
    return type(module).__name__ == _SAME


def _padded(layer: Any) -> nn.Sequential:
    """The convolution behind a padding of zeros; the odd pixel comes last, as in TensorFlow."""
    both = zip(layer.kernel_size, layer.stride, layer.dilation, strict=True)
    rows, columns = (max((kernel - 1) * apart + 1 - step, 0) for kernel, step, apart in both)
    around = (columns // 2, columns - columns // 2, rows // 2, rows - rows // 2)
    plain = nn.Conv2d(
        layer.in_channels,
        layer.out_channels,
        layer.kernel_size,
        stride=layer.stride,
        dilation=layer.dilation,
        groups=layer.groups,
        bias=layer.bias is not None,
    )
    plain.weight, plain.bias = layer.weight, layer.bias
    return nn.Sequential(nn.ZeroPad2d(around), plain)
