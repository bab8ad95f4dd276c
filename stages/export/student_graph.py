"""The whole graph of an exported student: from pixels and text embeddings to labels.

It does what an evaluation of the run does, with the same settings (`inference.py` and `scorer.py`
of `evaluate/`): the image is resized as Pillow does it and normalised, the network
sees it whole or through windows whose scores are averaged, and scores are cosines. A row of the
text that is a seen class of the run loses gamma, where the run's evaluation has one.

Legend: N images, C classes, S names of a class, D CLIP width, M channels of the decoded map, H W
pixels, h w feature grid, G seen classes, L positions, R rows of the triangular factor.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

from zsseg.stages.data.spec import VOID
from zsseg.stages.errors import UserError
from zsseg.stages.evaluate.confidence_measure import Measure
from zsseg.stages.evaluate.trained_run import TrainedRun
from zsseg.stages.export.graph_builder import GraphBuilder, described
from zsseg.stages.export.label_graph import labels_and_confidence
from zsseg.stages.export.network_graph import OPSET
from zsseg.stages.export.resize_graph import resized
from zsseg.stages.train.batches.imagenet import MEAN, STD
from zsseg.stages.train.run_config import EvaluateConfig
from zsseg.stages.train.students.similarity import SHORTEST

_IR_VERSION = 10
"""Of the file: onnxruntime 1.18 and newer read it."""
_LARGEST = 2**31 - 1
_SAME_ROW = 0.99999
"""Cosine from which a row of text is one of the run's seen classes."""
_FLOAT, _DOUBLE, _INT64 = TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.INT64


@dataclass(frozen=True)
class GraphForm:
    """What an exported graph is asked to do."""

    measure: Measure
    """Of the confidence."""
    scores: bool = False
    """Is there an output `scores` (N, C, h, w)?"""
    text: NDArray[np.float32] | None = None
    """Embeddings of fixed classes, background names behind them; None: `text` is an input."""
    background: int = 0
    """How many of the fixed names are background: their pixels become VOID."""


def student_graph(run: TrainedRun, network: onnx.ModelProto, form: GraphForm) -> onnx.ModelProto:
    """The model around a `network_graph`.

    Inputs: `image` (N, H, W, 3) uint8 and, where names are not fixed, `text` (C, D), or (C, S, D)
    of a run that keeps several names of a class. Outputs: `labels` (N, H, W) int32, `confidence`
    (N, H, W) and, if asked for, `scores` (N, C, h, w): cosines less gamma.
    """
    graph = GraphBuilder()
    several = (run.text_CD if form.text is None else form.text).ndim == 3
    inputs = [described("image", TensorProto.UINT8, ["N", "H", "W", 3])]
    if form.text is None:
        width = run.text_CD.shape[-1]
        shape: list[int | str] = ["C", "S", width] if several else ["C", width]
        inputs.append(described("text", _FLOAT, shape))
        text = "text"
    else:
        text = graph.constant(form.text)
    pixels = _Pixels(graph, run)
    head = _Head(graph, run, text, several=several)
    if run.evaluate.mode == "whole":
        scores = head.scores(graph, network, pixels.normal, pixels.size, pixels.grid)
    else:
        scores = _through_windows(graph, run.evaluate, network, pixels, head)
    scores = head.less_gamma(scores)
    labels, confidence = labels_and_confidence(
        graph,
        scores,
        pixels.shape,
        measure=form.measure,
        logit_scale=run.record.config.student.logit_scale,
    )
    if form.text is not None and form.background:
        void = graph.constant(np.array(VOID, np.int32))
        classes = graph.constant(np.array(len(form.text) - form.background, np.int32))
        labels = graph.op("Where", [graph.op("Less", [labels, classes]), labels, void])
    outputs = [
        (labels, described("labels", TensorProto.INT32, ["N", "H", "W"])),
        (confidence, described("confidence", _FLOAT, ["N", "H", "W"])),
    ]
    if form.scores:
        outputs.append((scores, described("scores", _FLOAT, ["N", "C", "h", "w"])))
    return helper.make_model(
        graph.graph("zsseg", inputs, outputs),
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=_IR_VERSION,
        producer_name="zsseg",
    )


