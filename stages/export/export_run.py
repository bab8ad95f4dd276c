"""Writes a trained student as one file, tried against PyTorch before it counts as done.

Legend: C classes, D CLIP width.
"""

import shutil
from copy import deepcopy
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from zsseg.stages.cache.disk.disk_errors import disk_errors
from zsseg.stages.errors import UserError
from zsseg.stages.evaluate.asked_names import AskedNames
from zsseg.stages.evaluate.colours import name_colours
from zsseg.stages.evaluate.confidence_measure import Measure
from zsseg.stages.evaluate.trained_run import TrainedRun
from zsseg.stages.export.needed_packages import check_packages
from zsseg.stages.export.real_images import Images, images_for
from zsseg.stages.printable import first_line

if TYPE_CHECKING:
    from zsseg.stages.export.agreement import Agreement

Precision = Literal["fp32", "fp16", "int8"]

LEAST_EQUAL: dict[Precision, float] = {"fp32": 0.999, "fp16": 0.99, "int8": 0.9}
"""Least share of pixels with PyTorch's label, by precision; an export below it is not kept."""
MOST_APART = 1e-3
"""Of scores in fp32, cosines."""

_TRIED, _CALIBRATED = 4, 32
SCRIPT = "run.py"


@dataclass(frozen=True)
class ExportOptions:
    """How a student is exported."""

    precision: Precision = "fp32"
    scores: bool = False
    """Is there an output of scores, beside labels and confidence?"""
    measure: Measure = "margin"
    """What the confidence is."""
    images: Path | None = None
    """Folder of images to try it on, and to calibrate 8-bit numbers with; None: of the run's data
    set."""
    force: bool = False
    """Replace what is there?"""


@dataclass(frozen=True)
class Exported:
    """A file that was written, and how it was tried."""

    path: Path
    script: Path
    size: int
    """Bytes of the file."""
    images: str
    """In words: which images it was tried on."""
    agreement: "Agreement"


def export_run(
    run: TrainedRun,
    out: Path,
    *,
    fixed: AskedNames | None = None,
    options: ExportOptions | None = None,
) -> Exported:
    """Write a run's student as ONNX to `out`, and a script that runs it beside it (`run.py`).

    Names and their embeddings are an input of the file, unless they are `fixed`. The file is run by
    onnxruntime beside PyTorch before it takes its name. Raises UserError where something is there
    already, for a student that cannot be exported, and where the two do not agree; ResourceError
    where `out` cannot be written. Then nothing of it remains.
    """
    options = options or ExportOptions()
    check_packages()
    script = out.with_name(SCRIPT)
    _check_place(run, out, script, force=options.force)
    run = _on_cpu(run)
    # Found before anything takes time.
    images = images_for(run, options.images, _TRIED)
    with disk_errors(out.parent, out.name):
        folder = out.with_name(f".{out.name}.partial")
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        try:
            made = folder / out.name
            found = _make(run, made, fixed, options, images)
            (folder / SCRIPT).write_bytes(
                resources.files("zsseg.stages.export").joinpath("standalone.py").read_bytes()
            )
            size = made.stat().st_size
            (folder / SCRIPT).replace(script)
            made.replace(out)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
    return Exported(out, script, size, images.source, found)


def _check_place(run: TrainedRun, out: Path, script: Path, *, force: bool) -> None:
    if out.is_dir() or out.suffix != ".onnx":
        raise UserError(f"{out}: give --out the name of a new file that ends in .onnx")
    if out.parent.resolve() == run.path.resolve():
        raise UserError(f"{out}: is in the run's own folder. Give --out another one")
    for path in (out, script):
        if path.exists() and not force:
            raise UserError(f"{path}: is there already. Give another --out, or add --force")


def _on_cpu(run: TrainedRun) -> TrainedRun:
    """A copy of the run as its file will be tried: on the CPU, in evaluation mode, no gradients."""
    student = deepcopy(run.student).to("cpu").eval().requires_grad_(False)
    return replace(run, student=student, text_CD=run.text_CD.cpu())


def _make(
    run: TrainedRun,
    path: Path,
    fixed: AskedNames | None,
    options: ExportOptions,
    images: Images,
) -> "Agreement":
    """Write the file and try it. Raises UserError where it does not agree with the run."""
    # Inside: they import onnx and onnxruntime, which not every installation has.
    from zsseg.stages.export.agreement import agreement
    from zsseg.stages.export.metadata import add_metadata
    from zsseg.stages.export.network_graph import network_graph
    from zsseg.stages.export.small_numbers import half_network, quantised_network
    from zsseg.stages.export.student_graph import GraphForm, save_model, student_graph

    palette = name_colours(run.names, run.spec)
    asked = fixed or AskedNames(run.names, (), run.text_CD, palette, run.spec.seen_ids)
    network = network_graph(run.student)
    if options.precision == "fp16":
        network = half_network(network)
    elif options.precision == "int8":
        many = images_for(run, options.images, _CALIBRATED)
        if not many.real:
            raise UserError(
                "8-bit numbers are calibrated on real images, and the run's data set is not at "
                f"{run.record.root}. Give a folder of images with --images"
            )
        network = quantised_network(network, run, many.arrays, path.parent)
    form = GraphForm(
        measure=options.measure,
        scores=options.scores,
        text=None if fixed is None else fixed.text_KD.cpu().numpy(),
        background=len(asked.background),
    )
    model = student_graph(run, network, form)
    more = {"fixed": fixed is not None, "precision": options.precision}
    add_metadata(model, run, asked, more | {"confidence": options.measure})
    save_model(model, path)
    first_HW3 = images.arrays[0]
    rows, columns = (max(1, 2 * side // 3) for side in first_HW3.shape[:2])
    # A part of one too: a network may be right at one size only.
    tried = [*images.arrays, first_HW3[:rows, :columns]]
    try:
        found = agreement(path, run, asked, tried)
    except (UserError, MemoryError):
        raise
    except Exception as error:  # of onnxruntime, whose errors share no class
        raise UserError(
            "onnxruntime does not run the exported file at every size of image "
            f"({first_line(error)[-160:]}): a layer of this student is written for one. "
            "Nothing is kept. Export one of another architecture"
        ) from error
    _check_agreement(found, options.precision, images)
    return found


def _check_agreement(found: "Agreement", precision: Precision, images: Images) -> None:
    least = LEAST_EQUAL[precision]
    apart = found.score_difference or 0.0
    if found.labels < least or (precision == "fp32" and apart > MOST_APART):
        raise UserError(
            f"onnxruntime and PyTorch agree on {found.labels:.2%} of the pixels of {images.source} "
            f"(scores differ by up to {apart:.1e}); an export in {precision} needs {least:.1%}. "
            "Nothing is kept. Export in another precision, or with other --images"
        )
