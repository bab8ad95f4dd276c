"""Makes the crops of a run: an image, its visible label and its cached tokens, cut alike.

Image, label, region map and tokens all go through the one view that was drawn for a position.

Legend: N images, H W pixels of the crop, h w token grid of the image, y x token grid of the crop, q
r grid of its named cells, K masks that the store keeps per image, D CLIP width.
"""

import copy
import math
from collections.abc import Iterable
from typing import Any, NamedTuple, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from zsseg.stages.cache.format.codec import DENSE
from zsseg.stages.cache.reader import Store
from zsseg.stages.data.geometry import (
    View,
    crop_image,
    crop_map,
    inside,
    nearest_cells,
    pool_tokens,
    token_weights,
)
from zsseg.stages.data.images import read_image
from zsseg.stages.data.samples import Sample
from zsseg.stages.data.spec import VOID
from zsseg.stages.data.visible import read_visible_label
from zsseg.stages.errors import DatasetError
from zsseg.stages.train.batches.batch import Batch
from zsseg.stages.train.batches.changed_images import check_row
from zsseg.stages.train.batches.imagenet import normalise
from zsseg.stages.train.batches.photometric import Jitter
from zsseg.stages.train.batches.sampling import (
    epoch_order,
    jitter_rng,
    random_view,
    recorded_view,
    view_rng,
)
from zsseg.stages.train.batches.store_check import name_map, reads_dense, stored_samples
from zsseg.stages.train.batches.training_data import TrainingData
from zsseg.stages.train.run_config import RunConfig

_NAMED_CELL = 4
"""Pixels of the crop between two cells that the map of names is read for: the finest stride of a
student's feature."""


class Cached(NamedTuple):
    """What the store has of an image, apart from views and dense tokens; None: not asked for."""

    cls_VD: NDArray[np.float16] | None
    local_KD: NDArray[np.float16] | None
    region_hw: NDArray[np.uint8] | None
    names_4yx: NDArray[np.uint8] | None


