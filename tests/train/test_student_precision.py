"""The number format that a student runs in."""

import pytest
import torch

from zsseg.stages.train.student_precision import autocast_type


def test_precisions(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu, gpu = torch.device("cpu"), torch.device("cuda")
    assert autocast_type("auto", cpu) == torch.float32
    assert autocast_type("bf16", cpu) == torch.bfloat16
    for real, expected in ((True, torch.bfloat16), (False, torch.float16)):

        def supported(including_emulation: bool = True, *, real: bool = real) -> bool:
            return real or including_emulation

        monkeypatch.setattr(torch.cuda, "is_bf16_supported", supported)
        assert autocast_type("auto", gpu) == expected
    assert autocast_type("fp32", gpu) == torch.float32
