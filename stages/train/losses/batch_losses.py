"""The losses of a batch: a loop over `objective_table`, their counts and their weighted sum."""

from torch import Tensor, stack

from zsseg.stages.train.losses.loss_inputs import LossInputs
from zsseg.stages.train.losses.objective_table import DIAGNOSTICS, OBJECTIVES, Term
from zsseg.stages.train.run_config import RunConfig

Scalars = dict[str, Tensor]


def batch_losses(inputs: LossInputs) -> tuple[Scalars, Scalars]:
    """The losses whose weight is above 0, unweighted, and diagnostics; scalars by name."""
    losses = {each.name: each.value(inputs) for each in _objectives(inputs)}
    return losses, {each.name: each.value(inputs) for each in _diagnostics(inputs)}


def counts_of(inputs: LossInputs) -> Scalars:
    """How many things each loss and diagnostic of a batch is a mean over."""
    return {each.name: each.count(inputs) for each in (*_objectives(inputs), *_diagnostics(inputs))}


def weighted_sum(losses: Scalars, config: RunConfig) -> Tensor:
    """The total loss: each loss times the weight of its name."""
    weights = _weights(config)
    return stack([weights[name] * loss for name, loss in losses.items()]).sum()


def in_whole(means: Scalars, counts: Scalars, whole: Scalars) -> Scalars:
    """What the means over a part, with its counts, contribute to those over the whole.

    A count of 0 is taken as the mean takes it: as the smallest number that it divides by.
    """
    smallest = {each.name: each.smallest_count for each in (*OBJECTIVES, *DIAGNOSTICS)}
    shares = {
        # Exact also for the pixels of a large batch, which float32 cannot count one by one.
        name: counts[name].double().clamp_min(smallest[name])
        / whole[name].double().clamp_min(smallest[name])
        for name in means
    }
    return {name: mean * shares[name].float() for name, mean in means.items()}


def _objectives(inputs: LossInputs) -> list[Term]:
    weights = _weights(inputs.step.config)
    return [each for each in OBJECTIVES if weights[each.name] > 0 and each.applies(inputs)]


def _diagnostics(inputs: LossInputs) -> list[Term]:
    return [each for each in DIAGNOSTICS if each.applies(inputs)]


def _weights(config: RunConfig) -> dict[str, float]:
    return {**config.objectives.weights, "tie": config.latent.tie}
