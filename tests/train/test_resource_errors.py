"""Messages about memory and small batches: what they advise is what helps."""

import pytest
from helpers.tiny_training import config_of

from zsseg.stages.errors import UserError
from zsseg.stages.train import resource_errors
from zsseg.stages.train.resource_errors import explained

TORCH_SAYS = "Expected more than 1 value per channel when training, got input size [1, 256, 1, 1]"


@pytest.mark.parametrize(
    ("batch", "parts", "count", "named", "absent"),
    [
        (2, 2, 1, ["train.accumulate 2", "train.accumulate, such as 1", "batch=4"], "processes"),
        (4, 1, 4, ["4 processes", "fewer processes", "batch=8"], "train.accumulate"),
        (1, 1, 1, ["train.batch 1)", "batch=2"], "accumulate"),
        (8, 1, 1, ["memory was short", "smaller augmentation.crop"], "train.batch="),
    ],
)
def test_the_cause_of_a_single_value_and_what_helps(
    batch: int,
    parts: int,
    count: int,
    named: list[str],
    absent: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(resource_errors, "processes", lambda: (0, count))
    config = config_of(train={"batch": batch, "accumulate": parts})
    with pytest.raises(UserError) as refusal, explained(config):
        raise ValueError(TORCH_SAYS)
    message = str(refusal.value)
    assert all(words in message for words in [*named, "pool the whole image"])
    assert absent not in message


def test_other_errors_of_value_stay_what_they_are() -> None:
    with pytest.raises(ValueError, match="too many"), explained(config_of()):
        raise ValueError("too many values")
