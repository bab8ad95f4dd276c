"""Draws street scenes: image, label map, and boxes of the things.

Scene number i of a seed is always the same. Legend: H W pixels.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from zsseg.stages.data.spec import VOID
from zsseg.stages.demo.canvas import Canvas, Colour
from zsseg.stages.demo.things import THINGS, Part, Random, any_colour, box, rgb

SIZE = (128, 192)
"""Height and width of a scene in pixels."""

CLASSES = ("sky", "building", "road", "pavement", "grass", *THINGS)
"""Names of all classes; a label is the position in here, or VOID."""

_PLACES = (
    (("tree",), (0.12, 0.4), (0, 3)),
    (("fence",), (0.25, 0.65), (0, 1)),
    (("bus",), (0.25, 0.5), (0, 1)),
    (("car",), (0.3, 0.85), (0, 2)),
    (("person", "traffic sign"), (0.4, 0.98), (0, 3)),
    (("traffic cone", "stroller", "dog"), (0.5, 0.98), (1, 3)),
)
"""For each group of names: their range of distance, as shares of the way from the horizon to the
lower edge, and the least and greatest number of them."""

_LARGER = {"traffic cone": 1.25, "stroller": 1.25, "dog": 1.3}
"""Enlargement of small things: CLIP cannot recognise what is smaller than a token."""


@dataclass(frozen=True)
class Placed:
    """A thing in a scene, and its box (x0, y0, x1, y1) in pixels.

    The box ends at the image's border, and includes parts that nearer things cover.
    """

    name: str
    box: tuple[float, float, float, float]


@dataclass(frozen=True)
class Scene:
    """A picture (H, W, 3) uint8, its label map (H, W) uint8, and the things in it, far to near."""

    image_HW3: NDArray[np.uint8]
    label_HW: NDArray[np.uint8]
    placed: tuple[Placed, ...]


def draw_scene(seed: int, index: int) -> Scene:
    """Scene `index` of a seed's endless street."""
    painter = _Painter(np.random.default_rng([seed, index]))
    painter.backdrop()
    painter.things()
    return painter.finished()


