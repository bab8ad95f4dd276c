"""Shapes of the things in the scenes: coloured polygons, in metres.

A thing stands at (0, 0), x to the right, y up. Shape tells what it is; colours are drawn at random,
so that colour does not.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from zsseg.stages.demo.canvas import Colour

Random = np.random.Generator


@dataclass(frozen=True)
class Part:
    """A polygon of a thing: (N, 2) corners in metres, colour, and strengths of its texture."""

    corners_N2: NDArray[np.float64]
    colour: Colour
    grain: float = 5.0
    patches: float = 0.0


def rgb(red: float, green: float, blue: float) -> Colour:
    """A colour of values 0..255."""
    return np.array([red, green, blue], dtype=np.float32)


def polygon(*corners: tuple[float, float]) -> NDArray[np.float64]:
    """(N, 2) corners."""
    return np.array(corners, dtype=np.float64)


def box(x0: float, y0: float, x1: float, y1: float) -> NDArray[np.float64]:
    """(4, 2) corners of an upright rectangle."""
    return polygon((x0, y0), (x1, y0), (x1, y1), (x0, y1))


def ellipse(
    x: float, y: float, rx: float, ry: float, start: float = 0.0, end: float = 360.0
) -> NDArray[np.float64]:
    """(N, 2) corners of an ellipse, or of the part between two angles in degrees, x axis first."""
    angle = np.radians(np.linspace(start, end, 20))
    return np.stack([x + rx * np.cos(angle), y + ry * np.sin(angle)], axis=1)


def bar(x0: float, y0: float, x1: float, y1: float, width: float) -> NDArray[np.float64]:
    """(4, 2) corners of a straight bar between two points."""
    along = np.array([x1 - x0, y1 - y0])
    side = np.array([-along[1], along[0]]) / np.linalg.norm(along) * width / 2
    start, end = np.array([x0, y0]), np.array([x1, y1])
    return np.stack([start - side, end - side, end + side, start + side])


def any_colour(rng: Random) -> Colour:
    """Any colour, greys as often as bright ones."""
    value, strength = rng.uniform(40, 240), rng.uniform(0, 0.8) * rng.integers(0, 2)
    hue = np.abs((rng.uniform(0, 6) + np.array([0, 2, 4])) % 6 - 3) - 1
    colour: Colour = (value * (1 - strength * (1 - np.clip(hue, 0, 1)))).astype(np.float32)
    return colour


def car(rng: Random) -> list[Part]:
    paint, glass, tyre = any_colour(rng), rgb(60, 75, 90) * rng.uniform(0.6, 1.8), rgb(28, 28, 30)
    roof = rng.uniform(1.4, 1.7)
    return [
        Part(box(-2.1, 0.35, 2.1, 0.95), paint),
        Part(polygon((-1.7, 0.9), (-1.2, roof), (0.7, roof), (1.3, 0.9)), paint),
        Part(polygon((-1.45, 0.95), (-1.1, roof - 0.1), (-0.3, roof - 0.1), (-0.3, 0.95)), glass),
        Part(polygon((-0.2, 0.95), (-0.2, roof - 0.1), (0.6, roof - 0.1), (1.05, 0.95)), glass),
        Part(box(1.9, 0.6, 2.1, 0.8), rgb(250, 240, 190)),
        Part(box(-2.1, 0.6, -1.95, 0.85), rgb(190, 30, 30)),
        *(Part(ellipse(x, 0.36, 0.38, 0.38), tyre) for x in (-1.3, 1.3)),
        *(Part(ellipse(x, 0.36, 0.18, 0.18), rgb(150, 150, 155)) for x in (-1.3, 1.3)),
    ]


def bus(rng: Random) -> list[Part]:
    paint, glass = any_colour(rng), rgb(60, 75, 90) * rng.uniform(0.6, 1.8)
    half = rng.uniform(3.2, 4.2)
    windows = np.linspace(-half + 0.25, half - 0.95, 6)
    return [
        Part(box(-half, 0.35, half, 3.0), paint),
        Part(box(-half, 0.9, half, 1.15), any_colour(rng)),
        *(Part(box(x, 1.6, x + 0.85 * (windows[1] - windows[0]), 2.6), glass) for x in windows),
        *(Part(ellipse(x, 0.45, 0.48, 0.48), rgb(28, 28, 30)) for x in (1.2 - half, half - 1.2)),
        *(Part(ellipse(x, 0.45, 0.2, 0.2), rgb(150, 150, 155)) for x in (1.2 - half, half - 1.2)),
    ]


def person(rng: Random) -> list[Part]:
    top, trousers = any_colour(rng), any_colour(rng)
    skin = rgb(235, 195, 165) * rng.uniform(0.35, 1.0)
    stride, swing = rng.uniform(0.05, 0.4), rng.uniform(-0.3, 0.3)
    return [
        Part(bar(-0.05, 0.9, -stride, 0.0, 0.2), trousers),
        Part(bar(0.05, 0.9, stride, 0.0, 0.2), trousers),
        Part(bar(-0.2, 1.4, -0.32 - swing / 2, 0.85, 0.14), top * 0.85),
        Part(bar(0.2, 1.4, 0.32 - swing / 2, 0.85, 0.14), top * 0.85),
        Part(polygon((-0.25, 1.48), (0.25, 1.48), (0.2, 0.8), (-0.2, 0.8)), top),
        Part(ellipse(0, 1.66, 0.15, 0.19), skin),
        Part(ellipse(0, 1.72, 0.17, 0.16, 0, 180), any_colour(rng) * 0.5),
    ]


def traffic_sign(rng: Random) -> list[Part]:
    plate, rim = any_colour(rng), any_colour(rng)
    shapes: tuple[Callable[[float], NDArray[np.float64]], ...] = (
        lambda r: ellipse(0, 2.3, r, r),
        lambda r: polygon(
            (-1.15 * r, 2.3 - 0.7 * r), (1.15 * r, 2.3 - 0.7 * r), (0, 2.3 + 1.2 * r)
        ),
        lambda r: polygon((0, 2.3 - 1.2 * r), (1.2 * r, 2.3), (0, 2.3 + 1.2 * r), (-1.2 * r, 2.3)),
        lambda r: box(-0.9 * r, 2.3 - 0.9 * r, 0.9 * r, 2.3 + 0.9 * r),
    )
    shape = shapes[rng.integers(len(shapes))]
    return [
        Part(box(-0.06, 0, 0.06, 2.0), rgb(140, 140, 145) * rng.uniform(0.5, 1.3)),
        Part(shape(0.55), rim),
        Part(shape(0.42), plate),
        Part(box(-0.22, 2.22, 0.22, 2.36), rim * 0.6),
    ]


def tree(rng: Random) -> list[Part]:
    season = [rgb(60, 110, 45), rgb(95, 120, 50), rgb(185, 120, 40), rgb(150, 60, 40)]
    leaf = season[rng.integers(len(season))] * rng.uniform(0.6, 1.2)
    height, wide = rng.uniform(3.2, 5.5), rng.uniform(1.0, 1.9)
    crowns = [
        Part(
            ellipse(
                rng.uniform(-0.6, 0.6) * wide,
                height - wide + rng.uniform(-0.7, 0.6) * wide,
                wide * rng.uniform(0.6, 0.9),
                wide * rng.uniform(0.6, 0.9),
            ),
            leaf * rng.uniform(0.8, 1.15),
            grain=16,
            patches=14,
        )
        for _ in range(6)
    ]
    trunk = rgb(100, 75, 55) * rng.uniform(0.4, 1.2)
    fork = height - wide
    return [
        Part(polygon((-0.22, 0), (0.22, 0), (0.13, fork), (-0.13, fork)), trunk),
        *crowns,
    ]


def fence(rng: Random) -> list[Part]:
    paint, half = any_colour(rng), rng.uniform(2.0, 5.0)
    posts = np.arange(-half, half + 0.01, 0.42)
    return [
        *(Part(box(-half, y, half, y + 0.15), paint * 0.9) for y in (0.3, 0.85)),
        *(
            Part(polygon((x, 0), (x + 0.26, 0), (x + 0.26, 1.1), (x + 0.13, 1.3), (x, 1.1)), paint)
            for x in posts
        ),
    ]


def traffic_cone(rng: Random) -> list[Part]:
    paints = [rgb(240, 110, 30), rgb(225, 200, 50), rgb(200, 45, 40), any_colour(rng)]
    paint, band = paints[rng.integers(len(paints))], rgb(235, 235, 230) * rng.uniform(0.7, 1.0)
    height = rng.uniform(1.2, 1.5)

    def slice_of(low: float, high: float) -> NDArray[np.float64]:
        below, above = (0.40 - 0.33 * y / height for y in (low, high))
        return polygon((-below, low), (below, low), (above, high), (-above, high))

    return [
        Part(polygon((-0.56, 0), (0.56, 0), (0.48, 0.14), (-0.48, 0.14)), paint * 0.7),
        Part(slice_of(0.12, height), paint),
        Part(slice_of(0.35, 0.58), band),
        Part(slice_of(0.8, 0.98), band),
    ]


def stroller(rng: Random) -> list[Part]:
    cloth, frame = any_colour(rng), rgb(120, 120, 125) * rng.uniform(0.3, 1.4)
    return [
        Part(bar(-0.55, 0.2, 0.45, 0.75, 0.08), frame),
        Part(bar(0.5, 0.2, -0.4, 0.75, 0.08), frame),
        Part(bar(-0.35, 0.6, -0.85, 1.25, 0.08), frame),
        Part(bar(-0.95, 1.25, -0.7, 1.25, 0.1), rgb(30, 30, 30)),
        Part(polygon((-0.55, 0.8), (0.6, 0.8), (0.4, 0.42), (-0.35, 0.42)), cloth),
        Part(ellipse(0.05, 0.8, 0.58, 0.62, 0, 110), cloth * 0.8),
        Part(bar(0.05, 0.8, 0.45, 1.2, 0.05), cloth * 0.5),
        *(Part(ellipse(x, 0.2, 0.22, 0.22), rgb(28, 28, 30)) for x in (-0.5, 0.5)),
        *(Part(ellipse(x, 0.2, 0.12, 0.12), rgb(170, 170, 175)) for x in (-0.5, 0.5)),
    ]


def dog(rng: Random) -> list[Part]:
    coats = [
        rgb(110, 70, 40),
        rgb(35, 32, 32),
        rgb(215, 205, 190),
        rgb(130, 125, 120),
        rgb(190, 140, 80),
    ]
    coat = coats[rng.integers(len(coats))] * rng.uniform(0.8, 1.15)
    step, up = rng.uniform(0.0, 0.12), rng.uniform(0.2, 0.5)
    return [
        *(
            Part(bar(x, 0.5, x + s, 0.0, 0.14), coat * 0.85)
            for x, s in ((-0.5, step), (-0.34, -step), (0.3, step), (0.46, -step))
        ),
        Part(bar(-0.55, 0.72, -0.9, 0.72 + up, 0.1), coat),
        Part(ellipse(0, 0.62, 0.64, 0.24), coat, grain=9),
        Part(bar(0.4, 0.65, 0.68, 1.02, 0.26), coat),
        Part(ellipse(0.74, 1.05, 0.24, 0.19), coat, grain=9),
        Part(ellipse(0.98, 0.98, 0.15, 0.1), coat * 0.9),
        Part(ellipse(1.1, 1.0, 0.05, 0.05), rgb(15, 15, 15)),
        Part(polygon((0.55, 1.15), (0.72, 1.18), (0.5, 0.85)), coat * 0.6),
        Part(ellipse(0.8, 1.1, 0.035, 0.035), rgb(15, 15, 15)),
    ]


THINGS: dict[str, Callable[[Random], list[Part]]] = {
    "tree": tree,
    "fence": fence,
    "car": car,
    "bus": bus,
    "person": person,
    "traffic sign": traffic_sign,
    "traffic cone": traffic_cone,
    "stroller": stroller,
    "dog": dog,
}
