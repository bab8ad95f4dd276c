"""Does stage one stay small and quick for many images? `python -m benchmarks.run --only scale`.

Images of 16 x 16 pixels and a tiny random CLIP, so that what counts is what is done per image
beside the teacher. Linux only: peaks are VmHWM of /proc, which begins anew with each program;
`ru_maxrss` of a child begins with its parent's.
"""

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil

from benchmarks.ratio import Ratio, timed
from zsseg.stages.data.images import write_png
from zsseg.stages.data.spec import load_spec
from zsseg.stages.precompute.plan.request import PrecomputeRequest
from zsseg.stages.precompute.precompute_config import (
    DenseConfig,
    PrecomputeConfig,
    RegionConfig,
    TextConfig,
)
from zsseg.stages.precompute.progress import Progress
from zsseg.stages.precompute.run import precompute

_CONFIG = PrecomputeConfig(
    text=TextConfig(templates="single"),
    dense=DenseConfig(size=(16, 16)),
    regions=RegionConfig(windows=(2,), minimum_tokens=1, backend="sklearn"),
    batch=64,
)
"""The device is the default, `auto`: the client loads torch to count the GPUs for its workers."""
_TEACHER = {
    "model_cfg": {
        "embed_dim": 16,
        "vision_cfg": {
            "image_size": 16,
            "layers": 1,
            "width": 16,
            "patch_size": 8,
            "head_width": 16,
        },
        "text_cfg": {
            "context_length": 77,
            "vocab_size": 49408,
            "width": 16,
            "heads": 1,
            "layers": 1,
        },
    },
    "preprocess_cfg": {"mean": [0.5, 0.5, 0.5], "std": [0.25, 0.25, 0.25]},
}


DIFFERENT = 64
"""Pictures that differ; the others repeat them."""


@dataclass(frozen=True)
class Peaks:
    """Bytes of resident memory that a run took at most."""

    client: int
    worker: int


def write_world(folder: Path, images: int) -> None:
    """A data set of the `folder` layout: halves of two classes, one of them unlabelled."""
    rng = np.random.default_rng(0)
    for kind in ("images", "labels"):
        (folder / kind / "train").mkdir(parents=True)
    label_HW = np.zeros((16, 16), np.uint8)
    label_HW[:, 8:] = 1
    write_png(folder / "label.png", label_HW)
    label = (folder / "label.png").read_bytes()
    # Images repeat, their files do not: what is kept per file is what is measured.
    pictures = []
    for _ in range(DIFFERENT):
        write_png(folder / "image.png", rng.integers(0, 256, (16, 16, 3), dtype=np.uint8))
        pictures.append((folder / "image.png").read_bytes())
    for number in range(images):
        (folder / "labels" / "train" / f"{number:06d}.png").write_bytes(label)
        (folder / "images" / "train" / f"{number:06d}.png").write_bytes(
            pictures[number % DIFFERENT]
        )
    (folder / "world.yaml").write_text(
        "name: many\nlayout: folder\nclasses: [left, right]\nunseen: [right]\nignore: [255]\n"
        'patterns: {images: "images/{split}", labels: "labels/{split}"}\n'
    )


def write_teacher(folder: Path) -> None:
    """A CLIP of one layer with random weights, in a process of its own: it loads torch."""
    folder.mkdir()
    (folder / "open_clip_config.json").write_text(json.dumps(_TEACHER))
    script = (
        "import sys, logging, open_clip, torch; from safetensors.torch import save_file\n"
        "logging.getLogger().setLevel(logging.ERROR); torch.manual_seed(0)\n"
        "made = open_clip.create_model('local-dir:' + sys.argv[1], load_weights=False)\n"
        "save_file(made.state_dict(), sys.argv[1] + '/open_clip_model.safetensors')\n"
    )
    subprocess.run([sys.executable, "-c", script, str(folder)], check=True)


def run(folder: Path, images: int, *, device: str = "auto") -> Peaks:
    """Precompute the first images on one worker process, and note the peaks of both."""
    worker, seen = 0, 0.0

    def look(now: Progress) -> None:
        nonlocal worker, seen
        if time.monotonic() - seen < 0.5 and now.done < now.total:
            return
        seen = time.monotonic()
        for child in psutil.Process().children(recursive=True):
            with suppress(psutil.Error, OSError):  # it may end meanwhile
                if "spawn_main" in " ".join(child.cmdline()):
                    worker = max(worker, peak(child.pid))

    config = _CONFIG.model_copy(update={"device": device})
    stage_one(folder, images, progress=look, workers=1, config=config)
    return Peaks(client=peak("self"), worker=worker)


def stage_one(
    folder: Path,
    images: int,
    *,
    config: PrecomputeConfig = _CONFIG,
    progress: Callable[[Progress], None] = lambda _: None,
    workers: int | None = None,
) -> dict[str, int]:
    """Rows that were computed."""
    request = PrecomputeRequest(
        spec=load_spec(str(folder / "world.yaml")),
        root=folder,
        split="train",
        teacher=f"local-dir:{folder / 'clip'}",
        cache=folder / f"cache-{images}",
        config=config,
        limit=images,
    )
    return precompute(request, update=False, progress=progress, workers=workers).written


def peak(process: int | str) -> int:
    """Bytes: VmHWM of a process."""
    for line in Path(f"/proc/{process}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return 1024 * int(line.split()[1])
    raise AssertionError(f"/proc/{process}/status has no VmHWM")


def recognise(folder: Path, images: int) -> None:
    """Find a store complete; torch stays unloaded."""
    written = stage_one(folder, images)
    assert not written, written
    assert "torch" not in sys.modules


def many_images(*, quick: bool) -> list[Ratio]:
    """Peak memory for ten times as many images / for few, of client and worker; and a re-run.

    The re-run's seconds stand beside the 3 that it may take.
    """
    few, many = (200, 2_000) if quick else (2_000, 20_000)
    with tempfile.TemporaryDirectory(prefix="zsseg-bench-") as name:
        folder = Path(name)
        write_teacher(folder / "clip")
        write_world(folder / "few", few)
        write_world(folder / "many", many)
        found = {}
        for images, world in ((few, folder / "few"), (many, folder / "many")):
            (world / "clip").symlink_to(folder / "clip")
            found[images] = Peaks(**json.loads(_done("run", world, images)))
        again = [timed(lambda: _done("recognise", folder / "many", many)) for _ in range(3)]
    at_most = "within 10 %"
    return [
        Ratio(
            f"peak memory of the {who}, {many} images / {few} images",
            (getattr(found[many], who) / 2**20,),
            (getattr(found[few], who) / 2**20,),
            unit="MiB",
            target=at_most,
        )
        for who in ("client", "worker")
    ] + [
        Ratio(
            f"a finished store of {many} images found complete, the whole process / 3 s",
            tuple(again),
            (3.0,) * len(again),
            target="below 1",
        )
    ]


def _done(what: str, folder: Path, images: int) -> str:
    """What a process of its own prints."""
    command = [sys.executable, "-m", "benchmarks.scale", what, str(folder), str(images)]
    return subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout


MEASURES = (many_images,)


def main(words: Sequence[str]) -> None:
    """Do one thing in this process."""
    match words:
        case "run", folder, images, *device:
            peaks = run(Path(folder), int(images), device="".join(device) or "auto")
            sys.stdout.write(json.dumps(vars(peaks)))
        case "recognise", folder, images:
            recognise(Path(folder), int(images))
        case _:
            raise SystemExit("run FOLDER IMAGES [DEVICE], or recognise FOLDER IMAGES")


if __name__ == "__main__":
    main(sys.argv[1:])
