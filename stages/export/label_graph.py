"""From class scores on a grid to labels and confidence at full size, one class at a time.

A loop over the classes enlarges each one's scores and keeps the best, the second best and the sum
of exponentials so far: memory does not grow with the classes, and it is faster than to enlarge all
of them and look for the best.

Legend: N images, C classes, H W pixels, h w feature grid.
"""

import numpy as np
from onnx import TensorProto, helper

from zsseg.stages.evaluate.confidence_measure import Measure
from zsseg.stages.export.graph_builder import GraphBuilder, described

_FLOAT = TensorProto.FLOAT
_ENLARGED = {"mode": "linear", "coordinate_transformation_mode": "half_pixel"}
_LOWEST = -1e4
"""Below any cosine, and finite: differences of two of them are no NaN."""


def labels_and_confidence(
    graph: GraphBuilder, scores: str, image_shape: str, *, measure: Measure, logit_scale: float
) -> tuple[str, str]:
    """Labels (N, H, W) int32 and confidence (N, H, W) of `scores` (N, C, h, w).

    `image_shape`: (4,) of the image (N, H, W, 3). Enlarged bilinearly; of equal scores the lowest
    label. `margin` is 1 where there is one class only.
    """
    map_shape, count, size = (
        graph.op("Slice", [image_shape, graph.whole(first), graph.whole(end)])
        for first, end in ((0, 3), (0, 1), (1, 3))
    )
    one_class = graph.op("Concat", [count, graph.whole(1), size], {"axis": 0})
    classes = graph.op("Gather", [graph.op("Shape", [scores]), graph.constant(np.array(1))])
    first = helper.make_tensor("first", TensorProto.INT32, [1], [0])
    label = graph.op("ConstantOfShape", [map_shape], {"value": first})
    before = [label, _filled(graph, map_shape, _LOWEST)]
    if measure != "cosine":
        before.append(_filled(graph, map_shape, 0.0))
    if measure == "margin":
        before.append(_filled(graph, map_shape, _LOWEST))

    highest = ""
    if measure != "cosine":
        scores = graph.op("Mul", [scores, graph.constant(np.array(logit_scale, np.float32))])
        highest = _highest(graph, scores, one_class)
    inner = GraphBuilder(graph)
    number, going, labels, best = (inner.name(each) for each in ("class", "go", "label", "best"))
    place = inner.op("Unsqueeze", [number, inner.whole(0)])
    score = inner.op("Gather", [scores, place], {"axis": 1})
    score = inner.op("Resize", [score, "", "", one_class], _ENLARGED)
    score = inner.op("Squeeze", [score, inner.whole(1)])
    better = inner.op("Greater", [score, best])
    here = inner.op("Cast", [number], {"to": TensorProto.INT32})
    values = [
        (labels, inner.op("Where", [better, here, labels]), TensorProto.INT32),
        (best, inner.op("Max", [score, best]), _FLOAT),
    ]
    if measure != "cosine":
        # exp(score - highest) is at most 1, and needs no other sum for a new best class.
        total = inner.name("total")
        share = inner.op("Exp", [inner.op("Sub", [score, highest])])
        values.append((total, inner.op("Add", [total, share]), _FLOAT))
    if measure == "margin":
        second = inner.name("second")
        lower = inner.op("Min", [score, best])
        values.append((second, inner.op("Max", [second, lower]), _FLOAT))
    sides = ["N", "H", "W"]
    kinds = [(number, TensorProto.INT64), (going, TensorProto.BOOL)]
    given = [described(name, kind, []) for name, kind in kinds]
    body = inner.graph(
        "class",
        [*given, *(described(name, kind, sides) for name, _, kind in values)],
        [
            (going, described(inner.name("go"), TensorProto.BOOL, [])),
            *((value, described(inner.name("after"), kind, sides)) for _, value, kind in values),
        ],
    )
    labels, *found = graph.loop(classes, before, body)
    return labels, _confidence(graph, found, highest, measure)


def _filled(graph: GraphBuilder, shape: str, value: float) -> str:
    fill = helper.make_tensor("value", _FLOAT, [1], [value])
    return graph.op("ConstantOfShape", [shape], {"value": fill})


def _highest(graph: GraphBuilder, scores: str, one_class: str) -> str:
    """(N, H, W) no score is above it: the enlarged map of the best scores on the grid."""
    best = graph.op("ReduceMax", [scores, graph.whole(1)], {"keepdims": 1})
    return graph.op(
        "Squeeze", [graph.op("Resize", [best, "", "", one_class], _ENLARGED), graph.whole(1)]
    )


def _confidence(graph: GraphBuilder, found: list[str], highest: str, measure: Measure) -> str:
    """(N, H, W) of the best score, the sum of exponentials and the second best score."""
    if measure == "cosine":
        ends = [graph.constant(np.array(value, np.float32)) for value in (0.0, 1.0)]
        return graph.op("Clip", [found[0], *ends])
    shares = [
        graph.op("Exp", [graph.op("Sub", [score, highest])]) for score in (found[0], *found[2:])
    ]
    lead = graph.op("Sub", shares) if measure == "margin" else shares[0]
    return graph.op("Div", [lead, found[1]])
