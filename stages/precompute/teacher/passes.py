"""One batch through the teacher: to the device, in its precision and within its memory, and back.

On a GPU images are copied from pinned memory and tokens to it, so that neither copy blocks the
host; only reading the result waits. Several threads may have a batch in flight: the second is ready
on the device when the first is done.
Legend: n images, H W pixels.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from zsseg.stages.errors import ResourceError
from zsseg.stages.precompute.precompute_config import Precision
from zsseg.stages.precompute.teacher.teacher_precision import AUTOCAST

Forward = Callable[[Tensor], Tensor]
"""Tokens (n, ...) of images (n, H, W, 3) in uint8 on the device."""

logger = logging.getLogger(__name__)


@dataclass
class Passes:
    """The forward passes of one teacher, and what they have learnt of the device."""

    device: torch.device
    precision: Precision
    largest: dict[tuple[int, int], int] = field(default_factory=dict)
    """By height and width of images: how many fit into one pass, where memory was short."""
    repeated: int = 0
    """Images computed again in fp32, for NaN or infinity in the lower precision."""

    def ready(self, image_nHW3: NDArray[np.uint8]) -> Tensor:
        """Images in memory that the device can read; best called before the device is free."""
        ready_nHW3 = torch.from_numpy(image_nHW3)
        return ready_nHW3.pin_memory() if self.device.type == "cuda" else ready_nHW3

    def run(self, forward: Forward, image_nHW3: Tensor) -> NDArray[np.float32]:
        """The tokens of a batch of `ready` images.

        Images whose tokens are not finite in a lower precision are computed again in fp32, without
        the others, so the result for an image does not depend on its batch. Raises
        ResourceError when not even one image fits into the device's memory.
        """
        token = self._run(forward, image_nHW3, self.precision)
        if self.precision == "fp32":
            return token
        bad = np.flatnonzero(~np.isfinite(token.reshape(len(token), -1)).all(1))
        if len(bad):
            self.repeated += len(bad)
            logger.warning(
                "%d of %d images have NaN or infinity in %s and are computed again in fp32 "
                "(%d so far)",
                len(bad),
                len(token),
                self.precision,
                self.repeated,
            )
            token[bad] = self._run(forward, image_nHW3[torch.from_numpy(bad)], "fp32")
        return token

    def _run(
        self, forward: Forward, image_nHW3: Tensor, precision: Precision
    ) -> NDArray[np.float32]:
        tokens: list[Tensor] = []
        size, first = (image_nHW3.shape[1], image_nHW3.shape[2]), 0
        while first < len(image_nHW3):
            few_nHW3 = image_nHW3[first : first + self.largest.get(size, len(image_nHW3))]
            fits = True
            try:
                tokens.append(self._pass(forward, few_nHW3, precision))
                first += len(few_nHW3)
            except torch.OutOfMemoryError as error:
                self.largest[size], fits = _fewer(len(few_nHW3), size, error), False
            if not fits:  # not in the handler, where the error still holds the memory
                torch.cuda.empty_cache()
        if self.device.type == "cuda":
            arrived = torch.cuda.Event()
            arrived.record()
            arrived.synchronize()
        token: NDArray[np.float32] = torch.cat(tokens).numpy()
        return token

    def _pass(self, forward: Forward, image_nHW3: Tensor, precision: Precision) -> Tensor:
        """Tokens in the host's memory; from a GPU they are still being copied."""
        kind, lower = AUTOCAST[precision], precision != "fp32"
        with torch.inference_mode(), torch.autocast(self.device.type, kind, enabled=lower):
            token = forward(image_nHW3.to(self.device, non_blocking=True))
            return token.float().to("cpu", non_blocking=True)  # into pinned memory


def _fewer(images: int, size: tuple[int, int], error: torch.OutOfMemoryError) -> int:
    """Half as many images. Raises ResourceError where that is none."""
    height, width = size
    if images == 1:
        raise ResourceError(
            f"not even one image of {height} x {width} pixels fits into the GPU's memory: {error}. "
            "Close other programs that use it, set a smaller dense.size, or use device=cpu"
        ) from error
    logger.warning(
        "the GPU's memory is too small for %d images of %d x %d pixels: %d at a time from here on",
        images,
        height,
        width,
        images // 2,
    )
    return images // 2
