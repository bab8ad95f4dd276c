"""The device that a network of either stage runs on."""

import pytest
import torch

from zsseg.stages.device import choose_device
from zsseg.stages.errors import ResourceError


def test_device_is_the_one_asked_for_or_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert choose_device("auto") == choose_device("cpu") == torch.device("cpu")
    with pytest.raises(ResourceError, match=r"device=cuda, .* no usable GPU .* Use device=cpu"):
        choose_device("cuda")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert choose_device("auto") == choose_device("cuda") == torch.device("cuda")
    assert choose_device("cpu") == torch.device("cpu")
