"""Counts the memory of the tensors that are made while something runs, on any device."""

import weakref
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class Allocations(TorchDispatchMode):
    """Within, every new tensor's memory is noted when it is made and when it is freed.

    It sees what operations return, the backward pass included, and not what one takes and frees
    within itself. Results are not changed.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._living: dict[int, int] = {}
        """Address of a storage -> its number."""
        self._events: list[tuple[int, int]] = []
        """Number of a storage and its bytes, negative where it is freed."""
        self._number = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        for each in tree_leaves(out):
            if isinstance(each, Tensor):
                self._note(each.untyped_storage())
        return out

    def peak(self, *, without: Iterable[Tensor] = ()) -> int:
        """The most bytes at any time, not counting these tensors, which are still there."""
        left_out = {self._living.get(each.untyped_storage()._cdata) for each in without}
        now = most = 0
        for number, size in self._events:
            if number not in left_out:
                now += size
                most = max(most, now)
        return most

    def _note(self, storage: torch.UntypedStorage) -> None:
        address, size = storage._cdata, storage.nbytes()
        if address in self._living:
            return
        self._number += 1
        self._living[address] = self._number
        self._events.append((self._number, size))
        weakref.finalize(storage, self._freed, address, self._number, size)

    def _freed(self, address: int, number: int, size: int) -> None:
        self._living.pop(address, None)
        self._events.append((number, -size))