class _Pixels:
    """The image as the student sees it (`inference.prepared`), and its sizes."""

    def __init__(self, graph: GraphBuilder, run: TrainedRun) -> None:
        config, stride = run.evaluate, run.stride
        self.stride = stride
        self.shape = graph.op("Shape", ["image"])
        self.count = graph.op("Slice", [self.shape, graph.whole(0), graph.whole(1)])
        own = graph.op("Slice", [self.shape, graph.whole(1), graph.whole(3)])
        side = graph.op("Cast", [own], {"to": _DOUBLE})
        if config.short_side is not None:
            # As in mmsegmentation's test scale: `inference.working_size`.
            short, four = (
                graph.constant(np.array([v], np.float64))
                for v in (config.short_side, 4 * config.short_side)
            )
            shortest = graph.op("ReduceMin", [side], {"keepdims": 1})
            longest = graph.op("ReduceMax", [side], {"keepdims": 1})
            factors = [graph.op("Div", [short, shortest]), graph.op("Div", [four, longest])]
            side = graph.op("Mul", [side, graph.op("Min", factors)])
        cells = graph.op("Div", [side, graph.constant(np.array([stride], np.float64))])
        least = graph.constant(np.array([1.0], np.float64))
        cells = graph.op("Max", [graph.op("Round", [cells]), least])
        self.grid = graph.op("Cast", [cells], {"to": _INT64})
        """(2,) h and w."""
        self.size = graph.op("Mul", [self.grid, graph.whole(stride)])
        """(2,) H and W that the student sees."""
        seen = graph.op("Cast", ["image"], {"to": TensorProto.INT32})
        seen = resized(graph, seen, self.size)
        seen = graph.op("Transpose", [seen], {"perm": [0, 3, 1, 2]})
        seen = graph.op("Cast", [seen], {"to": _FLOAT})
        spread = graph.constant((1 / (255 * STD)).astype(np.float32)[:, None, None])
        shift = graph.constant((MEAN / STD).astype(np.float32)[:, None, None])
        self.normal = graph.op("Sub", [graph.op("Mul", [seen, spread]), shift])
        """(N, 3, H, W) as `imagenet.normalise`."""


class _Head:
    """Cosines of the student's feature to the text; as `class_scorer` folds one into the other."""

    def __init__(self, graph: GraphBuilder, run: TrainedRun, text: str, *, several: bool) -> None:
        self._graph, self._run, self._several = graph, run, several
        length = graph.op("ReduceL2", [text, graph.whole(-1)], {"keepdims": 1})
        tiny = graph.constant(np.array([1e-12], np.float32))
        self._unit = graph.op("Div", [text, graph.op("Max", [length, tiny])])
        shape = graph.op("Shape", [self._unit])
        self.classes = graph.op("Slice", [shape, graph.whole(0), graph.whole(1)])
        self.names = graph.op("Slice", [shape, graph.whole(0), graph.whole(-1)])
        """(1,) C, or (2,) C and S."""
        width = run.text_CD.shape[-1]
        rows = graph.op("Reshape", [self._unit, graph.whole(-1, width)])
        projection = run.student.projection
        assert projection.bias is not None
        weight_DM = projection.weight[:, :, 0, 0].detach().cpu().double().numpy()
        bias_D1 = projection.bias.detach().cpu().double().numpy()[:, None]
        self._text_weight, self._text_bias = rows, ""
        if weight_DM.shape[1] < weight_DM.shape[0]:  # fewer channels than D
            weight, bias = (graph.constant(v.astype(np.float32)) for v in (weight_DM, bias_D1))
            self._text_weight = graph.op("MatMul", [rows, weight])
            self._text_bias = graph.op("MatMul", [rows, bias])
            both_RM = np.linalg.qr(np.concatenate([weight_DM, bias_D1], axis=1)).R
            weight_DM, bias_D1 = both_RM[:, :-1], both_RM[:, -1:]
        self._weight = graph.constant(weight_DM.astype(np.float32))
        self._bias = graph.constant(bias_D1.astype(np.float32))

    def scores(
        self, graph: GraphBuilder, network: onnx.ModelProto, image: str, size: str, grid: str
    ) -> str:
        """(N, C, h, w) cosines of an image or window of `size` pixels with `grid` positions."""
        multiple = graph.whole(self._run.student.multiple)
        missing = graph.op("Mod", [graph.op("Neg", [size]), multiple])
        pads = graph.op("Concat", [graph.whole(*[0] * 6), missing], {"axis": 0})
        padded = graph.op("Pad", [image, pads])
        decoded = graph.network(network, padded)
        cut = [decoded, graph.whole(0, 0), grid, graph.whole(2, 3)]
        decoded = graph.op("Slice", cut)
        flat = graph.op("Reshape", [decoded, graph.whole(0, 0, -1)])
        feature = graph.op("Add", [graph.op("MatMul", [self._weight, flat]), self._bias])
        length = graph.op("ReduceL2", [feature, graph.whole(1)], {"keepdims": 1})
        least = graph.constant(np.array([SHORTEST], np.float32))
        length = graph.op("Max", [length, least])
        if self._text_bias:
            product = graph.op("MatMul", [self._text_weight, flat])
            product = graph.op("Add", [product, self._text_bias])
        else:
            product = graph.op("MatMul", [self._text_weight, feature])
        cosine = graph.op("Div", [product, length])
        count = graph.op("Slice", [graph.op("Shape", [image]), graph.whole(0), graph.whole(1)])
        shape = graph.op("Concat", [count, self.names, grid], {"axis": 0})
        scores = graph.op("Reshape", [cosine, shape])
        if self._several:
            scores = graph.op("ReduceMax", [scores, graph.whole(2)], {"keepdims": 0})
        return scores

    def less_gamma(self, scores: str) -> str:
        """The scores less gamma for rows that are seen classes of the run."""
        gamma, graph, run = self._run.evaluate.calibration, self._graph, self._run
        if not gamma:
            return scores
        seen_GD = run.text_CD[list(run.spec.seen_ids)]
        if seen_GD.ndim == 3:  # a class is known by its first name
            seen_GD = seen_GD[:, 0]
        first = self._unit
        if self._several:
            first = graph.op("Gather", [first, graph.constant(np.array(0))], {"axis": 1})
        seen = graph.constant(seen_GD.cpu().numpy().T.astype(np.float32))
        nearest = graph.op(
            "ReduceMax", [graph.op("MatMul", [first, seen]), graph.whole(1)], {"keepdims": 1}
        )
        same = graph.op(
            "GreaterOrEqual", [nearest, graph.constant(np.array(_SAME_ROW, np.float32))]
        )
        taken = graph.op(
            "Mul",
            [graph.op("Cast", [same], {"to": _FLOAT}), graph.constant(np.array(gamma, np.float32))],
        )
        return graph.op("Sub", [scores, graph.op("Unsqueeze", [taken, graph.whole(2)])])


