"""Activation checkpointing: an encoder's blocks are computed again in the backward pass.

Chen et al., Training Deep Nets with Sublinear Memory Cost, 2016. Of each block only its input is
kept, not what happens within it; a step costs another forward pass of the encoder, and gradients
are the same.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint


def recompute_blocks(encoder: nn.Module) -> int:
    """Let an encoder compute its repeated blocks again in the backward pass; returns their number.

    Names of parameters, results and random numbers stay what they were. 0: it has no blocks that
    repeat, and nothing was done.
    """
    blocks = list(_repeated(encoder))
    for block in blocks:
        block.forward = _Recomputed(block)
    return len(blocks)


def _repeated(module: nn.Module) -> Iterator[nn.Module]:
    """The outermost modules that stand in a list or sequence beside another of their class.

    Single layers are none: what they keep is their input anyway.
    """
    kinds = Counter(type(child) for child in module.children())
    listed = isinstance(module, (nn.Sequential, nn.ModuleList))
    for child in module.children():
        composed = any(True for _ in child.children())
        container = isinstance(child, (nn.Sequential, nn.ModuleList))
        if listed and composed and not container and kinds[type(child)] > 1:
            yield child
        else:
            yield from _repeated(child)


class _Recomputed:
    """A block's forward pass, of which its input is kept alone.

    Not a wrapping module: that would change the names of parameters.
    """

    def __init__(self, block: nn.Module) -> None:
        self.forward: Callable[..., Any] = block.forward
        self.norms = [part for part in block.modules() if isinstance(part, _BatchNorm)]

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if not torch.is_grad_enabled():
            return self.forward(*args, **kwargs)
        if torch.compiler.is_compiling():
            # A compiled backward pass repeats what it needs, and never a change of statistics.
            return checkpoint(self.forward, *args, use_reentrant=False, **kwargs)
        return checkpoint(
            self.forward, *args, use_reentrant=False, context_fn=self._contexts, **kwargs
        )

    def _contexts(self) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        """Around the first pass and around the second."""
        return nullcontext(), self._counted_once()

    @contextmanager
    def _counted_once(self) -> Iterator[None]:
        """Batch normalisations take their second look at a batch into copies of their statistics.

        Without any they would keep less for the backward pass than the first time, which torch
        takes for another computation.
        """
        training = [norm for norm in self.norms if norm.training and norm.track_running_stats]
        statistics = [
            (norm, name, buffer)
            for norm in training
            for name, buffer in norm.named_buffers(recurse=False)
        ]
        try:
            for norm, name, buffer in statistics:
                setattr(norm, name, buffer.clone())
            yield
        finally:
            for norm, name, buffer in statistics:
                setattr(norm, name, buffer)
