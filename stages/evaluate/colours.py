"""The colour of a class follows from its name: the same in every picture, tool and session.

A hash of the name chooses among 256 colours that were picked to look different with any kind of
colour vision. A data set's own colours come first, as people know them. The classes of a run are
placed before other names that are asked for beside them, so they keep their colours whatever else
is predicted.

Two names of one list may meet in one colour, or in two that look alike. The names are then placed
in the order of their hashes, whatever the order of the list: each takes the first of its own
sequence of colours that is far enough from those taken. So a name's colour changes only in a list
with a name that comes before it and is too near; in a short list most names have their first one.

Legend: C classes, N candidate colours, V kinds of colour vision.
"""

import hashlib
from collections.abc import Mapping, Sequence
from functools import cache

import numpy as np
from numpy.typing import NDArray

from zsseg.stages.data.class_names import names_of, normal_form
from zsseg.stages.data.spec import VOID, Colour, DatasetSpec, builtin_colours

PALETTE_SIZE = 256

_SALT = 1235765
"""Of 1.5 million numbers tried, one with which road, building, sky, tree, car and other common
names look clearly different and keep their first colours in CamVid, Cityscapes and the demo.
Another number would give every name another colour. [ours]"""

_APART = (8.0, 4.0, 0.0)
"""Distances (CIELAB, see `seen_colours`) that a colour has from those taken, the first that leaves
one. 8 moves none of CamVid's 11 names from its first choice, 3 of Cityscapes' 19. [ours]"""

_VISIONS = np.array(
    [
        np.eye(3),
        [
            [0.152286, 1.052583, -0.204868],
            [0.114503, 0.786281, 0.099216],
            [-0.003882, -0.048116, 1.051998],
        ],
        [
            [0.367322, 0.860646, -0.227968],
            [0.280085, 0.672501, 0.047413],
            [-0.011820, 0.042940, 0.968881],
        ],
        [
            [1.255528, -0.076749, -0.178779],
            [-0.078411, 0.930809, 0.147602],
            [0.004733, 0.691367, 0.303900],
        ],
    ]
)
"""Linear RGB as it is seen without a deficiency, and with protanopia, deuteranopia and tritanopia
(Machado, Oliveira and Fernandes 2009, severity 1)."""


def name_colours(
    names: Sequence[str],
    spec: DatasetSpec | None = None,
    *,
    chosen: Mapping[str, Colour] | None = None,
) -> NDArray[np.uint8]:
    """(256, 3) RGB of every label id of these names; VOID and ids behind the names are black.

    Names of the data set's classes have the colours of these (`name_colours(spec.classes, spec)`).
    `chosen`: colours by name in place of the data set's own; {}: none, all follow from the names.
    """
    assert len(names) <= VOID
    if chosen is None:
        chosen = {} if spec is None else spec.colours or builtin_colours(spec)
    fixed = {_form(name): colour for name, colour in chosen.items()}
    given: list[Colour | None] = [fixed.get(_form(name)) for name in names]
    if spec is not None:
        own_C = [spec.class_of(name) for name in names]
        classes = [fixed.get(_form(name)) for name in spec.classes]
        of_classes = _placed(spec.classes, classes)
        for place, own in enumerate(own_C):
            if own is not None and given[place] is None:
                given[place] = of_classes[own]
    colours_C3 = np.zeros((PALETTE_SIZE, 3), dtype=np.uint8)
    colours_C3[: len(names)] = np.array(_placed(names, given), dtype=np.uint8).reshape(-1, 3)
    return colours_C3


def _placed(names: Sequence[str], given: Sequence[Colour | None]) -> list[Colour]:
    """The colour of each name: the one given, or by its hash one that is apart from the others."""
    found = list(given)
    nearest_N = np.full(PALETTE_SIZE, np.inf)
    for colour in found:
        if colour is not None:
            nearest_N = np.minimum(nearest_N, _distances(colour))
    digests = {
        place: hashlib.sha256(f"{_SALT}:{_form(name)}".encode("utf-8", "surrogatepass")).digest()
        for place, name in enumerate(names)
        if found[place] is None
    }
    for place in sorted(digests, key=lambda each: digests[each]):
        order_N = _order(digests[place])
        free_N = next(free for apart in _APART if (free := nearest_N[order_N] > apart).any())
        red, green, blue = safe_palette()[order_N[int(free_N.argmax())]].tolist()
        found[place] = (red, green, blue)
        nearest_N = np.minimum(nearest_N, _distances((red, green, blue)))
    return [colour for colour in found if colour is not None]


