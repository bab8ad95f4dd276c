"""Learning rate: polynomial decay times linear warm-up."""

import pytest

from zsseg.stages.train.run_config import TrainConfig
from zsseg.stages.train.schedule import learning_rate, warmup_length


def test_polynomial_decay_without_warmup() -> None:
    linear = TrainConfig(steps=4, power=1.0, warmup_steps=0)
    assert [learning_rate(step, 8.0, linear) for step in range(4)] == [8.0, 6.0, 4.0, 2.0]
    square = TrainConfig(steps=4, power=2.0, warmup_steps=0)
    assert [learning_rate(step, 16.0, square) for step in range(4)] == [16.0, 9.0, 4.0, 1.0]


def test_first_step_is_a_millionth_and_the_warmup_is_linear() -> None:
    config = TrainConfig(steps=40_000, warmup_steps=1500, power=1.0)
    assert learning_rate(0, 6e-5, config) == pytest.approx(6e-11, rel=1e-9)
    half = 6e-5 * (1 - 750 / 40_000) * (0.5 + 0.5e-6)
    assert learning_rate(750, 6e-5, config) == pytest.approx(half, rel=1e-12)
    assert learning_rate(1500, 6e-5, config) == pytest.approx(6e-5 * (1 - 1500 / 40_000), rel=1e-12)


def test_same_as_mmsegmentation_s_hook() -> None:
    """PolyLrUpdaterHook(power=0.9, min_lr=0, warmup='linear', warmup_iters=50, ratio=1e-6)."""
    config = TrainConfig(steps=1000, warmup_steps=50, power=0.9)
    for step in range(1000):
        regular = (2e-5 - 0.0) * (1 - step / 1000) ** 0.9 + 0.0
        k = (1 - step / 50) * (1 - 1e-6)
        expected = regular * (1 - k) if step < 50 else regular
        assert learning_rate(step, 2e-5, config) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(
    ("steps", "asked", "had"), [(1, 1500, 0), (500, 1500, 50), (500, 20, 20), (80_000, 1500, 1500)]
)
def test_warmup_takes_a_tenth_of_the_steps_at_most(steps: int, asked: int, had: int) -> None:
    config = TrainConfig(steps=steps, warmup_steps=asked)
    assert warmup_length(config) == had
    assert learning_rate(had, 1.0, config) == pytest.approx(1 - had / steps)
