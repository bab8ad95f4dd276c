"""A student's network as an ONNX graph, by torch's exporter.

Legend: N images, M channels of the decoded map, H W pixels, h w feature grid.
"""

from copy import deepcopy

import onnx
import torch
from torch import Tensor, nn

from zsseg.stages.errors import UserError
from zsseg.stages.export.fixed_padding import fix_paddings
from zsseg.stages.export.quiet_exporter import quiet_exporter
from zsseg.stages.train.students.student import Student

OPSET = 20
"""Of ONNX: onnxruntime 1.17 and newer read it."""

_EXAMPLE = (2, 2, 3)
"""Images, and rows and columns of the example in units of `Student.multiple`: none is 1, which the
exporter would take for fixed."""


class _Decoded(nn.Module):
    def __init__(self, student: Student) -> None:
        super().__init__()
        self.student = student

    def forward(self, image: Tensor) -> Tensor:
        return self.student.decoded(image)


def network_graph(student: Student) -> onnx.ModelProto:
    """`Student.decoded`: input `image` (N, 3, H, W) float32, ImageNet-normalised, output `decoded`
    (N, M, h, w); H and W in multiples of `student.multiple`, any of them.

    Raises UserError for a network that the exporter does not take at any size.
    """
    student = deepcopy(student).cpu().eval()
    fix_paddings(student)
    module = _Decoded(student)
    count, rows, columns = _EXAMPLE
    multiple = student.multiple
    example = torch.zeros(count, 3, rows * multiple, columns * multiple)
    sides = {
        0: torch.export.Dim("images", min=1),
        2: multiple * torch.export.Dim("rows", min=1),
        3: multiple * torch.export.Dim("columns", min=1),
    }
    try:
        with quiet_exporter():
            program = torch.onnx.export(
                module,
                (example,),
                input_names=["image"],
                output_names=["decoded"],
                dynamo=True,
                dynamic_shapes={"image": sides},
                opset_version=OPSET,
                verbose=False,
            )
    except Exception as error:  # of the exporter, of any of its passes
        raise UserError(
            "torch's exporter does not take this student's network for images of any size "
            f"({_last_line(error)}). Export one of another architecture or encoder"
        ) from error
    assert program is not None
    model = program.model_proto
    fixed = [dim.dim_value for dim in model.graph.input[0].type.tensor_type.shape.dim]
    if fixed[0] or fixed[2] or fixed[3]:
        raise UserError(
            f"torch's exporter fixes the size of this student's images to {fixed}: a layer of it "
            "computes with sizes as numbers. Export one of another architecture or encoder"
        )
    return model


def _last_line(error: Exception) -> str:
    """What the exporter was caused to fail by; its own text is a page of advice."""
    cause: BaseException = error
    while cause.__cause__ is not None:
        cause = cause.__cause__
    lines = str(cause).strip().splitlines() or [type(cause).__name__]
    return lines[0][:200].rstrip(".")