def _form(name: str) -> str:
    """What the colour follows from; of a class of several names ('car|van') the first."""
    return normal_form(names_of(name)[0])


def _order(digest: bytes) -> NDArray[np.int64]:
    """(N,) all places of the palette, in a sequence of the digest's own."""
    first, step = (int.from_bytes(digest[at : at + 4], "big") for at in (0, 4))
    order_N: NDArray[np.int64] = (first + np.arange(PALETTE_SIZE) * (step | 1)) % PALETTE_SIZE
    return order_N


@cache
def _distances(colour: Colour) -> NDArray[np.float64]:
    """(N,) how far the palette's colours look from one, to whom they look nearest."""
    own_V3 = seen_colours(np.array([colour], dtype=np.float64))[0]
    apart_N: NDArray[np.float64] = np.linalg.norm(_seen_palette() - own_V3, axis=2).min(1)
    return apart_N


@cache
def _seen_palette() -> NDArray[np.float64]:
    return seen_colours(safe_palette().astype(np.float64))


@cache
def safe_palette() -> NDArray[np.uint8]:
    """(N, 3) colours of which each is the candidate that looks farthest from all before it.

    Candidates are neither so dark nor so light that they vanish on a picture or on white, nor grey,
    nor glaring.
    """
    level = np.arange(0, 256, 15, dtype=np.float64)
    rgb_N3 = np.stack(np.meshgrid(level, level, level, indexing="ij"), axis=-1).reshape(-1, 3)
    lab_N3 = cielab(rgb_N3)
    chroma_N = np.linalg.norm(lab_N3[:, 1:], axis=1)
    usable_N = (lab_N3[:, 0] > 38) & (lab_N3[:, 0] < 86) & (chroma_N > 12) & (chroma_N < 90)
    rgb_N3 = rgb_N3[usable_N]
    seen_NV3 = seen_colours(rgb_N3)
    # Middle grey counts as taken: it is what streets and shadows look like.
    distance_N = np.linalg.norm(seen_NV3 - (55.0, 0.0, 0.0), axis=2).min(1)
    chosen = []
    for _ in range(PALETTE_SIZE):
        # Rounded: the last digits of a distance differ between machines.
        chosen.append(int(distance_N.round(6).argmax()))
        apart_NV = np.linalg.norm(seen_NV3 - seen_NV3[chosen[-1]], axis=2)
        distance_N = np.minimum(distance_N, apart_NV.min(1))
    colours_N3: NDArray[np.uint8] = rgb_N3[chosen].astype(np.uint8)
    return colours_N3


def seen_colours(rgb_N3: NDArray[np.float64]) -> NDArray[np.float64]:
    """(N, V, 3) CIELAB of sRGB values 0..255 as each kind of colour vision has them."""
    share_N3 = rgb_N3 / 255
    linear_N3 = np.where(share_N3 <= 0.04045, share_N3 / 12.92, ((share_N3 + 0.055) / 1.055) ** 2.4)
    seen_NV3 = np.clip(np.einsum("vij,nj->nvi", _VISIONS, linear_N3), 0, 1)
    back_NV3 = np.where(
        seen_NV3 <= 0.0031308, 12.92 * seen_NV3, 1.055 * seen_NV3 ** (1 / 2.4) - 0.055
    )
    return cielab(255 * back_NV3.reshape(-1, 3)).reshape(seen_NV3.shape)


def cielab(rgb_N3: NDArray[np.float64]) -> NDArray[np.float64]:
    """L*, a*, b* of sRGB values 0..255 (IEC 61966-2-1, white D65)."""
    share_N3 = rgb_N3 / 255
    linear_N3 = np.where(share_N3 <= 0.04045, share_N3 / 12.92, ((share_N3 + 0.055) / 1.055) ** 2.4)
    to_xyz = np.array(
        [
            [0.4124564, 0.3575761, 0.1804375],
            [0.2126729, 0.7151522, 0.0721750],
            [0.0193339, 0.1191920, 0.9503041],
        ]
    )
    xyz_N3 = linear_N3 @ to_xyz.T / to_xyz.sum(1)
    root_N3 = np.where(
        xyz_N3 > (6 / 29) ** 3, np.cbrt(xyz_N3), xyz_N3 / (3 * (6 / 29) ** 2) + 4 / 29
    )
    x_N, y_N, z_N = root_N3.T
    return np.stack([116 * y_N - 16, 500 * (x_N - y_N), 200 * (y_N - z_N)], axis=1)
