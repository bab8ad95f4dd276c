"""What the processes of one training share, where there are several."""

import torch
import torch.distributed as dist
from torch import Tensor


def processes() -> tuple[int, int]:
    """This process's number and how many there are; (0, 1) outside torch.distributed."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    return 0, 1


@torch.no_grad()
def gathered(values_B: Tensor) -> Tensor:
    """The values of all processes, those of process 0 first; every process gives equally many."""
    _, count = processes()
    if count == 1:
        return values_B
    parts = [torch.empty_like(values_B) for _ in range(count)]
    dist.all_gather(parts, values_B.contiguous())
    return torch.cat(parts)
