"""What stage one costs besides the teacher: `python -m benchmarks.run --only stage_one`.

ViT-B/16 with random weights, which take the time of trained ones; images of CamVid where it lies
beside the checkout (`../shared/data/camvid`), drawn ones of `zsseg demo` elsewhere.
"""

import json
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import open_clip
import torch
from open_clip.model import CLIP
from safetensors.torch import save_file
from threadpoolctl import threadpool_limits
from torch import Tensor

from benchmarks.ratio import Ratio, timed, timed_in_turn
from zsseg.stages.cache.disk.json_files import read_json_lines
from zsseg.stages.cache.format.manifest import HISTORY
from zsseg.stages.data.spec import VOID, DatasetSpec, load_spec
from zsseg.stages.demo.world import write_world
from zsseg.stages.precompute import run as run_module
from zsseg.stages.precompute.engine.dask_engine import open_engine
from zsseg.stages.precompute.make.class_crops import class_crops
from zsseg.stages.precompute.make.regions import mine_regions, unlabelled_tokens
from zsseg.stages.precompute.plan.request import PrecomputeRequest
from zsseg.stages.precompute.precompute_config import (
    DenseConfig,
    LocalConfig,
    PrecomputeConfig,
    RegionConfig,
    TextConfig,
)
from zsseg.stages.precompute.run import PrecomputeResult, forecast, precompute
from zsseg.stages.precompute.teacher import clip_teacher as teacher_module
from zsseg.stages.precompute.teacher.dense_tokens import dense_tokens
from zsseg.stages.precompute.teacher.teacher_files import resolve_teacher

MODEL = "ViT-B-16-quickgelu"
SIZE = (512, 512)
"""Height and width in pixels that dense tokens are made at: 32 x 32 of them."""
_CAMVID = Path(__file__).resolve().parents[2] / "shared" / "data" / "camvid"


@dataclass(frozen=True)
class Subject:
    """A data set and a teacher, in a folder of their own that stores are made in."""

    spec: DatasetSpec
    root: Path
    teacher: str
    folder: Path

    def request(
        self, config: PrecomputeConfig, *, cache: str, limit: int | None = None
    ) -> PrecomputeRequest:
        """A store of all images or the first; `cache` names the folder of the store."""
        return PrecomputeRequest(
            spec=self.spec,
            root=self.root,
            split="train",
            teacher=self.teacher,
            cache=self.folder / cache,
            config=config,
            limit=limit,
        )

    def precompute(
        self,
        config: PrecomputeConfig,
        *,
        cache: str,
        limit: int | None = None,
        update: bool = False,
    ) -> PrecomputeResult:
        """Stage one on such a request."""
        request = self.request(config, cache=cache, limit=limit)
        return precompute(request, update=update, progress=lambda _: None)


def write_teacher(folder: Path) -> str:
    """ViT-B/16 with random weights, always the same, as a `local-dir:` teacher."""
    folder.mkdir()
    model = {**open_clip.get_model_config(MODEL)}
    seen = {
        "mean": list(open_clip.OPENAI_DATASET_MEAN),
        "std": list(open_clip.OPENAI_DATASET_STD),
    }
    described = json.dumps({"model_cfg": model, "preprocess_cfg": seen})
    (folder / "open_clip_config.json").write_text(described)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        made = open_clip.create_model(f"local-dir:{folder}", load_weights=False)
    save_file(made.state_dict(), folder / "open_clip_model.safetensors")
    return f"local-dir:{folder}"


@contextmanager
def subject(images: int, *, teacher: str | None = None) -> Iterator[Subject]:
    """At least so many images, and a teacher: ViT-B/16 unless another is given."""
    with tempfile.TemporaryDirectory(prefix="zsseg-bench-") as name:
        folder = Path(name)
        if _CAMVID.is_dir():
            spec, root = load_spec("camvid"), _CAMVID
        else:
            spec, root = load_spec("demo"), folder / "world"
            write_world(root, seed=0, scenes={"train": images}, progress=lambda done, total: None)
        yield Subject(spec, root, teacher or write_teacher(folder / "teacher"), folder)


