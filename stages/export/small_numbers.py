"""Networks in 16-bit floats and in 8-bit integers. What follows them stays in 32-bit floats.

Norm, cosine and enlargement are outside the network (`student_graph.py`), so they are never
rounded.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnxruntime.quantization import (
    CalibrationDataReader,
    CalibrationMethod,
    QuantFormat,
    QuantType,
    quantize_static,
)
from onnxruntime.quantization.shape_inference import quant_pre_process
from onnxruntime.transformers.float16 import convert_float_to_float16
from onnxruntime.transformers.onnx_model import OnnxModel

from zsseg.stages.evaluate.inference import prepared
from zsseg.stages.evaluate.trained_run import TrainedRun

_QUANTISED = ("Conv", "Clip", "Relu")
"""Operators in 8 bits: nearly all of the work of a convolutional student. A convolution is rounded
after its activation: before it, the range is wider, and a third of the labels was lost."""


def half_network(network: onnx.ModelProto) -> onnx.ModelProto:
    """A `network_graph` that computes in 16-bit floats between inputs and outputs of 32 bits."""
    half = OnnxModel(convert_float_to_float16(network, keep_io_types=True))
    half.topological_sort()  # casts of the input stand behind what takes them
    model: onnx.ModelProto = half.model
    return model


def quantised_network(
    network: onnx.ModelProto,
    run: TrainedRun,
    images: Sequence[NDArray[np.uint8]],
    folder: Path,
) -> onnx.ModelProto:
    """A `network_graph` whose convolutions compute with 8-bit integers.

    Weights have a scale per output channel, maps one for all, from the range that they have on the
    images (H, W, 3). `folder`: for files in between.
    """
    first, prepared_path, last = (
        folder / f"{name}.onnx" for name in ("network", "fused", "quantised")
    )
    onnx.save(network, first)
    quant_pre_process(str(first), str(prepared_path), skip_symbolic_shape=True)
    quantize_static(
        str(prepared_path),
        str(last),
        _Calibration(run, images),
        quant_format=QuantFormat.QDQ,
        op_types_to_quantize=list(_QUANTISED),
        per_channel=True,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        calibrate_method=CalibrationMethod.MinMax,
    )
    quantised = onnx.load(last)
    for path in (first, prepared_path, last):
        path.unlink()
    return quantised


class _Calibration(CalibrationDataReader):  # type: ignore[misc]
    """Hands out images as the network sees them, one at a time."""

    def __init__(self, run: TrainedRun, images: Sequence[NDArray[np.uint8]]) -> None:
        self._inputs = self._seen(run, images)

    @staticmethod
    def _seen(
        run: TrainedRun, images: Sequence[NDArray[np.uint8]]
    ) -> Iterator[dict[str, NDArray[np.float32]]]:
        multiple = run.student.multiple
        for image_HW3 in images:
            image_3HW = prepared(image_HW3, config=run.evaluate, stride=run.stride)
            missing = [(0, 0), *((0, -side % multiple) for side in image_3HW.shape[1:])]
            yield {"image": np.pad(image_3HW, missing)[None]}

    def get_next(self) -> Any:
        """The next image, or None."""
        return next(self._inputs, None)
