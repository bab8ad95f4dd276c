"""The commands of a demo, and the paths in its folder."""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from zsseg.stages.yaml_files import builtin_names

_COMMON = (
    "text.templates=single",
    "dense.size=[256,384]",
    "regions.windows=[2,4]",
    "regions.minimum_tokens=1",
    "regions.unlabelled_share=0.2",
    "local.max_masks=3",
)
"""Settings for scenes of 128 x 192 pixels, which CLIP sees enlarged twice, with one token per 16
pixels. Things fill only a token or two: with the default region settings two thirds of the
unlabelled pixels would lie in no region."""

PRECOMPUTE = (
    *_COMMON,
    "dense.scales=[0.75,1.0,1.5]",
    "dense.flip=true",
    "pixel_names.enabled=true",
)
"""Six passes of CLIP over each scene, whose tokens are averaged, and the names that they give the
pixels: what students learn from."""

LABELS_ALONE = ("text.templates=single", "dense.size=[256,384]", "local.enabled=false")
"""For a student that learns from labels only: a training has a store, and this is the least."""

BASELINE, CEILING = "baseline", "full"
_PREDICTED = 8


@dataclass(frozen=True)
class Demo:
    """A demo: the paths in its folder, and the commands that fill it."""

    out: Path
    method: str
    settings: tuple[str, ...]
    """`--set` of all trainings."""

    @property
    def world(self) -> Path:
        return self.out / "world"

    @property
    def cache(self) -> Path:
        return self.out / "data_cache"

    @property
    def ceiling_cache(self) -> Path:
        """The store of the student that had labels of every class."""
        return self.out / "ceiling_cache"

    @property
    def ours(self) -> str:
        """What tables call the method."""
        return f"ours ({self.method})"

    @property
    def report(self) -> Path:
        return self.out / "report.html"

    def run(self, method: str) -> Path:
        """Run folder of a method."""
        return self.out / "runs" / f"demo_{method}"

    def scores(self, method: str, *, gamma: bool = True) -> Path:
        """The file with a method's scores on `val`; `gamma`: with the run's, if it has one."""
        from zsseg.stages.evaluate.result import file_stem, variant
        from zsseg.stages.train.run.run_folder import read_record

        own = read_record(self.run(method)).config.evaluate.model_dump()
        own |= {} if gamma else {"calibration": 0.0}
        words = variant(dataset="demo", own_dataset="demo", settings=own, own_settings=own)
        return self.run(method) / f"{file_stem('student', 'val', words)}.json"

    def commands(self) -> list[str]:
        """The `zsseg` commands, in order, as a shell takes them."""
        cache, out = (shlex.quote(str(each)) for each in (self.cache, self.out))
        return [
            self._precompute("demo", "train", self.cache, PRECOMPUTE),
            self._precompute("demo", "val", self.cache, PRECOMPUTE),
            f"zsseg evaluate --teacher-alone --cache {cache} --split val --out {out}",
            *self._trained(BASELINE, self.cache),
            *self._trained(self.method, self.cache),
            self._predict(),
            self._precompute("demo-full", "train", self.ceiling_cache, LABELS_ALONE),
            *self._trained(CEILING, self.ceiling_cache),
        ]

    def _precompute(self, dataset: str, split: str, cache: Path, settings: Sequence[str]) -> str:
        world, cache_word = (shlex.quote(str(each)) for each in (self.world, cache))
        teacher = shlex.quote(f"local-dir:{small_clip()}")
        return (
            f"zsseg precompute --dataset {dataset} --root {world} --split {split} "
            f"--teacher {teacher} --cache {cache_word}{_sets(settings)}"
        )

    def _trained(self, method: str, cache: Path) -> list[str]:
        run = shlex.quote(str(self.run(method)))
        return [
            f"zsseg train --cache {shlex.quote(str(cache))} --config demo_{method} --out {run} "
            f"--resume{_sets(self.settings)}",
            f"zsseg evaluate --run {run} --split val",
        ]

    def _predict(self) -> str:
        pictures = sorted((self.world / "images" / "val").glob("*.png"))[:_PREDICTED]
        return (
            f"zsseg predict {shlex.join(map(str, pictures))} "
            f"--run {shlex.quote(str(self.run(self.method)))} "
            f"--out {shlex.quote(str(self.out / 'predictions'))}"
        )


def _sets(settings: Sequence[str]) -> str:
    return "".join(f" --set {shlex.quote(setting)}" for setting in settings)


def small_clip() -> Path:
    """Folder of the small CLIP that comes with zsseg and was trained on drawn scenes."""
    return Path(str(files("zsseg.stages.demo"))) / "clip"


def demo_methods() -> list[str]:
    """Methods that the demo can compare with its baseline, sorted.

    Not `free`, which knows no labels, nor `full` and `full_best`, which know those of every class.
    """
    names = [name for name in builtin_names("experiments") if name.startswith("demo_")]
    others = {BASELINE, CEILING, f"{CEILING}_best", "free"}
    return sorted({name.removeprefix("demo_") for name in names} - others)
