"""Pillow's bilinear resize of 8-bit images, to the bit, out of plain operators.

ONNX's own Resize differs from it by one grey value here and there, which a student's scores show in
the third digit. Pillow (13, Resample.c) resizes columns, then rows, or the other way round. An
output pixel is the weighted mean of the input pixels below a triangle; weights are whole numbers of
22 bits, so products and sums are exact.

Legend: N images, H W pixels, Q pixels of the axis afterwards, K input pixels below a triangle.
"""

import numpy as np
from onnx import TensorProto, helper

from zsseg.stages.export.graph_builder import GraphBuilder, described

_DOUBLE, _INT32, _INT64 = TensorProto.DOUBLE, TensorProto.INT32, TensorProto.INT64
_SIDES: tuple[int | str, ...] = ("N", "H", "W", 3)
_BITS = 22
"""Of a weight: PRECISION_BITS in Pillow."""


def resized(graph: GraphBuilder, image: str, after: str) -> str:
    """(N, H, W, 3) int32 images with `after` (2,) rows and columns.

    Rows go first where they lose more than twice as many pixels as columns, and some.
    """
    shape = graph.op("Shape", [image])
    before = graph.op("Slice", [shape, graph.whole(1), graph.whole(3)])
    lost = graph.op("Sub", [before, after])
    lost_rows, lost_columns = (
        graph.op("Gather", [lost, graph.constant(np.array(at))]) for at in (0, 1)
    )
    zero, two = graph.constant(np.array(0)), graph.constant(np.array(2))
    most = graph.op("Greater", [lost_rows, graph.op("Mul", [lost_columns, two])])
    some = graph.op("Greater", [lost_rows, zero])
    branches = {}
    for name, axes in (("then_branch", (1, 2)), ("else_branch", (2, 1))):
        inner = GraphBuilder(graph)
        seen = image
        for axis in axes:
            own, new = (
                inner.op("Slice", [sizes, inner.whole(axis - 1), inner.whole(axis)])
                for sizes in (before, after)
            )
            seen = _along(inner, seen, axis, own, new)
        about = described(inner.name("seen"), _INT32, _SIDES)
        branches[name] = inner.graph(name, [], [(seen, about)])
    found = graph.op("If", [graph.op("And", [most, some])], branches)
    # What a loop gives has no known rank, without which onnxruntime reads no sizes of it.
    count = graph.op("Slice", [shape, graph.whole(0), graph.whole(1)])
    sizes = graph.op("Concat", [count, after, graph.whole(3)], {"axis": 0})
    return graph.op("Reshape", [found, sizes])


def _along(graph: GraphBuilder, image: str, axis: int, before: str, after: str) -> str:
    """(N, H, W, 3) int32 with `after` pixels along an axis (1: rows, 2: columns) for `before`.

    `before` and `after` are (1,) int64.
    """
    index, weight, taps = _taps(graph, before, after)
    shape = graph.op("Shape", [image])
    parts = [graph.op("Slice", [shape, graph.whole(at), graph.whole(at + 1)]) for at in range(4)]
    parts[axis] = after
    half = helper.make_tensor("half", _INT32, [1], [1 << (_BITS - 1)])
    start = graph.op("ConstantOfShape", [graph.op("Concat", parts, {"axis": 0})], {"value": half})
    inner = GraphBuilder(graph)
    number, going, sums = inner.name("tap"), inner.name("go"), inner.name("sum")
    place = inner.op("Gather", [index, number], {"axis": 1})
    share = inner.op("Gather", [weight, number], {"axis": 1})
    share = inner.op("Reshape", [share, inner.whole(-1, *[1] * (3 - axis))])
    part = inner.op("Mul", [inner.op("Gather", [image, place], {"axis": axis}), share])
    go = (going, described(inner.name("go"), TensorProto.BOOL, []))
    total = (inner.op("Add", [sums, part]), described(inner.name("sum"), _INT32, _SIDES))
    given = [
        described(number, _INT64, []),
        described(going, TensorProto.BOOL, []),
        described(sums, _INT32, _SIDES),
    ]
    (found,) = graph.loop(taps, [start], inner.graph("tap", given, [go, total]))
    return graph.op("Div", [found, graph.constant(np.array(1 << _BITS, np.int32))])


def _taps(graph: GraphBuilder, before: str, after: str) -> tuple[str, str, str]:
    """Input pixels (Q, K) of each output pixel, their weights (Q, K) int32, and K (a number).

    K is 1 where the size stays. `precompute_coeffs` and `normalize_coeffs_8bpc` in Pillow.
    """

    def number(value: float) -> str:
        return graph.constant(np.array([value], np.float64))

    def exact(value: str) -> str:
        return graph.op("Cast", [value], {"to": _DOUBLE})

    def whole(value: str) -> str:
        return graph.op("Cast", [value], {"to": _INT64})

    def column(value: str) -> str:
        return graph.op("Unsqueeze", [value, graph.whole(1)])

    zero, one = graph.constant(np.array(0)), graph.constant(np.array(1))
    last = graph.op("Squeeze", [after, graph.whole(0)])
    scale = graph.op("Div", [exact(before), exact(after)])
    support = graph.op("Max", [scale, number(1.0)])
    reach = whole(graph.op("Ceil", [support]))
    wide = graph.op("Add", [graph.op("Mul", [reach, graph.whole(2)]), graph.whole(1)])
    same = graph.op("Equal", [before, after])
    taps = graph.op("Squeeze", [graph.op("Where", [same, graph.whole(1), wide]), graph.whole(0)])
    pixel_Q = exact(graph.op("Range", [zero, last, one]))
    centre_Q = graph.op("Mul", [graph.op("Add", [pixel_Q, number(0.5)]), scale])
    low_Q = graph.op("Add", [graph.op("Sub", [centre_Q, support]), number(0.5)])
    low_Q = graph.op("Max", [whole(low_Q), graph.whole(0)])
    high_Q = graph.op("Add", [graph.op("Add", [centre_Q, support]), number(0.5)])
    high_Q = graph.op("Min", [whole(high_Q), before])
    at_QK = graph.op("Add", [column(low_Q), graph.op("Range", [zero, taps, one])])
    inside_QK = graph.op("Less", [at_QK, column(high_Q)])
    away_QK = graph.op("Sub", [exact(at_QK), column(centre_Q)])
    away_QK = graph.op("Div", [graph.op("Add", [away_QK, number(0.5)]), support])
    height_QK = graph.op("Sub", [number(1.0), graph.op("Abs", [away_QK])])
    height_QK = graph.op("Mul", [graph.op("Max", [height_QK, number(0.0)]), exact(inside_QK)])
    sum_Q1 = graph.op("ReduceSum", [height_QK, graph.whole(1)], {"keepdims": 1})
    share_QK = graph.op("Mul", [graph.op("Div", [height_QK, sum_Q1]), number(1 << _BITS)])
    weight_QK = graph.op("Add", [share_QK, number(0.5)])
    weight_QK = graph.op("Cast", [weight_QK], {"to": _INT32})
    edge = graph.op("Sub", [before, graph.whole(1)])
    return graph.op("Min", [at_QK, edge]), weight_QK, taps
