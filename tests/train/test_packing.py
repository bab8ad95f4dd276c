"""A batch in one block of memory: nothing is lost, mixed or copied once more."""

from dataclasses import fields
from typing import Any

import pytest
import torch
from torch import Tensor

from zsseg.stages.train.batches import packing
from zsseg.stages.train.batches.batch import Batch
from zsseg.stages.train.batches.packing import packed, unpacked


def some(images: int, seed: int) -> Batch:
    """A batch of odd sizes, with some of what a batch may have."""
    rng = torch.Generator().manual_seed(seed)
    return Batch(
        row_B=torch.randint(0, 2**40, (images,), generator=rng),
        image_B3HW=torch.randn(images, 3, 5, 7, generator=rng),
        label_BHW=torch.randint(0, 256, (images, 5, 7), generator=rng, dtype=torch.uint8),
        inside_BHW=torch.rand(images, 5, 7, generator=rng) < 0.5,
        region_BHW=None,
        token_BD=torch.randn(images, 3, generator=rng),
        image_dense_BDhw=torch.randn(images, 3, 1, 3, generator=rng).half(),
    )


def test_it_is_the_batches_side_by_side() -> None:
    parts = [some(1, 0), some(2, 1), some(1, 2)]
    whole = unpacked(packed(parts))
    for name in (field.name for field in fields(Batch)):
        columns: list[Any] = [getattr(part, name) for part in parts]
        found = getattr(whole, name)
        if columns[0] is None:
            assert found is None
        else:
            expected = torch.cat(columns)
            assert found.dtype == expected.dtype
            assert torch.equal(found, expected)


def test_all_tensors_lie_in_one_block_that_is_pinned_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pinned: list[Tensor] = []

    def pin(self: Tensor) -> Tensor:
        pinned.append(self)
        return self.clone()

    monkeypatch.setattr(Tensor, "pin_memory", pin)
    whole = packed([some(2, 0)])
    again = whole.pin_memory()
    assert [each.data_ptr() for each in pinned] == [whole.block.data_ptr()]
    start = again.block.data_ptr()
    for value in vars(unpacked(again)).values():
        if value is not None:
            assert start <= value.data_ptr() < start + again.block.numel()
            assert value.data_ptr() % value.element_size() == 0


@pytest.mark.parametrize("in_worker", [True, False])
def test_only_a_loader_process_writes_into_shared_memory(
    monkeypatch: pytest.MonkeyPatch, in_worker: bool
) -> None:
    monkeypatch.setattr(packing, "get_worker_info", lambda: object() if in_worker else None)
    assert packed([some(2, 0)]).block.is_shared() == in_worker
