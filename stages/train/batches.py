"""Batches of stage two: images and visible labels with what the store knows about them.

Image, label, region map and tokens all go through the one view that was drawn for a position.

Legend: B batch, H W pixels of the crop, h w token grid of the image, y x token grid of the crop, K
masks that the store keeps per image, D CLIP width.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset, get_worker_info

from stages.cache.codec import DENSE
from stages.cache.reader import Store
from stages.data.geometry import View, crop_image, crop_map, inside, pool_tokens, token_weights
from stages.data.images import read_image
from stages.data.spec import VOID, DatasetSpec
from stages.data.visible import read_visible_label
from stages.errors import DatasetError
from stages.train.config import RunConfig
from stages.train.imagenet import normalise
from stages.train.photometric import Jitter
from stages.train.store_fit import stored_samples
from stages.train.views import epoch_order, jitter_rng, random_view, recorded_view, view_rng


@dataclass(frozen=True)
class Batch:
    """Crops of one step. What the run's objectives do not need is None, and was never read."""

    row_B: Tensor
    """int64: rows of the store."""
    image_B3HW: Tensor
    """float32: normalised by ImageNet's mean and deviation; 0 outside the image."""
    label_BHW: Tensor
    """uint8: visible class ids; VOID where there is none: void, unseen or outside the image."""
    inside_BHW: Tensor
    """bool: inside the image."""
    region_BHW: Tensor | None
    """uint8: latent regions 1..U of each image; 0: labelled or in no region."""
    token_BD: Tensor | None
    """float32: CLIP's token of the whole image, or of what the crop shows (`objectives.token`,
    `augmentation.views`)."""
    local_BKD: Tensor | None = None
    """float32: CLIP's token of each mask of the image."""
    local_id_BK: Tensor | None = None
    """int64: the masks: class id, FIRST_REGION + r of latent region r, -1: none."""
    stored_BDhw: Tensor | None = None
    """Dense tokens of the whole image as the store gives them, until `with_dense_tokens`."""
    down_Byh: Tensor | None = None
    across_Bxw: Tensor | None = None
    """float32: weights of the image's rows and columns of tokens in those of the crop."""
    dense_BDyx: Tensor | None = None
    """float32: unit dense tokens, one per `dense_stride` pixels each way, 0 outside the image."""

    def each(self, change: Callable[[Any], Any]) -> Self:
        """The batch with each of its tensors changed."""
        tensors: list[Any] = [getattr(self, field.name) for field in fields(self)]
        changed: list[Any] = [None if each is None else change(each) for each in tensors]
        return type(self)(*changed)

    def pin_memory(self) -> Self:
        """The batch in page-locked memory; torch's loader asks for it by this name."""
        return self.each(Tensor.pin_memory)

    def between(self, start: int, stop: int) -> Self:
        """The batch of images `start` to `stop` - 1 of this one."""
        return self.each(lambda each: each[start:stop])

    def to(self, device: torch.device) -> Self:
        """The batch on a device."""
        return self.each(lambda each: each.to(device, non_blocking=True))


def with_dense_tokens(batch: Batch) -> Batch:
    """The batch with the dense tokens of its crops in the place of the images'; else as it is.

    Done where the student runs: a loader would take longer for it than for reading the tokens, and
    send twice the bytes.
    """
    if batch.stored_BDhw is None:
        return batch
    unit_BDhw = F.normalize(batch.stored_BDhw.float(), dim=1)
    # Two operands at a time, each a product per image.
    tokens_BDhx = torch.einsum("bdhw,bxw->bdhx", unit_BDhw, batch.across_Bxw)
    dense_BDyx = torch.einsum("byh,bdhx->bdyx", batch.down_Byh, tokens_BDhx)
    return replace(batch, stored_BDhw=None, down_Byh=None, across_Bxw=None, dense_BDyx=dense_BDyx)


def join(batches: Sequence[Batch]) -> Batch:
    """One batch of several."""
    columns = [[getattr(batch, field.name) for batch in batches] for field in fields(Batch)]
    joined: list[Any] = [None if column[0] is None else _cat(column) for column in columns]
    return Batch(*joined)


def _cat(column: Sequence[Tensor]) -> Tensor:
    """Joined, in a loader process where the training process can see it: one copy less."""
    if get_worker_info() is None:
        return torch.cat(list(column))
    first = column[0]
    shape = (sum(len(each) for each in column), *first.shape[1:])
    joined = torch.empty(shape, dtype=first.dtype).share_memory_()
    return torch.cat(list(column), out=joined)


