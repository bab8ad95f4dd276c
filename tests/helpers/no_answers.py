"""A guard against what makes a GPU's host wait."""

from collections.abc import Set
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

_ANSWERS = {
    "_local_scalar_dense",  # item, bool, float, int, tolist
    "nonzero",
    "masked_select",
    "equal",
    "is_nonzero",
    "unique_dim",
    "_unique2",
    "unique_consecutive",
    "bincount",
    "repeat_interleave.Tensor",
}
"""Operations whose result, or its shape, has to be known on the host."""


class NoAnswers(TorchDispatchMode):
    """Fails where the host would wait for the device, as an index by a mask does too."""

    def __init__(self, *, also: Set[str] = frozenset()) -> None:
        """`also`: other operations that must not be used."""
        super().__init__()  # type: ignore[no-untyped-call]
        self._refused = _ANSWERS | also

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = str(func).removeprefix("aten.")
        assert name not in self._refused, name
        assert name.split(".")[0] not in self._refused, name
        if name.startswith(("index.", "index_put")):
            assert not any(
                index is not None and index.dtype in (torch.bool, torch.uint8) for index in args[1]
            ), f"{name} by a mask"
        return func(*args, **(kwargs or {}))