def settings(*, shard_images: int, local: bool = True, **regions: Any) -> PrecomputeConfig:
    """The defaults, with one prompt per class and scikit-learn's k-means on the CPU."""
    return PrecomputeConfig(
        text=TextConfig(templates="single"),
        dense=DenseConfig(size=SIZE),
        regions=RegionConfig(backend="sklearn", **regions),
        local=LocalConfig(enabled=local),
        shard_images=shard_images,
        device="cpu",
        precision="fp32",
    )


@contextmanager
def recorded_forwards() -> Iterator[list[Callable[[], object]]]:
    """Every forward pass of an image tower within, to be done again on the very same pixels."""
    forwards: list[Callable[[], object]] = []
    dense, encode = dense_tokens, CLIP.encode_image

    def dense_and_note(visual: Any, image_B3HW: Tensor, config: DenseConfig) -> Tensor:
        forwards.append(lambda: dense(visual, image_B3HW, config))
        return dense(visual, image_B3HW, config)

    def encode_and_note(clip: CLIP, image_B3HW: Tensor) -> Any:
        forwards.append(lambda: encode(clip, image_B3HW))
        return encode(clip, image_B3HW)

    with (
        patch.object(teacher_module, "dense_tokens", dense_and_note),
        patch.object(CLIP, "encode_image", encode_and_note),
    ):
        yield forwards


def replay(forwards: list[Callable[[], object]]) -> None:
    """The bare forward passes, one after the other."""
    with torch.inference_mode():
        for forward in forwards:
            forward()


