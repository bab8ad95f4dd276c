"""Forecasts as text, for `zsseg precompute --dry-run` and `zsseg cache why`."""

from collections.abc import Mapping

from zsseg.pipeline import console
from zsseg.stages.precompute.forecast import ArtifactForecast, DenseForecast, Forecast
from zsseg.stages.precompute.teacher.dense_passes import DensePass
from zsseg.stages.printable import counted

_NEEDS_UPDATE = ("needs --update",)


def print_forecast(found: Forecast) -> None:
    """Print what would run and why, artifact by artifact, and what it would cost."""
    console.out.print(*forecast_lines(found), sep="\n", soft_wrap=True)


def forecast_lines(found: Forecast) -> list[str]:
    """The lines of a forecast."""
    lines = [f"{found.path}: {counted(found.images, 'image')}"]
    if found.refused:
        why, *differing = found.refused
        return [*lines, f"this would be refused: {why}", *(f"  {line}" for line in differing)]
    if not found.artifacts:
        lines.append("nothing to do: every artifact of every image is there")
        return [*lines, *_NEEDS_UPDATE] if found.update else lines
    for each in found.artifacts:
        lines += [_artifact_line(each), *(f"  {text}" for text in _reasons(each))]
    if found.dense is not None:
        lines.append(_dense_line(found.dense))
    free = "" if found.free is None else f" of {console.size_text(found.free)} free"
    lines.append(f"writes {console.size_text(found.bytes)}{free}")
    if found.free is not None and found.bytes > found.free:
        lines.append("too little disk: this would be refused")
    if found.memory:
        lines.append(_memory_line(found.memory))
    if found.seconds is not None:
        lines.append(
            f"takes about {duration_text(found.seconds)} in one process (measured on a few)"
        )
    if found.update:
        lines += _NEEDS_UPDATE
    return lines


def _artifact_line(forecast: ArtifactForecast) -> str:
    what = "classes" if forecast.artifact == "text" else "images"
    copied = f", {forecast.copied} copied" if forecast.copied else ""
    return f"{forecast.artifact}: {forecast.rows} {what}{copied}"


def _memory_line(memory: Mapping[str, int]) -> str:
    parts = ", ".join(f"{console.size_text(size)} {what}" for what, size in memory.items() if size)
    total = console.size_text(sum(memory.values()))
    return f"memory: at most {total} in each process ({parts})"


def _dense_line(dense: DenseForecast) -> str:
    """Passes per image, with their sizes and windows, and what they cost."""
    rows, columns = dense.grid
    return (
        f"dense tokens of an image: {_passes_text(dense)}, "
        f"{dense.seconds:.2f} s, stored on {rows} x {columns} in {console.size_text(dense.bytes)}"
    )


def _passes_text(dense: DenseForecast) -> str:
    if not dense.passes:
        return "read from its file"
    seen = ", ".join(_pass_text(each) for each in dense.passes)
    mirrored = ", each also mirrored" if dense.flip else ""
    return f"{counted(dense.forwards, 'pass', 'passes')} ({seen}{mirrored})"


def _pass_text(seen: DensePass) -> str:
    height, width = seen.size
    whole = f"{height} x {width}"
    if seen.windows == 1:
        return whole
    return f"{whole} in {seen.windows} windows of {seen.window[0]} x {seen.window[1]}"


def _reasons(forecast: ArtifactForecast) -> list[str]:
    reasons = [(reason, rows) for reason, rows in forecast.why.items() if rows]
    if len(reasons) == 1:
        return [reasons[0][0]]
    return [f"{rows}: {reason}" for reason, rows in reasons]


def duration_text(seconds: float) -> str:
    """Seconds as text, such as 12 min."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 90 * 60:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"
