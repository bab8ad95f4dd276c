"""The arrays of one shard, made from its pictures.

Tokens are kept as the teacher gives them, not normalised, in half precision, dense ones in the
format asked for; what does not fit becomes infinity here and is refused, with the image's name,
where it is written.
Legend: N pictures of a shard, V views, H W pixels, h w token grid, D CLIP width, K masks.
"""

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zsseg.stages.cache.format.codec import DENSE, dense_specs, encode, half
from zsseg.stages.precompute.make.class_crops import class_crops
from zsseg.stages.precompute.make.kmeans import EMPTIED, Backend
from zsseg.stages.precompute.make.pictures import Picture
from zsseg.stages.precompute.make.recorded_views import image_views, seen_by_teacher
from zsseg.stages.precompute.make.regions import mine_regions, unlabelled_tokens
from zsseg.stages.precompute.precompute_config import (
    DenseConfig,
    LocalConfig,
    RegionConfig,
    ViewConfig,
)
from zsseg.stages.precompute.teacher.clip_teacher import Teacher
from zsseg.stages.precompute.threads import in_threads

Arrays = dict[str, NDArray[Any]]
Advance = Callable[[int], None]
"""Told how many more pictures are done."""

_MINED = 64  # pictures given to the threads at once: how often progress is told


def cls_arrays(
    teacher: Teacher,
    pictures: Sequence[Picture],
    config: ViewConfig,
    *,
    batch: int,
    advance: Advance,
) -> Arrays:
    """The views of each picture (view 0: the whole of it), and one CLS token per view."""
    views = 1 + config.number
    view_NV6 = np.empty((len(pictures), views, 6), np.float32)
    cls_NVD = np.empty((len(pictures), views, teacher.width), np.float16)

    def look(i: int) -> list[NDArray[np.uint8]]:
        image_HW3 = pictures[i].image_HW3
        view_NV6[i] = image_views(image_HW3, config)
        size = teacher.native_size
        return [seen_by_teacher(teacher, image_HW3, view_6, size) for view_6 in view_NV6[i]]

    for part in _parts(len(pictures), batch):
        made = in_threads(look, range(part.start, part.stop))
        images = [image for each in made for image in each]
        token_MD = np.empty((len(images), teacher.width), np.float16)
        for few in _parts(len(images), batch):
            token_MD[few] = half(teacher.cls(images[few]))
        cls_NVD[part] = token_MD.reshape(-1, views, teacher.width)
        advance(part.stop - part.start)
    return {"views": view_NV6, "cls": cls_NVD}


def dense_arrays(
    teacher: Teacher,
    pictures: Sequence[Picture],
    config: DenseConfig,
    *,
    basis: Mapping[str, NDArray[np.float32]],
    batch: int,
    advance: Advance,
) -> Arrays:
    """The arrays that hold the dense tokens of each picture in the format of `config`.

    `basis`: the arrays of the store's basis; empty where the format needs none.
    """
    specs = dense_specs(config.format, width=teacher.width, grid=teacher.grid(config))
    arrays = {each.name: np.empty((len(pictures), *each.shape), each.dtype) for each in specs}
    for part in _parts(len(pictures), batch):
        images = _fitted(teacher, pictures[part], config.size)
        for name, values in encode(config.format, teacher.dense(images, config), basis).items():
            arrays[name][part] = values
        advance(part.stop - part.start)
    return arrays


def unkept_tokens(
    teacher: Teacher, pictures: Sequence[Picture], config: DenseConfig, *, batch: int
) -> NDArray[np.float16]:
    """(N, D, h, w) dense tokens for a store that keeps none; as format fp16 would store them."""
    kept = config.model_copy(update={"format": "fp16"})
    arrays = dense_arrays(teacher, pictures, kept, basis={}, batch=batch, advance=lambda _: None)
    return arrays[DENSE]


