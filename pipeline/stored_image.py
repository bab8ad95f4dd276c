"""What a store has of one image, and the pictures of it that a person can look at.

Legend: D CLIP width, C classes, K masks that the store keeps per image, h w token grid, y x grid of
regions, H W pixels.
"""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from zsseg.pipeline.named_stores import stored_spec
from zsseg.stages.best_names import best_names, name_rows
from zsseg.stages.cache.format.codec import DENSE, stored_format
from zsseg.stages.cache.reader import Store
from zsseg.stages.data.images import Picture, as_picture, read_image, resize_image
from zsseg.stages.errors import DatasetError
from zsseg.stages.evaluate.colours import name_colours
from zsseg.stages.evaluate.teacher_evaluation import PIXEL_NAMES

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

    @cached_property
    def named(self) -> NDArray[np.uint8] | None:
        """(y, x) the class that the teacher gives each place: of the map of names, else of the
        dense tokens."""
        stored = self._read(PIXEL_NAMES)
        if stored is not None:
            return np.asarray(stored[0], np.uint8)
        if self.dense is None:
            return None
        token_LD = self.dense.reshape(len(self.dense), -1).T
        best_L: NDArray[np.uint8] = self.cosines(token_LD).argmax(1).astype(np.uint8)
        return best_L.reshape(self.dense.shape[1:])

    def cosines(self, token_ND: NDArray[np.float32]) -> NDArray[np.float32]:
        """(N, C) cosine of each token with each class, of several names the best one's."""
        text_CD = torch.from_numpy(self.store.read_all("text").astype(np.float32))
        unit_ND = F.normalize(torch.from_numpy(np.ascontiguousarray(token_ND)), dim=1)
        cosine_NN = unit_ND @ F.normalize(name_rows(text_CD), dim=1).T
        cosine_NC: NDArray[np.float32] = best_names(cosine_NN, text_CD, dim=1).numpy()
        return cosine_NC

    def drawn(self, image_HW3: NDArray[np.uint8]) -> dict[str, NDArray[np.uint8]]:
        """(H, W, 3) pictures of what the store has, in the size of the image, by what they show.

        The three main directions of this image's dense tokens are red, green and blue; classes have
        their colours, regions colours by their number.
        """
        size = (image_HW3.shape[0], image_HW3.shape[1])
        shown = {}
        if self.dense is not None:
            shown["dense tokens"] = resize_image(main_directions(self.dense), size)
        if self.named is not None:
            spec = stored_spec(self.store)
            shown["names by the teacher"] = enlarged(
                name_colours(spec.classes, spec)[self.named], size
            )
        if self.regions is not None:
            region_yx3 = region_colours()[self.regions.astype(int) % _COLOURS]
            shown["latent regions"] = enlarged(region_yx3 * (self.regions > 0)[..., None], size)
        return shown

    def picture(self) -> Picture:
        """The image beside what `drawn` makes of its tokens, as Pillow's image.

        What the store does not have is left out. Raises DatasetError where the image file is no
        longer there.
        """
        image_HW3 = read_image(self.file)
        return as_picture(np.concatenate([image_HW3, *self.drawn(image_HW3).values()], axis=1))

    def show(self) -> None:
        """Open `picture` in the viewer of this machine."""
        self.picture().show()

    def _read(self, array: str) -> NDArray[Any] | None:
        return self.store.read(array, self.row) if self.store.has(array) else None

    def _float(self, array: str) -> NDArray[np.float32] | None:
        values = self._read(array)
        return None if values is None else values.astype(np.float32)


def region_colours() -> NDArray[np.uint8]:
    """(256, 3) RGB by the number of a latent region."""
    return name_colours([f"region {number}" for number in range(_COLOURS)])


def enlarged(picture_yx3: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    """(H, W, 3) each cell as the block of pixels that it stands for."""
    rows, columns = (
        np.arange(pixels) * cells // pixels
        for pixels, cells in zip(size, picture_yx3.shape[:2], strict=True)
    )
    return np.asarray(picture_yx3[rows][:, columns], np.uint8)


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
