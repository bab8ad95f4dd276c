"""The page `check.html`: what `zsseg init` made of a folder, for a person to look at.

Legend: H W pixels of a picture.
"""

import base64
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from zsseg.pipeline.html_page import render_page
from zsseg.pipeline.tables import percent
from zsseg.stages.cache.disk.durable import write_durably
from zsseg.stages.data.class_names import names_of
from zsseg.stages.data.images import jpeg_bytes, read_image, resize_image
from zsseg.stages.data.labels import read_label
from zsseg.stages.data.samples import Sample
from zsseg.stages.data.spec import VOID, DatasetSpec
from zsseg.stages.data.splits import list_samples
from zsseg.stages.errors import DatasetError
from zsseg.stages.evaluate.colours import name_colours
from zsseg.stages.evaluate.overlay import overlay
from zsseg.stages.importing.import_folder import ImportedFolder
from zsseg.stages.printable import counted

SHOWN = 8
"""Images on the page. [ours]"""

_WIDTH = 640  # pixels of a picture at most
_LISTED = 20  # files that are left out, named on the page
_RARE = 0.001  # share of the labelled pixels below which a class is doubtful [ours]


@dataclass(frozen=True)
class CheckText:
    """What the page says of the files around it."""

    description: Path
    source: Path


def write_check(
    page: Path, imported: ImportedFolder, spec: DatasetSpec, root: Path, text: CheckText
) -> None:
    """Write the page. `spec` and `root`: the data set as its description has it."""
    colours = name_colours(spec.classes, spec)
    samples = [s for split in imported.splits for s in list_samples(spec, root, split)]
    values = {
        "title": f"{spec.name}: what was found in {text.source.name or text.source}",
        "about": summary(imported),
        "doubts": [*imported.doubts, *_class_doubts(imported)],
        "problems": [f"{each.path}: {each.reason}" for each in imported.problems[:_LISTED]],
        "more": max(0, len(imported.problems) - _LISTED),
        "rows": _rows(imported, colours),
        "labelled": imported.form is not None,
        "void": percent(_void_share(imported)),
        "cards": [_card(spec, sample, colours) for sample in _chosen(samples)],
        "commands": next_commands(text.description),
    }
    write_durably(page, render_page("zsseg.pipeline.init", "check.html", values))


def summary(imported: ImportedFolder) -> list[str]:
    """What was found, one sentence each."""
    images = sum(count for count, _ in imported.splits.values())
    labelled = sum(count for _, count in imported.splits.values())
    if imported.form is None:
        lines = [f"{counted(images, 'image')}, no labels: all classes are unseen."]
    else:
        lines = [f"{counted(images, 'image')}, {labelled:,} with a label ({imported.form})."]
        seen = [name for name in imported.names.classes if name not in imported.names.unseen]
        lines.append(f"Classes with labels: {', '.join(seen)}.")
    if imported.form and imported.names.unseen:
        lines.append(f"Unseen, known by name only: {', '.join(imported.names.unseen)}.")
    splits = ", ".join(f"{name} {count:,}" for name, (count, _) in imported.splits.items())
    how = "as the folders say" if imported.from_folders else "by chance"
    lines.append(f"Divided {how}: {splits}.")
    return lines


def next_commands(description: Path) -> list[str]:
    """What a person does next."""
    name = shlex.quote(str(description))
    return [f"zsseg preview {name}", f"zsseg run {name}"]


def _class_doubts(imported: ImportedFolder) -> list[str]:
    total = int(imported.pixels.sum())
    if not total:
        return []
    doubts = []
    rare = [
        name
        for name, count in zip(imported.names.classes, imported.pixels.tolist(), strict=False)
        if 0 < count < _RARE * total
    ]
    if rare:
        doubts.append(f"Hardly a pixel (below 0.1 %) is labelled as {', '.join(rare)}.")
    if (share := _void_share(imported)) > 0.5:
        doubts.append(
            f"{percent(share)} % of the labelled pixels have no class. Is a class among the values "
            "that are ignored, or were only some things annotated?"
        )
    return doubts


def _void_share(imported: ImportedFolder) -> float:
    return float(imported.pixels[-1] / max(int(imported.pixels.sum()), 1))


def _rows(imported: ImportedFolder, colours: NDArray[np.uint8]) -> list[dict[str, object]]:
    total = max(int(imported.pixels.sum()), 1)
    largest = max(int(imported.pixels[:-1].max()), 1)
    return [
        {
            "colour": _hex(colours, index),
            "name": " / ".join(names_of(name)),
            "unseen": name in imported.names.unseen,
            "share": percent(count / total),
            "bar": f"{100 * count / largest:.1f}",
            "pixels": f"{count:,}",
        }
        for index, (name, count) in enumerate(
            zip(imported.names.classes, imported.pixels[:-1].tolist(), strict=True)
        )
    ]


def _chosen(samples: Sequence[Sample]) -> list[Sample]:
    """A few images spread over all, those with a label first."""
    labelled = [each for each in samples if each.label]
    others = [each for each in samples if not each.label]
    shown = _spread(labelled, SHOWN)
    return [*shown, *_spread(others, min(SHOWN - len(shown), 2 if shown else SHOWN))]


def _spread(samples: Sequence[Sample], count: int) -> list[Sample]:
    if count <= 0 or not samples:
        return []
    places = np.linspace(0, len(samples) - 1, min(count, len(samples))).round().astype(int)
    return [samples[place] for place in places.tolist()]


def _card(spec: DatasetSpec, sample: Sample, colours: NDArray[np.uint8]) -> dict[str, object]:
    card: dict[str, object] = {"id": sample.id, "overlay": "", "names": [], "fault": ""}
    image_HW3 = read_image(sample.image)
    height, width = image_HW3.shape[:2]
    scale = min(1.0, _WIDTH / width)
    size = (max(1, round(height * scale)), max(1, round(width * scale)))
    small_HW3 = resize_image(image_HW3, size)
    card["picture"] = _data(small_HW3)
    if sample.label is None:
        return card
    try:
        label_HW = read_label(spec, sample)
    except DatasetError as error:
        return card | {"fault": str(error)}
    rows = (np.arange(size[0]) * height) // size[0]
    columns = (np.arange(size[1]) * width) // size[1]
    card["overlay"] = _data(overlay(small_HW3, label_HW[np.ix_(rows, columns)], colours))
    counts = np.bincount(label_HW.ravel(), minlength=VOID + 1)
    order = [c for c in np.argsort(-counts[:VOID]).tolist() if counts[c]]
    card["names"] = [
        {
            "colour": _hex(colours, index),
            "name": " / ".join(names_of(spec.classes[index])),
            "share": percent(counts[index] / counts.sum()),
        }
        for index in order
    ]
    card["void"] = percent(counts[VOID] / counts.sum())
    return card


def _hex(colours: NDArray[np.uint8], index: int) -> str:
    return "#{:02x}{:02x}{:02x}".format(*colours[index])


def _data(image_HW3: NDArray[np.uint8]) -> str:
    return f"data:image/jpeg;base64,{base64.b64encode(jpeg_bytes(image_HW3)).decode()}"