class _Painter:
    """Draws one scene."""

    def __init__(self, rng: Random) -> None:
        self.rng = rng
        self.canvas = Canvas(SIZE, rng)
        self.placed: list[Placed] = []
        self.horizon = rng.uniform(0.3, 0.48) * SIZE[0]
        self.camera = rng.uniform(1.7, 3.4)
        """Height of the camera in metres."""

    def pixels_per_metre(self, y: float) -> float:
        """Scale of what stands on the ground in row `y`."""
        return max(y - self.horizon, 0.0) / self.camera

    def paint(
        self, name: str, corners_N2: NDArray[np.float64], colour: Colour, **texture: float
    ) -> None:
        """Fill a polygon with one of the classes."""
        self.canvas.fill(corners_N2, colour, CLASSES.index(name), **texture)

    def backdrop(self) -> None:
        """Sky, buildings, ground, road and pavements."""
        rng, (height, width) = self.rng, SIZE
        skies = [rgb(120, 170, 225), rgb(175, 180, 188), rgb(225, 180, 150), rgb(90, 100, 130)]
        sky = skies[rng.integers(len(skies))] * rng.uniform(0.8, 1.15)
        self.paint(
            "sky",
            box(0, 0, width, self.horizon + 8),
            sky,
            grain=2,
            patches=4,
            shade=rng.uniform(-0.3, 0.2),
        )
        grounds = {"grass": rgb(95, 125, 60), "pavement": rgb(165, 158, 150)}
        ground = "grass" if rng.random() < 0.5 else "pavement"
        self._ground(ground, box(0, self.horizon, width, height), grounds[ground])
        self._buildings()
        if rng.random() < 0.5:
            self._street_across(grounds)
        else:
            self._street_ahead(grounds)

    def _ground(self, name: str, corners_N2: NDArray[np.float64], colour: Colour) -> None:
        rng = self.rng
        texture = {"grass": (13, 10), "pavement": (4, 5), "road": (6, 3)}[name]
        tint = colour * rng.uniform(0.6, 1.15) + rng.normal(0, 8, 3).astype(np.float32)
        self.paint(name, corners_N2, tint, grain=texture[0], patches=texture[1], shade=-0.1)
        if name == "pavement":
            self._slabs(corners_N2, tint * 0.72)

    def _slabs(self, corners_N2: NDArray[np.float64], joint: Colour) -> None:
        """Joints of paving, across the view, closer together with distance."""
        top, bottom = corners_N2[:, 1].min(), corners_N2[:, 1].max()
        metre = self.camera * 6
        while metre > 0.5:
            metre *= 0.86
            y = self.horizon + self.camera * 40 / (metre + 0.3)
            if top + 1 < y < min(bottom - 1, SIZE[0]):
                inside = _row_span(corners_N2, y)
                self.paint("pavement", box(inside[0], y, inside[1], y + 0.9), joint, grain=2)

    def _buildings(self) -> None:
        rng, x = self.rng, self.rng.uniform(-30, 0)
        while x < SIZE[1]:
            wide = rng.uniform(22, 70)
            if rng.random() < 0.8:
                top = self.horizon - rng.uniform(0.25, 1.15) * self.horizon
                self._building(x, top, x + wide, self.horizon + 5)
            x += wide + rng.uniform(-2, 10)

    def _building(self, x0: float, y0: float, x1: float, y1: float) -> None:
        rng = self.rng
        wall, glass = any_colour(rng) * 0.6 + 60, rgb(70, 85, 105) * rng.uniform(0.4, 2.2)
        self.paint("building", box(x0, y0, x1, y1), wall, grain=5, patches=4, shade=0.15)
        self.paint("building", box(x0 - 1, y0, x1 + 1, y0 + 2.5), wall * 0.6)
        across, down = rng.uniform(7, 12), rng.uniform(8, 13)
        wide, high = across * rng.uniform(0.4, 0.7), down * rng.uniform(0.45, 0.7)
        for y in np.arange(y0 + 5, y1 - high - 4, down):
            for x in np.arange(x0 + 3, x1 - wide - 1, across):
                self.paint("building", box(x, y, x + wide, y + high), glass, grain=3)

    def _street_across(self, grounds: dict[str, Colour]) -> None:
        """A road from left to right, its edges tilted a little."""
        rng, (height, width) = self.rng, SIZE
        far = self.horizon + rng.uniform(0.15, 0.35) * (height - self.horizon)
        near = far + rng.uniform(0.4, 0.75) * (height - self.horizon)
        tilt = rng.uniform(-8, 8)

        def strip(top: float, bottom: float) -> NDArray[np.float64]:
            return np.array([(0, top), (width, top + tilt), (width, bottom + tilt), (0, bottom)])

        kerb = rng.uniform(0.1, 0.3) * (near - far)
        self._ground("pavement", strip(far - kerb, near + 1.6 * kerb), grounds["pavement"])
        self._ground("road", strip(far, near), rgb(98, 98, 102))
        line, paint = (far + near) / 2, rgb(225, 222, 210) * rng.uniform(0.7, 1.0)
        for x in np.arange(rng.uniform(-20, 0), width, 34):
            y = line + tilt * x / width
            self.paint("road", box(x, y, x + 17, y + 2.2), paint)

    def _street_ahead(self, grounds: dict[str, Colour]) -> None:
        """A road that runs away from the camera."""
        rng, (height, width) = self.rng, SIZE
        vanish, bottom = rng.uniform(0.25, 0.75) * width, height
        left, right = vanish - rng.uniform(60, 150), vanish + rng.uniform(60, 150)
        kerb = rng.uniform(20, 70)

        def wedge(x0: float, x1: float) -> NDArray[np.float64]:
            top = self.horizon + 4
            return np.array([(vanish - 3, top), (vanish + 3, top), (x1, bottom), (x0, bottom)])

        self._ground("pavement", wedge(left - kerb, right + kerb), grounds["pavement"])
        self._ground("road", wedge(left, right), rgb(98, 98, 102))
        middle, paint = (left + right) / 2, rgb(225, 222, 210) * rng.uniform(0.7, 1.0)
        for start in (0.12, 0.3, 0.58):
            end = start * 1.5

            def at(share: float) -> tuple[float, float]:
                y = self.horizon + 4 + share * (bottom - self.horizon - 4)
                return vanish + share * (middle - vanish), y

            (xa, ya), (xb, yb) = at(start), at(end)
            self.paint(
                "road",
                np.array(
                    [
                        (xa - 3 * start, ya),
                        (xa + 3 * start, ya),
                        (xb + 3 * end, yb),
                        (xb - 3 * end, yb),
                    ]
                ),
                paint,
            )

    def things(self) -> None:
        """What stands on the ground, far things first, and sometimes the bonnet of our own car."""
        rng, (height, width) = self.rng, SIZE
        depth = height - self.horizon
        placed: list[tuple[float, str]] = []
        for names, (near, far), (fewest, most) in _PLACES:
            for _ in range(rng.integers(fewest, most + 1)):
                placed.append(
                    (self.horizon + rng.uniform(near, far) * depth, str(rng.choice(names)))
                )
        for y, name in sorted(placed):
            self.place(name, rng.uniform(0, width), y)
        if rng.random() < 0.2:
            low, wide = height - rng.uniform(6, 14), rng.uniform(60, 95)
            bonnet = np.array(
                [
                    (width / 2 - wide, height),
                    (width / 2 - wide * 0.7, low),
                    (width / 2 + wide * 0.7, low),
                    (width / 2 + wide, height),
                ]
            )
            self.canvas.fill(bonnet, any_colour(rng) * 0.5, VOID, grain=2)

    def place(self, name: str, x: float, y: float) -> None:
        """Put a thing with its feet at (x, y), at the scale of that row."""
        rng = self.rng
        scale = self.pixels_per_metre(y) * rng.uniform(0.85, 1.15) * _LARGER.get(name, 1.0)
        side = -1.0 if rng.random() < 0.5 else 1.0
        parts: list[Part] = THINGS[name](rng)
        corners = [part.corners_N2 * (side * scale, -scale) + (x, y) for part in parts]
        for part, corners_N2 in zip(parts, corners, strict=True):
            self.paint(name, corners_N2, part.colour, grain=part.grain, patches=part.patches)
        extent = np.concatenate(corners)
        height, width = SIZE
        x0, y0, x1, y1 = np.clip([*extent.min(0), *extent.max(0)], 0, (width, height) * 2)
        if x1 - x0 > 2 and y1 - y0 > 2:
            self.placed.append(Placed(name, (float(x0), float(y0), float(x1), float(y1))))

    def finished(self) -> Scene:
        """The scene with lighting: gain, colour cast, contrast, a gradient, sensor noise."""
        rng, (height, width) = self.rng, SIZE
        light_HW3 = self.canvas.image_HW3 / 255
        light_HW3 = np.clip(light_HW3, 0, 1) ** rng.uniform(0.7, 1.2)
        light_HW3 *= rng.uniform(0.7, 1.15) * (1 + rng.normal(0, 0.08, 3))
        light_HW3 *= np.linspace(1, 1 + rng.uniform(-0.3, 0.3), width)[None, :, None]
        haze = rng.uniform(0, 0.2)
        light_HW3 = light_HW3 * (1 - haze) + haze * rng.uniform(0.4, 0.8)
        light_HW3 += rng.normal(0, rng.uniform(0.005, 0.02), (height, width, 3))
        image_HW3 = np.rint(np.clip(light_HW3, 0, 1) * 255).astype(np.uint8)
        return Scene(image_HW3, self.canvas.label_HW, tuple(self.placed))


def _row_span(corners_N2: NDArray[np.float64], y: float) -> tuple[float, float]:
    """Left and right end of a convex polygon in row `y`."""
    crossings = []
    for (xa, ya), (xb, yb) in zip(corners_N2, np.roll(corners_N2, -1, axis=0), strict=True):
        if min(ya, yb) <= y <= max(ya, yb) and ya != yb:
            crossings.append(xa + (xb - xa) * (y - ya) / (yb - ya))
    return min(crossings), max(crossings)
