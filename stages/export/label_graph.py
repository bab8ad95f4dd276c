"""From class scores on a grid to labels and confidence at full size, one class at a time.

A loop over the classes enlarges each one's scores and keeps the best, the second best and the sum
of exponentials so far: memory does not grow with the classes, and it is faster than to enlarge all
of them and look for the best.

Legend: N images, C classes, H W pixels, h w feature grid.
"""

from typing import Literal

import numpy as np
from onnx import TensorProto, helper

from zsseg.stages.export.graph_builder import GraphBuilder, described

Measure = Literal["margin", "probability", "cosine"]
"""Of confidence: p1 - p2 or p1 of the softmax of logit scale times scores; or the best score."""

_FLOAT = TensorProto.FLOAT
_LOWEST = -1e4
"""Below any cosine, and finite: differences of two of them are no NaN."""


def labels_and_confidence(
    graph: GraphBuilder, scores: str, image_shape: str, *, measure: Measure, logit_scale: float
) -> tuple[str, str]:
    """Labels (N, H, W) int32 and confidence (N, H, W) of `scores` (N, C, h, w).

    `image_shape`: (4,) of the image (N, H, W, 3). Enlarged bilinearly; of equal scores the lowest
    label. `margin` is 1 where there is one class only.
    """
    map_shape = graph.op("Slice", [image_shape, graph.whole(0), graph.whole(3)])
    count = graph.op("Slice", [image_shape, graph.whole(0), graph.whole(1)])
    size = graph.op("Slice", [image_shape, graph.whole(1), graph.whole(3)])
    one_class = graph.op("Concat", [count, graph.whole(1), size], {"axis": 0})
    shape = graph.op("Shape", [scores])
    classes = graph.op("Gather", [shape, graph.constant(np.array(1))])
    first = helper.make_tensor("first", TensorProto.INT32, [1], [0])
    label = graph.op("ConstantOfShape", [map_shape], {"value": first})
    before = [label, _filled(graph, map_shape, _LOWEST)]
    if measure != "cosine":
        before.append(_filled(graph, map_shape, 0.0))
    if measure == "margin":
        before.append(_filled(graph, map_shape, _LOWEST))

    inner = GraphBuilder(graph)
    number, going, labels, best = (inner.name(each) for each in ("class", "go", "label", "best"))
    place = inner.op("Unsqueeze", [number, inner.whole(0)])
    score = inner.op("Gather", [scores, place], {"axis": 1})
    how = {"mode": "linear", "coordinate_transformation_mode": "half_pixel"}
    score = inner.op("Resize", [score, "", "", one_class], how)
    score = inner.op("Squeeze", [score, inner.whole(1)])
    better = inner.op("Greater", [score, best])
    here = inner.op("Cast", [number], {"to": TensorProto.INT32})
    values = [
        (labels, inner.op("Where", [better, here, labels]), TensorProto.INT32),
        (best, inner.op("Max", [score, best]), _FLOAT),
    ]
    if measure != "cosine":
        total = inner.name("total")
        values.append((total, _total(inner, (total, score, best, better), logit_scale), _FLOAT))
    if measure == "margin":
        second = inner.name("second")
        lower = inner.op("Min", [score, best])
        values.append((second, inner.op("Max", [second, lower]), _FLOAT))
    sides = ["N", "H", "W"]
    go = described(going, TensorProto.BOOL, [])
    body = inner.graph(
        "class",
        [
            described(number, TensorProto.INT64, []),
            go,
            *(described(name, kind, sides) for name, _, kind in values),
        ],
        [
            (going, described(inner.name("go"), TensorProto.BOOL, [])),
            *((value, described(inner.name("after"), kind, sides)) for _, value, kind in values),
        ],
    )
    labels, *found = graph.loop(classes, before, body)
    return labels, _confidence(graph, found, measure, logit_scale)


def _filled(graph: GraphBuilder, shape: str, value: float) -> str:
    fill = helper.make_tensor("value", _FLOAT, [1], [value])
    return graph.op("ConstantOfShape", [shape], {"value": fill})


def _total(inner: GraphBuilder, values: tuple[str, str, str, str], logit_scale: float) -> str:
    """The sum of exp(scale (score - best)) over the classes so far, for the best one so far.

    With e = exp(-scale |score - best before|) it is t e + 1 for a new best class, else t + e.
    """
    total, score, best, better = values
    apart = inner.op("Abs", [inner.op("Sub", [score, best])])
    scale = inner.constant(np.array(-logit_scale, np.float32))
    share = inner.op("Exp", [inner.op("Mul", [apart, scale])])
    one = inner.constant(np.array(1.0, np.float32))
    new = inner.op("Add", [inner.op("Mul", [total, share]), one])
    return inner.op("Where", [better, new, inner.op("Add", [total, share])])


def _confidence(graph: GraphBuilder, found: list[str], measure: Measure, logit_scale: float) -> str:
    """(N, H, W) of the best score, the sum of exponentials and the second best score."""
    one = graph.constant(np.array(1.0, np.float32))
    if measure == "cosine":
        nothing = graph.constant(np.array(0.0, np.float32))
        return graph.op("Clip", [found[0], nothing, one])
    if measure == "probability":
        return graph.op("Div", [one, found[1]])
    best, total, second = found
    scale = graph.constant(np.array(logit_scale, np.float32))
    behind = graph.op("Exp", [graph.op("Mul", [graph.op("Sub", [second, best]), scale])])
    return graph.op("Div", [graph.op("Sub", [one, behind]), total])
