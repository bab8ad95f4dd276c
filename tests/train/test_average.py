"""The moving average of a student, all of its tensors at once."""

import copy

import pytest
import torch
from torch import nn

from zsseg.stages.train.state import update_average


@pytest.mark.parametrize("counts", [True, False])
def test_every_tensor_moves_as_it_would_alone(counts: bool) -> None:
    torch.manual_seed(0)
    norm = nn.BatchNorm2d(4, track_running_stats=counts)
    student = nn.Sequential(nn.Conv2d(3, 4, 3), norm, nn.Conv2d(4, 2, 1)).double()
    average = copy.deepcopy(student)
    with torch.no_grad():
        for parameter in student.parameters():
            parameter.copy_(torch.randn_like(parameter))
    student(torch.randn(2, 3, 8, 8, dtype=torch.float64))
    before = {name: value.clone() for name, value in average.state_dict().items()}
    update_average(average, student, decay=0.75, step=1000)
    now = student.state_dict()
    assert ("1.num_batches_tracked" in now) == counts
    for name, kept in average.state_dict().items():
        if kept.is_floating_point():
            torch.testing.assert_close(kept, 0.75 * before[name] + 0.25 * now[name])
            assert torch.equal(kept, before[name].lerp(now[name], 0.25))
        else:
            assert int(kept) == int(now[name]) == 1