def _through_windows(
    graph: GraphBuilder,
    config: EvaluateConfig,
    network: onnx.ModelProto,
    pixels: _Pixels,
    head: _Head,
) -> str:
    """(N, C, h, w) the mean of the scores of overlapping windows (`inference._slide`), in a loop
    that has one of them in memory at a time."""
    stride = pixels.stride
    cells, step = (max(1, side // stride) for side in (config.window, config.stride))
    window = graph.op("Min", [graph.whole(cells), pixels.grid])
    last = graph.op("Sub", [pixels.grid, window])
    steps = graph.op("Div", [graph.op("Add", [last, graph.whole(step - 1)]), graph.whole(step)])
    counts = graph.op("Add", [steps, graph.whole(1)])
    rounds = graph.op("ReduceProd", [counts], {"keepdims": 0})
    across = graph.op("Slice", [counts, graph.whole(1), graph.whole(2)])
    window_size = graph.op("Mul", [window, graph.whole(stride)])
    shape = graph.op("Concat", [pixels.count, head.classes, pixels.grid], {"axis": 0})
    nothing = {"value": helper.make_tensor("zero", _FLOAT, [1], [0.0])}
    sum_before = graph.op("ConstantOfShape", [shape], nothing)
    times_before = graph.op("ConstantOfShape", [pixels.grid], nothing)
    ones = graph.op(
        "ConstantOfShape", [window], {"value": helper.make_tensor("one", _FLOAT, [1], [1.0])}
    )

    inner = GraphBuilder(graph)
    number, going, sums, times = (inner.name(each) for each in ("window", "go", "sum", "times"))
    place = inner.op("Unsqueeze", [number, inner.whole(0)])
    row, column = inner.op("Div", [place, across]), inner.op("Mod", [place, across])
    corner = inner.op("Concat", [row, column], {"axis": 0})
    corner = inner.op("Min", [inner.op("Mul", [corner, inner.whole(step)]), last])
    first = inner.op("Mul", [corner, inner.whole(stride)])
    end = inner.op("Add", [first, window_size])
    view = inner.op("Slice", [pixels.normal, first, end, inner.whole(2, 3)])
    score = head.scores(inner, network, view, window_size, window)
    after = inner.op("Sub", [last, corner])
    pads = inner.op("Concat", [inner.whole(0, 0), corner, inner.whole(0, 0), after], {"axis": 0})
    around = inner.op("Concat", [corner, after], {"axis": 0})
    body = inner.graph(
        "window",
        [
            described(number, _INT64, []),
            described(going, TensorProto.BOOL, []),
            described(sums, _FLOAT, ["N", "C", "h", "w"]),
            described(times, _FLOAT, ["h", "w"]),
        ],
        [
            (going, described(inner.name("go"), TensorProto.BOOL, [])),
            (
                inner.op("Add", [sums, inner.op("Pad", [score, pads])]),
                described(inner.name("sum"), _FLOAT, ["N", "C", "h", "w"]),
            ),
            (
                inner.op("Add", [times, inner.op("Pad", [ones, around])]),
                described(inner.name("times"), _FLOAT, ["h", "w"]),
            ),
        ],
    )
    return graph.op("Div", graph.loop(rounds, [sum_before, times_before], body))


def save_model(model: onnx.ModelProto, path: Path) -> None:
    """Write a model. Raises UserError where it is too large for one file, OSError for the disk."""
    if model.ByteSize() > _LARGEST:
        raise UserError("the file would have more than 2 GB, which ONNX does not allow. Use --fp16")
    onnx.checker.check_model(model)
    path.write_bytes(model.SerializeToString())
