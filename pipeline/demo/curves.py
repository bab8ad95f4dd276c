"""Line charts as SVG text."""

import math
from collections.abc import Mapping, Sequence
from html import escape

_WIDTH, _HEIGHT = 440, 230
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 12, 34, 30
_INKS = ("#5b6b7f", "#d9480f", "#1864ab", "#2b8a3e")

Points = Sequence[tuple[float, float]]
"""(step, value) pairs, in order of the steps."""


def curves(title: str, series: Mapping[str, Points]) -> str:
    """An `<svg>` of named curves over training steps, y from 0; '' if there is no point."""
    points = [point for each in series.values() for point in each]
    if not points:
        return ""
    last = max(x for x, _ in points)
    ticks = _ticks(max(y for _, y in points))

    def place(x: float, y: float) -> tuple[float, float]:
        across = x / last * (_WIDTH - _LEFT - _RIGHT)
        up = y / ticks[-1] * (_HEIGHT - _TOP - _BOTTOM)
        return _LEFT + across, _HEIGHT - _BOTTOM - up

    lines = [
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{escape(title)}">',
        f'<text x="{_LEFT}" y="14" class="title">{escape(title)}</text>',
    ]
    for value in ticks:
        y = place(0, value)[1]
        lines.append(f'<line x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        lines.append(f'<text x="{_LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{value:g}</text>')
    bottom = _HEIGHT - 10
    lines.append(f'<text x="{_LEFT}" y="{bottom}">0</text>')
    lines.append(f'<text x="{_WIDTH - _RIGHT}" y="{bottom}" text-anchor="end">step {last:g}</text>')
    for number, (name, each) in enumerate(series.items()):
        ink = _INKS[number % len(_INKS)]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in (place(*point) for point in each))
        lines.append(f'<polyline points="{path}" style="stroke:{ink}"/>')
        x = _LEFT + number * 110
        lines.append(f'<text x="{x}" y="28" style="fill:{ink}">{escape(name)}</text>')
    return "\n".join([*lines, "</svg>"])


def _ticks(highest: float) -> list[float]:
    """Round numbers from 0 to the first at or above `highest`, two to six of them."""
    if highest <= 0:
        return [0.0, 1.0]
    unit = 10.0 ** math.floor(math.log10(highest))
    step = next(unit * part for part in (0.2, 0.5, 1, 2) if highest / (unit * part) <= 5)
    return [round(step * number, 10) for number in range(math.ceil(highest / step - 1e-9) + 1)]
