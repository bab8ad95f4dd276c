"""The table of losses: its lines, the settings that are their weights, and their counts."""

import pytest
import torch

from zsseg.stages.train.losses.batch_losses import in_whole, weighted_sum
from zsseg.stages.train.losses.objective_table import DIAGNOSTICS, OBJECTIVES
from zsseg.stages.train.method_config import loss_needs
from zsseg.stages.train.run_config import RunConfig


def test_every_weight_has_one_line_and_every_line_a_weight() -> None:
    names = [each.name for each in OBJECTIVES]
    assert sorted(names) == sorted([*loss_needs(), "tie"])  # the tie's weight is latent.tie
    assert len({*names, *(each.name for each in DIAGNOSTICS)}) == len(names) + len(DIAGNOSTICS)


@pytest.mark.parametrize(
    ("name", "used"),
    [
        ("cross_entropy", {"learns_labels"}),
        ("focal", {"learns_labels"}),
        ("nel", {"learns_labels"}),
        ("sdd", {"uses_token"}),
        ("global_distillation", {"uses_token"}),
        ("local_distillation", {"uses_local", "uses_regions"}),
        ("dense", {"uses_dense"}),
        ("dense_relation", {"uses_dense"}),
    ],
)
def test_a_run_reads_what_its_only_loss_needs(name: str, used: set[str]) -> None:
    config = RunConfig.model_validate({"objectives": {"cross_entropy": 0.0, name: 0.5}})
    asked = ("learns_labels", "uses_token", "uses_local", "uses_regions", "uses_dense")
    assert {each for each in asked if getattr(config, each)} == used


def test_the_total_weighs_each_loss_by_its_setting() -> None:
    config = RunConfig.model_validate(
        {"objectives": {"nel": 2.0, "sdd": 0.5}, "latent": {"enabled": True, "tie": 4.0}}
    )
    losses = {"cross_entropy": 1.0, "nel": 10.0, "sdd": 100.0, "tie": 1000.0}
    total = weighted_sum({name: torch.tensor(value) for name, value in losses.items()}, config)
    assert total.item() == 1 + 20 + 50 + 4000


def test_means_of_parts_make_the_mean_of_the_whole() -> None:
    """Also of a part without anything, and of fractions that are counted."""
    values = {"sdd": ([1.0, 2.0, 6.0], []), "dense": ([0.5], [0.25, 0.75]), "focal": ([], [])}
    means, counts = (
        [{name: torch.tensor(of(values[name][part])) for name in values} for part in range(2)]
        for of in (lambda each: sum(each) / max(len(each), 1), len)
    )
    for each in counts:
        each["dense"] = each["dense"] / 1000
    whole = {name: counts[0][name] + counts[1][name] for name in values}
    parts = [in_whole(*each, whole) for each in zip(means, counts, strict=True)]
    total = {name: float(parts[0][name] + parts[1][name]) for name in values}
    assert total == pytest.approx({"sdd": 3.0, "dense": 0.5, "focal": 0.0})
