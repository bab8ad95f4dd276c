"""What each protocol may know, and that everything that training moves survives a resumption."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.random_store import WIDTH, write_store
from helpers.tiny_training import (
    Sections,
    World,
    make_world,
    metrics_of,
    what_was_learnt,
    with_changes,
)
from helpers.tiny_training import run as train_tiny
from PIL import Image
from pydantic import ValidationError
from torch import nn

from zsseg.stages.cache.reader import Store
from zsseg.stages.errors import CacheError, UserError
from zsseg.stages.train.batches.store_check import check_store
from zsseg.stages.train.run import checkpoint
from zsseg.stages.train.run_config import RunConfig
from zsseg.stages.train.state import update_average

C2S: Sections = {
    "protocol": "inductive",
    "student": {"architecture": "fpn", "encoder": "tu-mobilenetv3_small_050", "weights": "none"},
    "objectives": {
        "nel": 1.0,
        "global_distillation": 1.0,
        "local_distillation": 1.0,
        "dense": 1.0,
        "dense_stride": 8,
    },
    "latent": {"enabled": True, "heads": 2, "layers": 1, "tie": 1.0},
    "augmentation": {"short_side": 48, "crop": (32, 32)},
    "train": {
        "steps": 4,
        "batch": 2,
        "workers": 0,
        "warmup_steps": 0,
        "log_every": 1,
        "checkpoint_every": 2,
        "device": "cpu",
        "learning_rate": 1e-3,
    },
}
TRANSDUCTIVE: Sections = {
    "protocol": "transductive",
    "objectives": {"sdd": 1.0, "global_distillation": 1.0, "local_distillation": 1.0},
    "self_training": {"method": "rst", "source": "ema", "start": 0.25, "teacher_until": 0.5},
}


def config_of(*changes: Sections) -> RunConfig:
    return with_changes(C2S, *changes)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return make_world(tmp_path_factory.mktemp("world"))


def run(world: World, out: Path, config: RunConfig, **how: Any) -> Path:
    train_tiny(world, out, config, **how)
    return out


class RenamedStore(Store):
    """A store in which the unseen class has another name: another text embedding."""

    def read_all(self, array: str) -> np.ndarray[Any, Any]:
        values = super().read_all(array)
        if array == "text":
            values = values.copy()
            values[3] = np.roll(values[3], 5)
        return values


def renamed(world: World) -> World:
    store, spec, root = world
    other = RenamedStore(store.path, store.manifest, store.fingerprint)
    return World(other, spec, root)


def test_inductive_training_sees_nothing_of_unseen_names(world: World, tmp_path: Path) -> None:
    config = config_of({"objectives": {"sdd": 1.0}})
    one = run(world, tmp_path / "one", config)
    other = run(renamed(world), tmp_path / "other", config)
    assert what_was_learnt(one) == what_was_learnt(other)
    assert metrics_of(one) == metrics_of(other)
    assert (one / "text.safetensors").read_bytes() != (other / "text.safetensors").read_bytes()


def test_transductive_training_does(world: World, tmp_path: Path) -> None:
    """The test above can fail."""
    config = config_of({"protocol": "transductive", "objectives": {"sdd": 1.0}})
    one = run(world, tmp_path / "one", config)
    other = run(renamed(world), tmp_path / "other", config)
    assert metrics_of(one)[0]["sdd"] != metrics_of(other)[0]["sdd"]


@pytest.mark.parametrize("changes", [{}, TRANSDUCTIVE], ids=["inductive", "transductive"])
def test_unseen_labels_do_not_reach_any_loss(
    world: World, tmp_path: Path, changes: Sections
) -> None:
    noisy = make_world(tmp_path)
    store, _, root = noisy
    rng = np.random.default_rng(0)
    for entry in store.index:
        label_HW = np.array(Image.open(root / entry["label"]))
        hidden_HW = (label_HW == 3) | (label_HW == 255)
        label_HW[hidden_HW] = rng.choice([3, 255], hidden_HW.sum())
        Image.fromarray(label_HW).save(root / entry["label"])
    config = config_of(changes)
    one, other = run(world, tmp_path / "one", config), run(noisy, tmp_path / "other", config)
    assert what_was_learnt(one) == what_was_learnt(other)
    assert metrics_of(one) == metrics_of(other)


@pytest.mark.parametrize("changes", [{}, TRANSDUCTIVE], ids=["inductive", "transductive"])
def test_resumed_is_uninterrupted_bit_for_bit(
    world: World, tmp_path: Path, changes: Sections
) -> None:
    """With decoder, bank and averaged student, from a checkpoint in the middle."""
    config = config_of(changes)
    whole = run(world, tmp_path / "whole", config)
    with pytest.raises(ConnectionError):
        run(world, tmp_path / "cut", config, stop_at=3)
    torch.rand(3)  # whatever the process did meanwhile
    cut = run(world, tmp_path / "cut", config, resume=True)
    assert what_was_learnt(cut) == what_was_learnt(whole)
    assert metrics_of(cut) == metrics_of(whole)


def test_every_part_is_logged_and_weighed(world: World, tmp_path: Path) -> None:
    changes = {"objectives": {"cross_entropy": 2.0, "nel": 0.5}, "latent": {"tie": 0.25}}
    for line in metrics_of(run(world, tmp_path / "run", config_of(changes))):
        weights = {"cross_entropy": 2.0, "nel": 0.5, "tie": 0.25, "dense": 1.0}
        weights |= {"global_distillation": 1.0, "local_distillation": 1.0}
        total = sum(weight * line[name] for name, weight in weights.items())
        assert line["loss"] == pytest.approx(total, rel=1e-5)
    assert any(line["latent_classes"] > 0 for line in metrics_of(tmp_path / "run"))


def test_latent_classes_end_where_self_training_begins(world: World, tmp_path: Path) -> None:
    config = config_of({"protocol": "transductive", "self_training": {"method": "st"}})
    lines = metrics_of(run(world, tmp_path / "run", config))
    assert ["tie" in line for line in lines] == [True, True, False, False]
    assert ["pseudo_label_share" in line for line in lines] == [False, False, True, True]


def test_the_decoder_is_not_exported(world: World, tmp_path: Path) -> None:
    out = run(world, tmp_path / "run", config_of())
    student, _, _ = checkpoint.load_student(out)
    plain = config_of({"latent": {"enabled": False}})
    expected = set(checkpoint.load_student(run(world, tmp_path / "plain", plain))[0].state_dict())
    assert student.state_dict().keys() == expected
    folder = checkpoint.latest(out)
    assert folder is not None
    assert any("self_attn" in name for name in checkpoint.load_training(folder)["decoder"])


@pytest.mark.parametrize(
    ("architecture", "encoder"),
    [
        ("segformer", "mit_b0"),
        ("segnext", "mscan_t"),
        ("setr_pup", "vit_tiny_patch16_224"),
    ],
)
def test_the_students_of_paper_2_learn_and_resume(
    world: World, tmp_path: Path, architecture: str, encoder: str
) -> None:
    changes = {"student": {"architecture": architecture, "encoder": encoder}}
    config = config_of(changes, {"train": {"checkpoint_every": 1, "steps": 2}})
    whole = run(world, tmp_path / "whole", config)
    with pytest.raises(ConnectionError):
        run(world, tmp_path / "cut", config, stop_at=1)
    cut = run(world, tmp_path / "cut", config, resume=True)
    assert what_was_learnt(cut) == what_was_learnt(whole)
    student, step, _ = checkpoint.load_student(whole)
    assert step == 2
    assert student(torch.zeros(1, 3, 40, 72)).isfinite().all()


def test_the_average_follows_the_student() -> None:
    average, student = nn.BatchNorm1d(1), nn.BatchNorm1d(1)
    nn.init.constant_(average.weight, 0.0)
    nn.init.constant_(student.weight, 1.0)
    assert student.num_batches_tracked is not None
    assert average.num_batches_tracked is not None
    student.num_batches_tracked += 7
    update_average(average, student, decay=0.9, step=0)  # 1 / 10 of the old, 9 / 10 of the new
    assert average.weight.item() == pytest.approx(0.9)
    update_average(average, student, decay=0.9, step=1000)
    assert average.weight.item() == pytest.approx(0.91)
    assert average.num_batches_tracked.item() == 7


def test_the_ema_names_pixels(world: World, tmp_path: Path) -> None:
    settings = {"method": "st", "start": 0.5, "top_percent": 30.0}
    changes = {"protocol": "transductive", "self_training": settings}
    ema = config_of(changes, {"self_training": {"source": "ema"}})
    one = run(world, tmp_path / "one", ema)
    other = run(world, tmp_path / "other", config_of(changes))
    assert metrics_of(one)[:2] == metrics_of(other)[:2]
    assert metrics_of(one)[2] != metrics_of(other)[2]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"self_training": {"method": "rst"}}, "does not know. Use self_training.method=none"),
        ({"objectives": {"unseen_logits": "competing"}}, "does not know. Use suppressed"),
        (
            {"objectives": {"cross_entropy": 0.0, "nel": 0.0}},
            "latent.enabled: latent classes are learnt through",
        ),
        (
            {"protocol": "transductive", "self_training": {"method": "st", "start": 0.0}},
            "latent.enabled: latent classes end where",
        ),
        (
            {"protocol": "transductive", "self_training": {"method": "st", "teacher_until": 0.5}},
            "teacher_until: 0.5 is not after self_training.start = 0.5",
        ),
        ({"objectives": {"dense_stride": 5}}, r"\[32, 32\] is not a whole number of cells"),
    ],
)
def test_settings_that_contradict_each_other(changes: Sections, message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        config_of(changes)


@pytest.mark.parametrize(
    ("changes", "lacking"),
    [
        ({}, "local"),
        ({"latent": {"enabled": False}, "objectives": {"local_distillation": 0.0}}, None),
    ],
)
def test_a_store_without_local_tokens(
    world: World, tmp_path: Path, changes: Sections, lacking: str | None
) -> None:
    _, spec, root = world
    store = write_store(tmp_path / "store", root / "world.yaml", local=False)
    if lacking is None:
        check_store(store, spec, config_of(changes))
        return
    with pytest.raises(CacheError, match=rf"holds no {lacking}|made without {lacking} tokens"):
        check_store(store, spec, config_of(changes))


def test_heads_that_do_not_divide_the_width(world: World, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=rf"latent\.heads: CLIP's width {WIDTH} .* 8 heads"):
        run(world, tmp_path / "run", config_of({"latent": {"heads": 8}}))
    assert not (tmp_path / "run").exists()
