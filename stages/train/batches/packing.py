"""Packs a batch into one block of memory, as loader processes send it.

Between two processes each tensor costs a file descriptor and a mapping, and a batch has up to
fourteen. Into page-locked memory a block is one copy too.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, Self

import torch
from torch import Tensor
from torch.utils.data import get_worker_info

from zsseg.stages.train.batches.batch import Batch

_ALIGNMENT = 64
"""Bytes that the start of a tensor in the block is a multiple of, as in torch's own memory."""


@dataclass(frozen=True)
class _Span:
    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]
    start: int
    """Bytes from the start of the block."""
    stop: int


@dataclass(frozen=True)
class Packed:
    """The tensors of a batch, one after the other, and where each begins and ends."""

    block: Tensor
    """uint8."""
    spans: tuple[_Span, ...]

    def pin_memory(self) -> Self:
        """The same in page-locked memory; torch's loader asks for it by this name."""
        return type(self)(self.block.pin_memory(), self.spans)

    def tensor(self, span: _Span) -> Tensor:
        """A tensor of the batch, in the block's memory."""
        return self.block[span.start : span.stop].view(span.dtype).view(span.shape)


def packed(batches: Sequence[Batch]) -> Packed:
    """Batches joined into one; in memory that processes share, where a loader process asks."""
    columns: dict[str, list[Tensor]] = {
        field.name: [getattr(batch, field.name) for batch in batches]
        for field in fields(Batch)
        if getattr(batches[0], field.name) is not None
    }
    spans, start = [], 0
    for name, column in columns.items():
        shape = (sum(len(each) for each in column), *column[0].shape[1:])
        stop = start + torch.Size(shape).numel() * column[0].element_size()
        spans.append(_Span(name, column[0].dtype, shape, start, stop))
        start = -(-stop // _ALIGNMENT) * _ALIGNMENT
    whole = Packed(_block(start), tuple(spans))
    for span in spans:
        torch.cat(columns[span.name], out=whole.tensor(span))
    return whole


def _block(size: int) -> Tensor:
    if get_worker_info() is None:
        return torch.empty(size, dtype=torch.uint8)
    # As torch's own collation takes it; `share_memory_` would copy what is not there yet.
    return torch.empty(0, dtype=torch.uint8).set_(torch.UntypedStorage._new_shared(size))


def unpacked(whole: Packed) -> Batch:
    """The batch; its tensors lie in the block."""
    tensors: dict[str, Any] = dict.fromkeys(field.name for field in fields(Batch))
    return Batch(**tensors | {span.name: whole.tensor(span) for span in whole.spans})