class CropDataset(Dataset[Batch]):
    """The endless stateless sequence of a run's crops; item p is the batch of one at position p.

    Positions are dealt in epochs: each shows every readable image once, in an order of its own.
    It holds the open store and the order of the last epoch asked for.
    """

    def __init__(self, store: Store, spec: DatasetSpec, root: Path, config: RunConfig) -> None:
        self._store, self._spec, self._config = store, spec, config
        self._samples = stored_samples(store, spec, root)
        self._row_N = np.flatnonzero(store.read_all("status") == 0)
        if not self._row_N.size:
            raise DatasetError(f"{store.path}: no image of it could be read by precompute")
        self._epoch, self._order_N = -1, np.empty(0, dtype=np.intp)
        self._slots_N = _used_slots(store.read_all("local_ids")) if config.uses_local else None
        self._jitter = Jitter() if config.augmentation.photometric else None

    def _row(self, position: int) -> int:
        epoch, place = divmod(position, self._row_N.size)
        if epoch != self._epoch:
            self._epoch = epoch
            self._order_N = epoch_order(self._config.train.seed, epoch, self._row_N.size)
        return int(self._row_N[self._order_N[place]])

    def slots(self, positions: Iterable[int]) -> int:
        """Slots for masks that the images at some positions need; 1 at least.

        A store keeps room for the image with most masks; every slot costs a score per pixel.
        """
        if self._slots_N is None:
            return 1
        return max(1, *(int(self._slots_N[self._row(position)]) for position in positions))

    def __getitem__(self, position: int) -> Batch:
        """The crop at a position.

        Raises DatasetError when the image or its label can no longer be read.
        """
        config, seed = self._config.augmentation, self._config.train.seed
        row = self._row(position)
        sample = self._samples[row]
        image_HW3 = read_image(sample.image)
        visible_HW = read_visible_label(self._spec, sample)
        if visible_HW.shape != image_HW3.shape[:2]:
            raise DatasetError(
                f"{sample.label}: label of {visible_HW.shape} pixels (H, W), but its image "
                f"{sample.image} has {image_HW3.shape[:2]}. `zsseg dataset verify` lists all such"
            )
        view, number = self._view(row, position, visible_HW)
        crop_HW3 = crop_image(image_HW3, view, config.crop, fill=(0, 0, 0))
        if self._jitter is not None:
            crop_HW3 = self._jitter(crop_HW3, jitter_rng(seed, position))
        inside_HW = inside(view, *config.crop)
        image_3HW = normalise(crop_HW3)
        if not inside_HW.all():
            image_3HW[:, ~inside_HW] = 0
        region_HW, token_D = self._region(row, view), self._token(row, view, number)
        local_KD, id_K = self._local(row)
        stored_Dhw, down_yh, across_xw = self._dense(row, view)
        return Batch(
            row_B=torch.tensor([row]),
            image_B3HW=torch.from_numpy(image_3HW)[None],
            label_BHW=torch.from_numpy(crop_map(visible_HW, view, config.crop, VOID))[None],
            inside_BHW=torch.from_numpy(inside_HW)[None],
            region_BHW=_tensor(region_HW),
            token_BD=_tensor(token_D),
            local_BKD=_tensor(local_KD),
            local_id_BK=_tensor(id_K),
            stored_BDhw=_tensor(stored_Dhw),
            down_Byh=_tensor(down_yh),
            across_Bxw=_tensor(across_xw),
        )

    def _view(self, row: int, position: int, visible_HW: NDArray[np.uint8]) -> tuple[View, int]:
        """The view at a position, and which of the store's CLS tokens goes with it."""
        config = self._config.augmentation
        rng = view_rng(self._config.train.seed, position)
        if config.views == "random":
            height, width = visible_HW.shape
            # Its token is that of view 0, the whole image.
            return random_view(rng, (height, width), config, visible_HW=visible_HW), 0
        view_V6 = self._store.read("views", row)
        number = recorded_view(rng, view_V6, config, visible_HW=visible_HW)
        return View.from_row(view_V6[number]), number

    def _region(self, row: int, view: View) -> NDArray[np.uint8] | None:
        if not self._config.uses_regions:
            return None
        region_hw = self._store.read("regions", row)
        return crop_map(region_hw, view, self._config.augmentation.crop, 0)

    def _token(self, row: int, view: View, number: int) -> NDArray[np.float32] | None:
        if not self._config.uses_token:
            return None
        if self._config.objectives.token == "pooled":
            return pool_tokens(self._store.read("dense", row), view)
        cls_VD = self._store.read("cls", row)
        return np.asarray(cls_VD[number], dtype=np.float32)

    def _local(self, row: int) -> tuple[NDArray[np.float32] | None, NDArray[np.int64] | None]:
        if not self._config.uses_local:
            return None, None
        local_KD, id_K = (self._store.read(name, row) for name in ("local", "local_ids"))
        return local_KD.astype(np.float32), id_K.astype(np.int64)

    def _dense(self, row: int, view: View) -> tuple[NDArray[Any] | None, ...]:
        if not self._config.uses_dense:
            return None, None, None
        stored_Dhw = self._store.read("dense", row)
        stride = self._config.objectives.dense_stride
        rows, columns = (side // stride for side in self._config.augmentation.crop)
        grid = (stored_Dhw.shape[1], stored_Dhw.shape[2])
        return stored_Dhw, *token_weights(view, (rows, columns), grid)


def cache_bytes(store: Store, config: RunConfig) -> int:
    """Bytes of the store that one crop is made from, before compression."""
    total = 0
    for name in (name for name, used in _arrays(config).items() if used):
        artifact, spec = store.manifest.arrays[name]
        # Dense tokens may lie in several arrays, such as numbers and their scales.
        for each in artifact.arrays if name == DENSE else (spec,):
            total += math.prod(each.shape) * np.dtype(each.dtype).itemsize
    return total


def _arrays(config: RunConfig) -> dict[str, bool]:
    """Which arrays of a store are read for every crop."""
    pooled = config.objectives.token == "pooled"
    return {
        DENSE: config.uses_dense or (config.uses_token and pooled),
        "regions": config.uses_regions,
        "cls": config.uses_token and not pooled,
        "views": config.augmentation.views == "recorded",
        "local": config.uses_local,
        "local_ids": config.uses_local,
    }


def _used_slots(id_NK: NDArray[np.int16]) -> NDArray[np.intp]:
    """(N,) slots up to the last one that has a mask."""
    used_NK = id_NK >= 0
    return np.where(used_NK.any(1), used_NK.shape[1] - used_NK[:, ::-1].argmax(1), 0)


def _tensor(values: NDArray[Any] | None) -> Tensor | None:
    return None if values is None else torch.from_numpy(values)[None]
