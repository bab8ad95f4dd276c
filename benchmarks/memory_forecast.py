"""The memory that `zsseg train` foretells before its first step, and what two steps then take.

    python -m benchmarks.memory_forecast segformer mit_b0 256 4    # student, crop, batch

In a process of its own for each student, without loader processes; drawn photographs.
"""

import sys
import tempfile
from pathlib import Path

import torch

from benchmarks.drawn import write_data, write_store
from zsseg.stages.machine_memory import peak_bytes
from zsseg.stages.train.batches.training_data import TrainingData
from zsseg.stages.train.foretell.measure import shadow_run
from zsseg.stages.train.foretell.memory_check import foretell
from zsseg.stages.train.loop import train
from zsseg.stages.train.run_config import RunConfig


def _config(architecture: str, encoder: str, crop: int, batch: int) -> RunConfig:
    return RunConfig.model_validate(
        {
            "student": {"architecture": architecture, "encoder": encoder, "weights": "none"},
            "objectives": {"focal": 1.0, "sdd": 1.0},
            "self_training": {"method": "rst", "start": 0.5},
            "augmentation": {"crop": (crop, crop)},
            "train": {
                **{"steps": 2, "batch": batch, "workers": 0, "warmup_steps": 0},
                **{"device": "cpu", "memory_forecast": "off"},
            },
        }
    )


def _foretold(config: RunConfig, data: TrainingData) -> int:
    run = shadow_run(config, data, torch.device("cpu"), torch.float32)
    assert run is not None
    found, _ = foretell(run, config, data)
    return found.peak


def main(architecture: str, encoder: str, crop: str, batch: str) -> None:
    """See above."""
    config = _config(architecture, encoder, int(crop), int(batch))
    with tempfile.TemporaryDirectory(prefix="zsseg-") as name:
        root = Path(name) / "data"
        spec = write_data(root, images=16, classes=20)
        data = TrainingData(write_store(Path(name) / "store", spec, root), spec, root)
        foretold = _foretold(config, data)
        out = Path(name) / "run"
        train(config, data, out=out, resume=False, experiment="-", progress=lambda _: None)
    taken = peak_bytes()
    print(
        f"{architecture}/{encoder}, {batch} crops of {crop} x {crop}: {foretold / 1e9:.2f} GB "
        f"foretold, {taken / 1e9:.2f} GB taken, ratio {foretold / taken:.2f}"
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
