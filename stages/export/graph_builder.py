"""Builds an ONNX graph node by node, as expressions of names of values."""

from collections.abc import Mapping, Sequence
from itertools import count
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import compose, helper, numpy_helper


class GraphBuilder:
    """Nodes and constants of one graph. A graph inside it (a loop's) sees its values by name."""

    def __init__(self, outer: "GraphBuilder | None" = None) -> None:
        self._numbers: count[int] = count() if outer is None else outer._numbers
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []

    def op(
        self, kind: str, inputs: Sequence[str], attributes: Mapping[str, Any] | None = None
    ) -> str:
        """The output of a new node of one output; an empty name leaves an input out."""
        return self.ops(kind, inputs, attributes, outputs=1)[0]

    def ops(
        self,
        kind: str,
        inputs: Sequence[str],
        attributes: Mapping[str, Any] | None = None,
        *,
        outputs: int,
    ) -> list[str]:
        """The outputs of a new node."""
        names = [self.name(kind.lower()) for _ in range(outputs)]
        self.nodes.append(helper.make_node(kind, list(inputs), names, **(attributes or {})))
        return names

    def constant(self, value: NDArray[Any]) -> str:
        """A constant of the type of the array."""
        name = self.name("constant")
        self.constants.append(numpy_helper.from_array(np.asarray(value, order="C"), name))
        return name

    def whole(self, *values: int) -> str:
        """A constant row of int64."""
        return self.constant(np.array(values, dtype=np.int64))

    def network(self, model: onnx.ModelProto, image: str) -> str:
        """The output of a model of one input and one output, put in here with its weights."""
        prefix = self.name("network")
        inner = compose.add_prefix_graph(model.graph, f"{prefix}.", rename_nodes=True)
        self.nodes.append(helper.make_node("Identity", [image], [inner.input[0].name]))
        self.nodes.extend(inner.node)
        self.constants.extend(inner.initializer)
        return str(inner.output[0].name)

    def name(self, stem: str) -> str:
        """A name that nothing has yet, in this graph or around it."""
        return f"{stem}_{next(self._numbers)}"

    def graph(
        self,
        name: str,
        inputs: Sequence[onnx.ValueInfoProto],
        outputs: Sequence[tuple[str, onnx.ValueInfoProto]],
    ) -> onnx.GraphProto:
        """All of it; each output is a value under the name of its description."""
        for value, info in outputs:
            self.nodes.append(helper.make_node("Identity", [value], [info.name]))
        infos = [info for _, info in outputs]
        return helper.make_graph(self.nodes, name, list(inputs), infos, self.constants)

    def loop(self, rounds: str, before: Sequence[str], body: onnx.GraphProto) -> list[str]:
        """The values after `rounds` (int64) rounds of a body: (round, go on, values) to the last
        two."""
        return self.ops("Loop", [rounds, "", *before], {"body": body}, outputs=len(before))


def described(name: str, kind: int, shape: Sequence[int | str]) -> onnx.ValueInfoProto:
    """The type and the shape of a value; sides that are only known later have names."""
    return helper.make_tensor_value_info(name, kind, list(shape))