def region_arrays(
    dense_NDhw: NDArray[np.floating],
    pictures: Sequence[Picture],
    config: RegionConfig,
    *,
    backend: Backend,
    advance: Advance,
) -> Arrays:
    """The latent regions of each picture, from the dense tokens as they are stored."""
    *_, height, width = dense_NDhw.shape

    def mine(i: int) -> NDArray[np.uint8]:
        unlabelled_hw = unlabelled_tokens(
            pictures[i].visible_HW, (height, width), config.unlabelled_share
        )
        return mine_regions(dense_NDhw[i], unlabelled_hw, config, backend=backend)

    # For good: filters belong to the whole process, and other threads mine beside this one. Nothing
    # is lost: `mine_regions` looks at the labels, in which an empty cluster does not appear.
    warnings.filterwarnings("ignore", EMPTIED)
    region_Nhw = np.empty((len(pictures), height, width), np.uint8)
    if backend == "cuml":  # one GPU, one job at a time
        for i in range(len(pictures)):
            region_Nhw[i] = mine(i)
            advance(1)
    else:
        for part in _parts(len(pictures), _MINED):
            region_Nhw[part] = in_threads(mine, range(part.start, part.stop))
            advance(part.stop - part.start)
    return {"regions": region_Nhw}


@dataclass(frozen=True)
class CropNotes:
    """The masks of one picture: the hash of each one's crop, and how many had no room."""

    hashes: tuple[str, ...]
    left_out: int


def local_arrays(
    teacher: Teacher,
    pictures: Sequence[Picture],
    region_Nhw: NDArray[np.uint8],
    config: LocalConfig,
    *,
    salt: str,
    known: Mapping[str, NDArray[np.float16]],
    batch: int,
    advance: Advance,
) -> tuple[Arrays, list[CropNotes]]:
    """One CLS token per mask of each picture, mask ids (-1: none), and the crops (N,).

    `known`: tokens (D,) by hash of their crop, of before. What has not changed in the pixels that
    the teacher would see is taken from there. `salt`: see `crop_salt`.
    """
    local_NKD = np.zeros((len(pictures), config.max_masks, teacher.width), np.float16)
    id_NK = np.full((len(pictures), config.max_masks), -1, np.int16)
    done: list[CropNotes] = []

    def cut(i: int) -> tuple[dict[str, NDArray[np.uint8]], list[int], CropNotes]:
        crops, ids, left_out = class_crops(
            pictures[i].image_HW3,
            pictures[i].visible_HW,
            region_Nhw[i],
            margin=config.margin,
            max_masks=config.max_masks,
        )
        images, hashes = {}, []
        for each in crops:
            hashes.append(each.digest(salt))
            if hashes[-1] not in known:
                filled_HW3 = each.masked(teacher.mean_colour)
                images[hashes[-1]] = teacher.fitted(filled_HW3, teacher.native_size)
        return images, ids, CropNotes(tuple(hashes), left_out)

    for part in _parts(len(pictures), batch):
        made = in_threads(cut, range(part.start, part.stop))
        images = {name: image for each, _, _ in made for name, image in each.items()}
        names, tokens = list(images), dict(known)
        for few in _parts(len(names), batch):
            encoded_MD = half(teacher.cls([images[name] for name in names[few]]))
            tokens |= zip(names[few], encoded_MD, strict=True)
        for i, (_, ids, crops) in enumerate(made, start=part.start):
            for slot, name in enumerate(crops.hashes):
                local_NKD[i, slot] = tokens[name]
            id_NK[i, : len(ids)] = ids
            done.append(crops)
        advance(part.stop - part.start)
    return {"local": local_NKD, "local_ids": id_NK}, done


def _fitted(
    teacher: Teacher, pictures: Sequence[Picture], size: tuple[int, int]
) -> list[NDArray[np.uint8]]:
    """The images at the size that the teacher takes, resized in threads."""
    return in_threads(lambda each: teacher.fitted(each.image_HW3, size), pictures)


def _parts(number: int, size: int) -> Iterator[slice]:
    for start in range(0, number, size):
        yield slice(start, min(start + size, number))
