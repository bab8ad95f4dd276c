"""The learning rate at each step: linear warm-up, polynomial decay to 0."""

from zsseg.stages.train.run_config import TrainConfig

WARMUP_RATIO = 1e-6
"""Share of the learning rate that the warm-up starts from (mmsegmentation)."""


def warmup_length(config: TrainConfig) -> int:
    """Steps of warm-up that a run really has: a tenth of its steps at most.

    The default of 1500 is meant for 40,000 steps and more; a run of 500 would end before it.
    """
    return min(config.warmup_steps, config.steps // 10)


def learning_rate(step: int, base: float, config: TrainConfig) -> float:
    """The learning rate of step 0 .. steps - 1 for a parameter group of base rate `base`.

    base (1 - step/steps)^power, times a factor that grows linearly from WARMUP_RATIO at step 0 to
    1 at the end of the warm-up (mmsegmentation's PolyLrUpdaterHook, warmup='linear', min_lr=0).
    """
    rate: float = base * (1 - step / config.steps) ** config.power
    warmup = warmup_length(config)
    if step >= warmup:
        return rate
    return rate * (1 - (1 - step / warmup) * (1 - WARMUP_RATIO))
