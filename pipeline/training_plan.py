"""Plans a training that no experiment was named for, and tells the plan."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from zsseg.pipeline.settings import apply_settings, build, read_experiment

if TYPE_CHECKING:
    from zsseg.stages.train.batches.training_data import TrainingData
    from zsseg.stages.train.plan.planned import TrainingPlan

PLANNED = "plan"
"""What a planned training is called, in its record and as its folder."""


def check_given(settings: Sequence[str]) -> None:
    """Raise UserError for settings that there are not, or that contradict each other."""
    from zsseg.stages.train.run_config import RunConfig

    base = read_experiment("best")
    if apply_settings({}, settings).get("protocol") == "inductive":
        del base["self_training"]  # as the plan leaves it out
    build(RunConfig, apply_settings(base, settings), where="--set")


def planned(
    data: "TrainingData",
    settings: Sequence[str],
    *,
    minutes: float | None,
    tell: Callable[[str], None],
) -> "TrainingPlan":
    """The plan of a training, told line by line; of several processes the first one's."""
    from zsseg.stages.train.plan.facts import flat
    from zsseg.stages.train.plan.make_plan import agreed_plan

    plan = agreed_plan(data, flat(apply_settings({}, settings)), minutes=minutes)
    tell("the plan, and why (--set changes any of it):")
    for line in plan.lines:
        tell(f"  {line}")
    return plan
