"""A finished store, image by image: `zsseg.open_store`.

Legend: D CLIP width, K masks that the store keeps per image, h w token grid, y x grid of regions.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from zsseg.pipeline.face.given_image import checked_path
from zsseg.pipeline.named_stores import stored_spec
from zsseg.stages.cache.catalogue import choose_store
from zsseg.stages.cache.disk.store_path import store_path
from zsseg.stages.cache.format.codec import DENSE, stored_format
from zsseg.stages.cache.reader import Store
from zsseg.stages.data.images import Picture, as_picture, read_image, resize_image
from zsseg.stages.errors import DatasetError, UserError
from zsseg.stages.evaluate.colours import name_colours

_COLOURS = 255
"""Regions of an image that have colours of their own."""
_ALIKE = 1e-9
"""Tokens that differ less along a direction differ by rounding only."""


@dataclass(frozen=True)
class CachedImage:
    """What a store has of one image; read from disk on first use, None where it is not kept."""

    store: Store
    row: int

    @property
    def id(self) -> str:
        """The image's name in its data set."""
        return str(self.store.index[self.row]["id"])

    @cached_property
    def cls(self) -> NDArray[np.float32] | None:
        """(D,) CLIP's token of the whole image, the first of its views."""
        token_VD = self._float("cls")
        return None if token_VD is None else token_VD[0]

    @cached_property
    def dense(self) -> NDArray[np.float32] | None:
        """(D, h, w) CLIP's dense tokens."""
        if stored_format(self.store.recipes.get(DENSE, {})) == "none":
            return None
        return self._float(DENSE)

    @cached_property
    def regions(self) -> NDArray[Any] | None:
        """(y, x) latent region of each pixel without a visible label, from 1; 0: none."""
        return self._read("regions")

    @cached_property
    def local(self) -> dict[int, NDArray[np.float32]] | None:
        """(D,) token of the crop of each mask, by the mask's id: of a seen class its number, of
        latent region r `zsseg.stages.data.spec.FIRST_REGION` + r."""
        ids_K, token_KD = self._read("local_ids"), self._float("local")
        if ids_K is None or token_KD is None:
            return None
        return {int(id): token_KD[k] for k, id in enumerate(ids_K) if id >= 0}

    @property
    def file(self) -> Path:
        """The image file, where the data set was when the store was written.

        Raises DatasetError when it is no longer there.
        """
        root = self.store.last("root")
        path = Path(root or "") / str(self.store.index[self.row]["image"])
        if root is None or not path.is_file():
            raise DatasetError(
                f"{path}: the image of row {self.row} is no longer there. Bring it back, or look "
                "for `image` of store.store.index where the data set is now"
            )
        return path

    def picture(self) -> Picture:
        """The image beside its dense tokens and its latent regions, as Pillow's image.

        The three main directions of this image's tokens are shown as red, green and blue; regions
        have colours by their number. What the store does not have is left out. Raises DatasetError
        where the image file is no longer there.
        """
        image_HW3 = read_image(self.file)
        size = (image_HW3.shape[0], image_HW3.shape[1])
        shown = [image_HW3]
        if self.dense is not None:
            shown.append(resize_image(main_directions(self.dense), size))
        if self.regions is not None:
            palette = name_colours([f"region {number}" for number in range(_COLOURS)])
            region_yx3 = palette[self.regions.astype(int) % _COLOURS]
            rows, columns = (
                np.arange(side) * cells // side
                for side, cells in zip(size, self.regions.shape, strict=True)
            )
            shown.append(region_yx3[rows][:, columns] * (self.regions > 0)[rows][:, columns, None])
        return as_picture(np.concatenate(shown, axis=1).astype(np.uint8))

    def show(self) -> None:
        """Open `picture` in the viewer of this machine."""
        self.picture().show()

    def _read(self, array: str) -> NDArray[Any] | None:
        return self.store.read(array, self.row) if self.store.has(array) else None

    def _float(self, array: str) -> NDArray[np.float32] | None:
        values = self._read(array)
        return None if values is None else values.astype(np.float32)


def main_directions(token_Dhw: NDArray[np.float32]) -> NDArray[np.uint8]:
    """(h, w, 3) the first three principal components of tokens, each from its least to its most.

    A direction has no sign of its own: its largest weight is taken to be positive. Tokens that are
    all alike, or fewer directions than three, are grey there.
    """
    flat_LD = token_Dhw.reshape(len(token_Dhw), -1).T.astype(np.float64)
    flat_LD = flat_LD - flat_LD.mean(0)
    _, _, axes_KD = np.linalg.svd(flat_LD, full_matrices=False)
    axes_KD = axes_KD[:3]
    largest_K = np.abs(axes_KD).argmax(1)
    axes_KD = axes_KD * np.sign(axes_KD[np.arange(len(axes_KD)), largest_K])[:, None]
    score_L3 = np.zeros((len(flat_LD), 3))
    score_L3[:, : len(axes_KD)] = flat_LD @ axes_KD.T
    low_3, high_3 = score_L3.min(0), score_L3.max(0)
    range_3 = np.where(high_3 - low_3 > _ALIKE, high_3 - low_3, np.inf)
    share_L3 = np.where(np.isinf(range_3), 0.5, (score_L3 - low_3) / range_3)
    shown_hw3: NDArray[np.uint8] = np.rint(255 * share_L3).astype(np.uint8)
    return shown_hw3.reshape(*token_Dhw.shape[1:], 3)


class OpenStore:
    """A finished store as a sequence of its images. Made by `zsseg.open_store`."""

    def __init__(self, store: Store) -> None:
        self.store = store

    @property
    def classes(self) -> tuple[str, ...]:
        """The classes of its data set, unseen ones included."""
        return stored_spec(self.store).classes

    @cached_property
    def text(self) -> NDArray[np.float32]:
        """(C, D) the embeddings of the class names; (C, S, D) where every name of one is kept."""
        return self.store.read_all("text").astype(np.float32)

    def __len__(self) -> int:
        return self.store.rows

    @overload
    def __getitem__(self, image: int | str) -> CachedImage: ...

    @overload
    def __getitem__(self, image: slice) -> list[CachedImage]: ...

    def __getitem__(self, image: int | str | slice) -> CachedImage | list[CachedImage]:
        """By row, by the image's name, or several by a slice.

        Raises IndexError for a row that is not there, UserError for such a name.
        """
        if isinstance(image, slice):
            return [CachedImage(self.store, row) for row in range(len(self))[image]]
        if isinstance(image, str):
            return CachedImage(self.store, self._row_of(image))
        return CachedImage(self.store, range(len(self))[image])

    def __iter__(self) -> Iterator[CachedImage]:
        return (CachedImage(self.store, row) for row in range(len(self)))

    def _row_of(self, name: str) -> int:
        for entry in self.store.index:
            if entry["id"] == name:
                return int(entry["row"])
        raise UserError(
            f"{self.store.path}: has no image '{name}'. Give a row, or a name such as "
            f"'{self.store.index[0]['id']}'"
        )

    def __repr__(self) -> str:
        return f"<zsseg.OpenStore {self.store.path}, {len(self)} images>"


def open_store(path: str | Path) -> OpenStore:
    """Open a store, or the only one of split `train` in a folder of stores; a path or a URL.

    Raises CacheError when it is missing, foreign, unfinished or damaged.
    """
    text = path if isinstance(path, str) else checked_path(path)
    return OpenStore(Store.open(choose_store(store_path(text), split="train")))