class CropDataset(Dataset[Batch]):
    """The endless sequence of a run's crops; item p is the batch of one crop at position p.

    An item depends on seed and position alone. Every epoch has each readable image once, in an
    order of its own. It holds the open store and the order of the epoch last asked for.
    """

    def __init__(self, data: TrainingData, config: RunConfig) -> None:
        store, self._spec, root = data
        self._store, self._config = store, config
        self._samples = stored_samples(store, self._spec, root)
        self._row_N = np.flatnonzero(store.read_all("status") == 0)
        if not self._row_N.size:
            raise DatasetError(
                f"{store.path}: no image of it could be read by precompute. Mend the images "
                "(`zsseg dataset verify` names them), and run its `zsseg precompute` command again"
            )
        self.unchecked: set[int] = set()
        """Rows whose files have to be compared with the store's when they are first read."""
        self._epoch, self._order_N = -1, np.empty(0, dtype=np.intp)
        self._id_NK = store.read_all("local_ids") if config.uses_local else None
        self._slots_N = None if self._id_NK is None else _used_slots(self._id_NK)
        self._map = name_map(store, config)
        self._reads_dense = reads_dense(store, config)
        self._jitter = Jitter() if config.augmentation.photometric else None

    @property
    def images(self) -> int:
        """How many images crops are made of: the positions of an epoch."""
        return int(self._row_N.size)

    def with_size(self, crop: tuple[int, int]) -> Self:
        """The same with crops of another size; nothing is listed or read again."""
        other = copy.copy(self)
        augmentation = self._config.augmentation.model_copy(update={"crop": crop})
        other._config = self._config.model_copy(update={"augmentation": augmentation})
        return other

    def used_samples(self) -> dict[int, Sample]:
        """The images that crops are made of, by their row of the store."""
        return {int(row): self._samples[row] for row in self._row_N}

    def _row(self, position: int) -> int:
        epoch, index = divmod(position, self._row_N.size)
        if epoch != self._epoch:
            self._epoch = epoch
            self._order_N = epoch_order(self._config.train.seed, epoch, self._row_N.size)
        return int(self._row_N[self._order_N[index]])

    def slots(self, positions: Iterable[int]) -> int:
        """Slots for masks that the images at some positions need; 1 at least.

        A store keeps room for the image with most masks; every slot costs a score per pixel.
        """
        if self._slots_N is None:
            return 1
        return max(1, *(int(self._slots_N[self._row(position)]) for position in positions))

    def __getitem__(self, position: int) -> Batch:
        """The crop at a position; raises what `crop` does."""
        return self.crop(position, self.cached(position))

    def cached(self, position: int) -> Cached:
        """What the store has of the image at a position.

        Read for all crops of a batch before the first image: after an image nothing of what
        reading needs is left in the processor's caches, and a row takes several times as long.
        """
        config, row = self._config, self._row(position)
        pooled = config.objectives.token == "pooled"

        def read(name: str | None) -> NDArray[Any] | None:
            return None if name is None else self._store.read(name, row)

        return Cached(
            read("cls" if config.uses_token and not pooled else None),
            read("local" if config.uses_local else None),
            read("regions" if config.uses_regions else None),
            read(self._map),
        )

    def crop(self, position: int, cached: Cached) -> Batch:
        """The crop at a position, of an image with these rows of the store.

        Raises DatasetError when the image or its label can no longer be read.
        """
        config, seed = self._config.augmentation, self._config.train.seed
        row = self._row(position)
        sample = self._samples[row]
        if row in self.unchecked:
            check_row(self._store, self._spec, sample, row)
            self.unchecked.discard(row)
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
        token_D = self._token(row, view, cached.cls_VD, number)
        local_KD, id_K = self._local(row, cached.local_KD)
        region_hw, row_H, column_W = self._region(cached.region_hw, view)
        dense_Dhw, down_yh, across_xw = self._dense(row, view)
        return Batch(
            row_B=torch.tensor([row]),
            image_B3HW=torch.from_numpy(image_3HW)[None],
            label_BHW=torch.from_numpy(crop_map(visible_HW, view, config.crop, VOID))[None],
            inside_BHW=torch.from_numpy(inside_HW)[None],
            region_BHW=None,
            token_BD=_tensor(token_D),
            local_BKD=_tensor(local_KD),
            local_id_BK=_tensor(id_K),
            names_B3qr=_tensor(self._names(cached.names_4yx, view)),
            image_region_Bhw=_tensor(region_hw),
            row_BH=_tensor(row_H),
            column_BW=_tensor(column_W),
            image_dense_BDhw=_tensor(dense_Dhw),
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

    def _region(
        self, region_hw: NDArray[np.uint8] | None, view: View
    ) -> tuple[NDArray[Any] | None, ...]:
        if region_hw is None:
            return None, None, None
        grid = (region_hw.shape[0], region_hw.shape[1])
        return region_hw, *nearest_cells(view, self._config.augmentation.crop, grid)

    def _token(
        self, row: int, view: View, cls_VD: NDArray[np.float16] | None, number: int
    ) -> NDArray[np.float32] | None:
        if cls_VD is not None:
            return np.asarray(cls_VD[number], dtype=np.float32)
        if self._config.uses_token:
            return pool_tokens(self._store.read("dense", row), view)
        return None

    def _local(
        self, row: int, local_KD: NDArray[np.float16] | None
    ) -> tuple[NDArray[np.float32] | None, NDArray[np.int64] | None]:
        if local_KD is None or self._id_NK is None:
            return None, None
        return local_KD.astype(np.float32), self._id_NK[row].astype(np.int64)

    def _names(self, names_4yx: NDArray[np.uint8] | None, view: View) -> NDArray[np.uint8] | None:
        """Cut here, unlike regions and dense tokens: it is as small as the map of the image."""
        if names_4yx is None:
            return None
        rows, columns = (math.ceil(side / _NAMED_CELL) for side in self._config.augmentation.crop)
        class_yx, _, best_yx, second_yx = names_4yx
        return crop_map(np.stack([class_yx, best_yx, second_yx]), view, (rows, columns), 0)

    def _dense(self, row: int, view: View) -> tuple[NDArray[Any] | None, ...]:
        if not self._reads_dense:
            return None, None, None
        dense_Dhw = self._store.read("dense", row)
        stride = self._config.objectives.dense_stride
        rows, columns = (side // stride for side in self._config.augmentation.crop)
        grid = (dense_Dhw.shape[1], dense_Dhw.shape[2])
        return dense_Dhw, *token_weights(view, (rows, columns), grid)


def cache_bytes(store: Store, config: RunConfig) -> int:
    """Bytes of the store that one crop is made from, before compression."""
    total = 0
    for name in (name for name, used in _arrays(store, config).items() if used):
        artifact, spec = store.manifest.arrays[name]
        # Dense tokens may lie in several arrays, such as numbers and their scales.
        for each in artifact.arrays if name == DENSE else (spec,):
            total += math.prod(each.shape) * np.dtype(each.dtype).itemsize
    return total


def _arrays(store: Store, config: RunConfig) -> dict[str, bool]:
    """Which arrays of a store are read for every crop."""
    pooled = config.objectives.token == "pooled"
    return {
        DENSE: reads_dense(store, config) or (config.uses_token and pooled),
        "regions": config.uses_regions,
        "cls": config.uses_token and not pooled,
        "views": config.augmentation.views == "recorded",
        "local": config.uses_local,
        "local_ids": config.uses_local,
        **({name: True} if (name := name_map(store, config)) else {}),
    }


def _used_slots(id_NK: NDArray[np.int16]) -> NDArray[np.intp]:
    """(N,) slots up to the last one that has a mask."""
    used_NK = id_NK >= 0
    return np.where(used_NK.any(1), used_NK.shape[1] - used_NK[:, ::-1].argmax(1), 0)


def _tensor(values: NDArray[Any] | None) -> Tensor | None:
    return None if values is None else torch.from_numpy(values)[None]