def overhead(*, quick: bool) -> list[Ratio]:
    """All of `precompute` / the forward passes of its images and crops alone.

    Loading and hashing the teacher, text embeddings, decoding, resizing, mining, crops, writing and
    sealing are the overhead. By the clock, and in processor time, which other work on the machine
    changes less.
    """
    images = 16 if quick else 64
    with subject(images) as one:
        config, shard = settings(shard_images=images // 4), images // 4
        return measured_overhead(one, config, images, f"{images} images in shards of {shard}")


def measured_overhead(
    one: Subject, config: PrecomputeConfig, images: int, what: str
) -> list[Ratio]:
    """The ratios of `overhead`, for any teacher."""
    # What is imported and compiled the first time only.
    one.precompute(config, limit=1, cache="first")
    before = _processor_seconds()
    with recorded_forwards() as forwards:
        whole = timed(lambda: one.precompute(config, limit=images, cache="store"))
    middle = _processor_seconds()
    bare = timed(lambda: replay(forwards))
    after = _processor_seconds()
    name = f"precompute / its bare teacher forwards, {MODEL}, {SIZE[0]} x {SIZE[1]}, {what}"
    return [
        Ratio(name, (whole,), (bare,), target="at most 1.15"),
        Ratio(f"{name}, processor time", (middle - before,), (after - middle,)),
    ]


def _processor_seconds() -> float:
    return time.process_time()  # os.times() counts hundredths, of which a small pass takes none


def two_workers(*, quick: bool) -> list[Ratio]:
    """Images per second of two workers / of one, one thread each, when they are up and warm."""
    images, rounds = (16, 1) if quick else (32, 3)
    seconds: dict[int, list[float]] = {1: [], 2: []}
    with subject(images) as one, patch.dict(os.environ, {"OMP_NUM_THREADS": "1"}):
        for number in range(rounds):
            for workers, spent in seconds.items():
                spent.append(_warm_seconds(one, images, workers=workers, cache=f"{number}"))
    name = f"one worker's time / two workers' for {images} images, {MODEL}, one thread each"
    return [Ratio(name, tuple(seconds[1]), tuple(seconds[2]), target="at least 1.7; ideal 2")]


def _warm_seconds(one: Subject, images: int, *, workers: int, cache: str) -> float:
    """Of `precompute` on workers that are up and have loaded the teacher for other images."""
    config, teacher = settings(shard_images=2, local=False), resolve_teacher(one.teacher)
    with (
        open_engine(teacher, config, workers=workers, scheduler=None) as engine,
        patch.object(run_module, "open_engine", lambda *_, **__: nullcontext(engine)),
    ):
        # Two shards for each worker: dask gives every one of them some.
        one.precompute(config, limit=4 * workers, cache=f"first-{workers}-{cache}")
        return timed(lambda: one.precompute(config, limit=images, cache=f"{workers}-{cache}"))


def partial_recompute(*, quick: bool) -> list[Ratio]:
    """A store without local tokens from scratch / with another merge threshold (`--update`)."""
    images = 16 if quick else 64
    with subject(images) as one:
        first = settings(shard_images=16, local=False)
        changed = settings(shard_images=16, local=False, merge_threshold=0.8)
        one.precompute(first, limit=1, cache="first")
        scratch = timed(lambda: one.precompute(first, limit=images, cache="store"))
        update = timed(lambda: one.precompute(changed, limit=images, cache="store", update=True))
    name = f"from scratch / another merge threshold, {images} images, {MODEL}, no local tokens"
    return [Ratio(name, (scratch,), (update,), target="at least 20")]


def changed_crops(*, quick: bool) -> list[Ratio]:
    """With local tokens: crops encoded for another merge threshold / crops of the first run.

    The demo's small CLIP, whose regions follow what is in the image, so that some of them change.
    Fails where a dense or CLS token is computed again, or a dry run does not name the setting.
    """
    images = 16 if quick else 64
    with subject(images, teacher=f"local-dir:{files('zsseg.stages.demo') / 'clip'}") as one:
        first = settings(shard_images=16)
        changed = settings(shard_images=16, merge_threshold=0.92)
        store = one.precompute(first, limit=images, cache="store").path
        at_first = _last_run(store)["forwards"]
        found = forecast(
            one.request(changed, cache="store", limit=images),
            retry_failed=False,
            progress=lambda _: None,
        )
        why = {each.artifact: " ".join(each.why) for each in found.artifacts}
        assert why.keys() == {"regions", "local"}, why
        assert "regions.merge_threshold: stored 0.9, asked 0.92" in why["regions"], why
        assert "made from index, regions" in why["local"], why
        one.precompute(changed, limit=images, cache="store", update=True)
        forwards, kept = (_last_run(store)[key] for key in ("forwards", "kept"))
        assert forwards.keys() <= {"local"}, forwards
    name = (
        f"crops encoded for another merge threshold / at first, {images} images (kept "
        f"{kept['local']}; dense and CLS forwards 0, {at_first['dense']} and {at_first['cls']} at "
        "first)"
    )
    counts = (float(forwards.get("local", 0)),), (float(at_first["local"]),)
    return [Ratio(name, *counts, unit="crops")]


def _last_run(store: Any) -> dict[str, Any]:
    """What the newest run that computed anything says of itself."""
    return [entry for entry in read_json_lines(store / HISTORY) if "forwards" in entry][-1]


def mining(*, quick: bool) -> list[Ratio]:
    """All that one image's latent regions cost besides the teacher / the forward of its tokens.

    Unlabelled tokens, window seeds, k-means and merging of 32 x 32 x 512 tokens, and the boxes of
    the class crops at 512 x 512 pixels. One token in eight or so has a visible label, so the work
    is nearly all there can be. It has one thread, as in stage one; the teacher has all of them.
    """
    visual = open_clip.create_model(MODEL).visual.eval()
    image_13HW = torch.rand(1, 3, *SIZE)
    dense, regions, local = DenseConfig(size=SIZE), RegionConfig(), LocalConfig()
    with torch.inference_mode():
        dense_Dhw = dense_tokens(visual, image_13HW, dense)[0].numpy()
    rng = np.random.default_rng(0)
    class_hw = rng.integers(0, 20, (8, 8), dtype=np.uint8)
    class_hw[rng.random((8, 8)) > 1 / 8] = VOID
    visible_HW = np.repeat(np.repeat(class_hw, 64, axis=0), 64, axis=1)
    image_HW3 = np.zeros((*SIZE, 3), np.uint8)

    def teacher() -> Tensor:
        with torch.inference_mode():
            return dense_tokens(visual, image_13HW, dense)

    def mine() -> object:
        with threadpool_limits(limits=1):
            unlabelled_hw = unlabelled_tokens(visible_HW, (32, 32), regions.unlabelled_share)
            region_hw = mine_regions(dense_Dhw, unlabelled_hw, regions, backend="sklearn")
            return class_crops(  # measured here, cut when they are asked for
                image_HW3,
                visible_HW,
                region_hw,
                margin=local.margin,
                max_masks=local.max_masks,
            )

    name = f"region mining and boxes of crops / {MODEL} dense forward, {SIZE[0]} x {SIZE[1]}"
    return [timed_in_turn(name, mine, teacher, target="under 0.04")]


MEASURES = (mining, overhead, two_workers, partial_recompute, changed_crops)
