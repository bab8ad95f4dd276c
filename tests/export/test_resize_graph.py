"""The exported graph resizes as Pillow does, to the bit."""

import numpy as np
import onnxruntime
import pytest
from onnx import TensorProto, helper
from PIL import Image

from zsseg.stages.export.graph_builder import GraphBuilder, described
from zsseg.stages.export.network_graph import OPSET
from zsseg.stages.export.resize_graph import resized


@pytest.fixture(scope="module")
def session() -> onnxruntime.InferenceSession:
    graph = GraphBuilder()
    image = graph.op("Cast", ["image"], {"to": TensorProto.INT32})
    found = resized(graph, image, "size")
    built = graph.graph(
        "resize",
        [
            described("image", TensorProto.UINT8, ["N", "H", "W", 3]),
            described("size", TensorProto.INT64, [2]),
        ],
        [(found, described("resized", TensorProto.INT32, ["N", "R", "Q", 3]))],
    )
    opset = [helper.make_opsetid("", OPSET)]
    model = helper.make_model(built, opset_imports=opset, ir_version=10)
    return onnxruntime.InferenceSession(model.SerializeToString())


def test_every_size_is_pillow_s_in_either_order_of_rows_and_columns(
    session: onnxruntime.InferenceSession,
) -> None:
    rng = np.random.default_rng(0)
    sizes = [tuple(map(int, each)) for each in rng.integers(1, 200, (120, 4))]
    for rows, columns, new_rows, new_columns in [*sizes, (90, 70, 90, 70), (90, 70, 90, 31)]:
        image_NHW3 = rng.integers(0, 256, (2, rows, columns, 3), dtype=np.uint8)
        size = np.array([new_rows, new_columns])
        (found,) = session.run(None, {"image": image_NHW3, "size": size})
        for own, expected in zip(found, image_NHW3, strict=True):
            pillow = Image.fromarray(expected).resize(
                (new_columns, new_rows), Image.Resampling.BILINEAR
            )
            np.testing.assert_array_equal(own, np.asarray(pillow), err_msg=f"{expected.shape}")
