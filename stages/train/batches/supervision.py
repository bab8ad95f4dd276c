"""What a run has to learn from where a data set has no seen class, or no unseen one."""

from zsseg.stages.data.spec import DatasetSpec
from zsseg.stages.errors import NothingToLearnError, UserError
from zsseg.stages.train.method_config import loss_needs
from zsseg.stages.train.run_config import RunConfig


def check_supervision(spec: DatasetSpec, config: RunConfig) -> list[str]:
    """What of the settings has nothing to do with these classes: one line each.

    Raises NothingToLearnError where nothing would be learnt, at the start or at all, and UserError
    for a loss over no class.
    """
    if not spec.unseen:
        return _without_unseen(spec, config)
    if not spec.seen_ids:
        return _without_seen(spec, config)
    return []


def _without_unseen(spec: DatasetSpec, config: RunConfig) -> list[str]:
    if (method := config.self_training.method) == "none":
        return []
    return [
        f"self_training.method {method}: has nothing to do, since it gives pixels labels of unseen "
        f"classes and '{spec.name}' has none. Leave it out with --set self_training.method=none, "
        "or list some under `unseen` in the description and make the store again"
    ]


def _without_seen(spec: DatasetSpec, config: RunConfig) -> list[str]:
    """The lines for a data set without labels."""
    objectives, trains = config.objectives, config.self_training
    if config.protocol == "inductive" and objectives.sdd:
        raise UserError(
            "objectives.sdd: compares class names, of which the inductive protocol knows the seen "
            f"ones only, and no class of '{spec.name}' is seen. Use --set protocol=transductive, "
            "or --set objectives.sdd=0"
        )
    told = []
    if config.latent.enabled and config.latent.tie:
        told.append(
            f"latent.tie: has nothing to do, since no class of '{spec.name}' is seen. Leave it out "
            "with --set latent.tie=0"
        )
    weights = {name: weight for name, weight in objectives.weights.items() if weight}
    of_labels = [f"objectives.{name}" for name in weights if "labels" in loss_needs()[name]]
    start = config.train.steps if trains.method == "none" else trains.start * config.train.steps
    if not of_labels or not start or config.latent.enabled:
        return told
    until = "" if trains.method == "none" else f" before step {start:.0f} (self_training.start)"
    idle = (
        f"{', '.join(of_labels)}: no class of '{spec.name}' is seen, so no pixel has a label to "
        f"learn from{until}"
    )
    advice = (
        "Take the teacher's names of pixels from the first step on: --set self_training.method=st "
        "--set self_training.source=teacher --set self_training.start=0"
    )
    if len(of_labels) == len(weights):
        raise NothingToLearnError(
            f"{idle}, and no other loss is on. {advice}, as the experiment `free` does"
        )
    return [*told, f"{idle}. {advice}, or give what has nothing to do a weight of 0"]
