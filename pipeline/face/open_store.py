"""A finished store, image by image: `zsseg.open_store`.

Legend: D CLIP width, K masks that the store keeps per image, h w token grid, y x grid of regions.
"""

from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import overload

import numpy as np
from numpy.typing import NDArray

from zsseg.pipeline.face.given_image import checked_path
from zsseg.pipeline.named_stores import stored_spec
from zsseg.pipeline.stored_image import CachedImage
from zsseg.stages.cache.catalogue import choose_store
from zsseg.stages.cache.disk.store_path import store_path
from zsseg.stages.cache.reader import Store
from zsseg.stages.errors import UserError


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
