"""A run without its memory and its work: tensors that know their shape and device, and no numbers.

Torch calls them fake tensors. A step done with them makes the tensors of a real one, in the same
order and sizes, in a second or two and a few megabytes; random numbers, weights and the GPU are not
touched. Source: `torch._subclasses.FakeTensorMode`, which torch.compile traces with.
"""

import copy
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import chain
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeCopyMode, FakeTensorMode
from torch.overrides import TorchFunctionMode

from zsseg.stages.train.run_config import RunConfig
from zsseg.stages.train.state import State, new_state

_Value = TypeVar("_Value")
_META = torch.device("meta")
_MAKERS = (torch.empty, torch.zeros, torch.ones, torch.full, torch.rand, torch.randn)


class _Weightless(TorchFunctionMode):
    """Within, new tensors have no memory: filling a large student takes 10 s of processor time.

    But for `torch.linspace` and the like, whose numbers some networks read while they are built.
    """

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func in _MAKERS:
            kwargs = {**kwargs, "device": _META}
            kwargs.pop("generator", None)
        return func(*args, **kwargs)


class Shadow:
    """Makes the state of a run, and other things, of fake tensors; steps are done `within` it."""

    def __init__(self) -> None:
        self._fake = FakeTensorMode()

    @contextmanager
    def within(self) -> Iterator[None]:
        """Here operations on fake tensors can be done; the state of random numbers is kept."""
        # It would print what no user can use, of an operation that it does not know.
        torchs = logging.getLogger("torch._subclasses.fake_tensor")
        disabled, torchs.disabled = torchs.disabled, True
        try:
            with torch.random.fork_rng(), self._fake:
                yield
        finally:
            torchs.disabled = disabled

    def state(
        self, config: RunConfig, *, width: int, device: torch.device, precision: torch.dtype
    ) -> State:
        """The state of a run before its first step, on the device, in one part, not compiled.

        Raises UserError as `new_state` does.
        """
        plain = config.train.model_copy(update={"compile": False})
        with torch.random.fork_rng(), _Weightless():
            made = new_state(
                config.model_copy(update={"train": plain}),
                width=width,
                device=_META,
                precision=precision,
                weights=False,
            )
        networks = [each for each in (made.student, made.decoder, made.average) if each is not None]
        tensors = chain.from_iterable((*each.parameters(), *each.buffers()) for each in networks)
        with self._fake:
            known: dict[int, Any] = {id(each): _empty(each, device) for each in tensors}
            for each in (made.bank.token_MD, made.bank.row_M):
                known[id(each)] = _empty(each, device)
        off = torch.amp.GradScaler(device.type, enabled=False)
        return replace(copy.deepcopy(made, known), device=device, scaler=off, parts=1)

    def of(self, value: _Value) -> _Value:
        """The value with fake tensors instead of its own."""
        with FakeCopyMode(self._fake):
            return copy.deepcopy(value)

    def repeated(self, tensor: Tensor, count: int) -> Tensor:
        """A fake tensor of `count` times the first row of a tensor."""
        with self._fake:
            shape = (count, *tensor.shape[1:])
            return torch.empty(shape, dtype=tensor.dtype, device=tensor.device)


def _empty(tensor: Tensor, device: torch.device) -> Tensor:
    return torch.empty_strided(
        tensor.size(),
        tensor.stride(),
        dtype=tensor.dtype,
        device=device,
        requires_grad=tensor.requires_grad,
    )
