"""An example or two of every command, which its `--help` ends with."""

import typer

from zsseg.pipeline.cli.parameter_extras import commands_of

EXAMPLES = {
    "doctor": ("zsseg doctor", "zsseg doctor --json"),
    "demo": ("zsseg demo", "zsseg demo --method sdd_rst --out demo_sdd"),
    "init": (
        'zsseg init photos --classes "road, pavement, car, tree, sky"',
        "zsseg init photos --labels masks --out street.yaml",
    ),
    "preview": (
        "zsseg preview photos.yaml",
        'zsseg preview photos.yaml --classes "car|van, tree, sky" --images 12',
    ),
    "run": (
        "zsseg run photos.yaml --out runs/first --minutes 5",
        "zsseg run camvid --root CamVid --teacher local-dir:my_clip",
    ),
    "precompute": (
        "zsseg precompute --dataset coco-stuff --root /data/coco --cache data_cache",
        "zsseg precompute --dataset photos.yaml --set dense.size=auto --dry-run",
    ),
    "train": (
        "zsseg train --cache data_cache --out runs/first --minutes 60",
        "zsseg train --cache data_cache --config sdd_rst --set train.batch=8",
        "zsseg train --resume --out runs/first",
    ),
    "evaluate": (
        "zsseg evaluate --run runs/first --split val",
        "zsseg evaluate --teacher-alone --cache data_cache --split val",
    ),
    "report": (
        "zsseg report runs/first",
        "zsseg report runs/first runs/second --out both.html",
    ),
    "predict": (
        "zsseg predict --run runs/first photos --out predictions",
        'zsseg predict --run runs/first street.jpg --classes "car, tram" --out predictions',
    ),
    "app": ("zsseg app --run runs/first",),
    "export": (
        "zsseg export --run runs/first --out model.onnx",
        "zsseg export --run runs/first --format safetensors --out street",
    ),
    "names": ('zsseg names --run runs/first "tram, car|van" --out names.npz',),
    "push": ("zsseg push runs/first lab/street",),
    "compare": ("zsseg compare runs/first runs/second", "zsseg compare runs/* --mean"),
    "ablate": (
        "zsseg ablate II --cache data_cache --seeds 3",
        "zsseg ablate II --cache data_cache --dry-run",
    ),
    "tune": ("zsseg tune --cache data_cache --config best --try evaluate.calibration=0,0.01,0.02",),
    "dataset import": ('zsseg dataset import photos --classes "road, car, sky"',),
    "dataset ls": ("zsseg dataset ls",),
    "dataset info": ("zsseg dataset info coco-stuff", "zsseg dataset info photos.yaml"),
    "dataset fetch": ("zsseg dataset fetch coco-stuff --root /data/coco",),
    "dataset verify": (
        "zsseg dataset verify photos.yaml",
        "zsseg dataset verify coco-stuff --root /data/coco --split val",
    ),
    "cache ls": ("zsseg cache ls", "zsseg cache ls /fast/cache --runs runs"),
    "cache info": ("zsseg cache info data_cache/STORE",),
    "cache show": (
        "zsseg cache show data_cache/STORE",
        "zsseg cache show data_cache/STORE --image ID",
    ),
    "cache verify": (
        "zsseg cache verify data_cache/STORE --read-data",
        "zsseg cache verify data_cache/STORE --repair",
    ),
    "cache why": ("zsseg cache why data_cache/STORE",),
    "cache gap": ("zsseg cache gap data_cache/STORE",),
    "cache diff": ("zsseg cache diff data_cache/A data_cache/B",),
    "cache export": ("zsseg cache export data_cache/STORE store.tar",),
    "cache import": ("zsseg cache import store.tar --cache /fast/cache",),
    "cache prune": ("zsseg cache prune --dry-run",),
    "cache rm": ("zsseg cache rm data_cache/STORE",),
    "cache unlock": ("zsseg cache unlock s3://bucket/stores/STORE",),
    "config ls": ("zsseg config ls",),
    "config diff": ("zsseg config diff sdd_rst best", "zsseg config diff best runs/first"),
    "config schema": ("zsseg config schema > train.schema.json",),
    "config validate": ("zsseg config validate mine.yaml",),
    "config show": ("zsseg config show sdd_rst > mine.yaml", "zsseg config show best --changed"),
    "student info": (
        "zsseg student info --no-speed",
        "zsseg student info --device cpu",
    ),
    "teacher check": (
        "zsseg teacher check local-dir:my_clip",
        "zsseg teacher check python:examples/python_teacher.py:ColourTeacher",
    ),
}
"""By the words of a command; each line can be typed as it stands."""


def add_examples(app: typer.Typer) -> None:
    """Let the help of each command of `app` and of its groups end with its examples."""
    for words, command in commands_of(app):
        # An empty line between the lines: rich joins those that have none.
        command.epilog = "\n\n".join(["Examples:", *EXAMPLES.get(words, ())])
