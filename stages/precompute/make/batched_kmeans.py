"""k-means of many images at once, in torch: where the tokens are, and without asking the device.

Images have unlike numbers of tokens and seeds: masks say which are there. The number of operations
does not depend on the number of images, no step waits for an answer of the device, and centres are
sums by matrix products, not by atomic additions, so that a device repeats itself.

Legend: B images, N points, S seeds, D width, h w token grid, P Q window positions.
"""

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor


def lloyd(
    point_BND: Tensor,
    there_BN: Tensor,
    seed_BSD: Tensor,
    seed_there_BS: Tensor,
    *,
    iterations: int,
    ask: bool = False,
) -> tuple[Tensor, Tensor]:
    """Lloyd's algorithm from seeds in every image: cluster of each point (B, N), centres (B, S, D).

    As `kmeans.kmeans` with scikit-learn: distances are Euclidean, seeds that no point is nearest to
    are dropped before the first iteration (of two equal ones the second), of equal distances the
    lower seed wins, and clusters that lose their last point begin anew at the points that are
    farthest from their centres. Points and seeds that are not there (bool masks) take no part; a
    point that is not there gets any cluster. All `iterations` are made: a clustering that has come
    to rest stays as it is. With `ask`, for a CPU, which answers at once: what would change nothing
    is left out.
    """
    with torch.autocast(point_BND.device.type, enabled=False), torch.inference_mode():
        nearest_BN = _nearest(point_BND, seed_BSD, _absent(seed_there_BS))
        used_BS = _one_hot(nearest_BN, there_BN, seed_BSD).any(1)
        absent_B1S, centre_BSD = _absent(used_BS), seed_BSD
        for _ in range(iterations):
            empty_BS = used_BS & ~_one_hot(nearest_BN, there_BN, seed_BSD).any(1)
            if not ask or bool(empty_BS.any()):
                nearest_BN = _refilled(nearest_BN, point_BND, there_BN, centre_BSD, empty_BS)
            member_BSN = _one_hot(nearest_BN, there_BN, seed_BSD).mT
            count_BS1 = member_BSN.sum(2, keepdim=True)
            mean_BSD = (member_BSN @ point_BND) / count_BS1.clamp_min(1)
            centre_BSD = torch.where(count_BS1 > 0, mean_BSD, centre_BSD)
            before_BN, nearest_BN = nearest_BN, _nearest(point_BND, centre_BSD, absent_B1S)
            if ask and bool((nearest_BN == before_BN)[there_BN].all()):
                break
        return nearest_BN, centre_BSD


def _absent(there_BS: Tensor) -> Tensor:
    """(B, 1, S) what is added to distances: 0, or infinity to a seed that is not there."""
    return torch.zeros_like(there_BS, dtype=torch.float32).masked_fill(~there_BS, torch.inf)[
        :, None
    ]


def _nearest(point_BND: Tensor, centre_BSD: Tensor, absent_B1S: Tensor) -> Tensor:
    """(B, N) the nearest centre. |p|^2 is the same for all of them and left out."""
    square_B1S = centre_BSD.square().sum(2)[:, None] + absent_B1S
    return torch.baddbmm(square_B1S, point_BND, centre_BSD.mT, alpha=-2).argmin(2)


def _refilled(
    nearest_BN: Tensor, point_BND: Tensor, there_BN: Tensor, centre_BSD: Tensor, empty_BS: Tensor
) -> Tensor:
    """(B, N) the clusters, where each empty one has been given one of the farthest points.

    Of an image with e empty clusters the e points that are farthest from their centres move, each
    into another of them.
    """
    own_BND = centre_BSD.gather(1, nearest_BN[..., None].expand_as(point_BND))
    far_BN = (point_BND - own_BND).square().sum(2).masked_fill(~there_BN, -1)
    # The rank of each point, the farthest first; and the empty clusters before all others.
    rank_BN = far_BN.argsort(dim=1, descending=True, stable=True).argsort(dim=1, stable=True)
    emptied_BS = (~empty_BS).byte().argsort(dim=1, stable=True)
    last = emptied_BS.shape[1] - 1
    moves_BN = rank_BN < empty_BS.sum(1, keepdim=True)
    return torch.where(moves_BN, emptied_BS.gather(1, rank_BN.clamp_max(last)), nearest_BN)


def _one_hot(index_BN: Tensor, there_BN: Tensor, seed_BSD: Tensor) -> Tensor:
    """(B, N, S) float32: 1 at the index of each point that is there."""
    place_S = torch.arange(seed_BSD.shape[1], device=index_BN.device)
    return ((index_BN[..., None] == place_S) & there_BN[..., None]).float()


def packed(unlabelled_Bhw: NDArray[np.bool_]) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """(B, N) the places of unlabelled tokens in each image's grid, row by row, and which are there.

    N is that of the image with the most, at least 1.
    """
    mask_BL = unlabelled_Bhw.reshape(len(unlabelled_Bhw), -1)
    count_B = mask_BL.sum(1)
    there_BN = np.arange(max(1, int(count_B.max(initial=0)))) < count_B[:, None]
    # A stable sort puts the places of an image's tokens first, in order.
    place_BN = np.argsort(~mask_BL, axis=1, kind="stable")[:, : there_BN.shape[1]]
    return place_BN, there_BN


def batched_seeds(
    unit_BhwD: Tensor, unlabelled_Bhw: Tensor, windows: Sequence[tuple[Tensor, Tensor]]
) -> tuple[Tensor, Tensor]:
    """(B, S, D) means of the unlabelled tokens in every window, and (B, S) which have any.

    As `regions.window_seeds`, with all window positions of the grid: `windows` has, by size, which
    rows (P, h) and columns (Q, w) each covers (float32, 1 or 0).
    """
    count_Bhw = unlabelled_Bhw.float()
    masked_BhwD = unit_BhwD * count_Bhw[..., None]
    seeds, there = [], []
    for down_Ph, across_Qw in windows:
        count_BPQ = down_Ph @ count_Bhw @ across_Qw.T
        sum_BPwD = torch.einsum("ph,bhwd->bpwd", down_Ph, masked_BhwD)
        sum_BPQD = torch.einsum("qw,bpwd->bpqd", across_Qw, sum_BPwD)
        seeds.append((sum_BPQD / count_BPQ.clamp_min(1)[..., None]).flatten(1, 2))
        there.append((count_BPQ > 0).flatten(1))
    return torch.cat(seeds, 1), torch.cat(there, 1)


def batched_clusters(
    dense_BDhw: NDArray[np.floating],
    unlabelled_Bhw: NDArray[np.bool_],
    windows: Sequence[tuple[NDArray[np.float32], NDArray[np.float32]]],
    *,
    iterations: int,
    device: torch.device,
) -> list[tuple[NDArray[np.int64], NDArray[np.float32]]]:
    """For each image the cluster of its unlabelled tokens (N,), row by row, and the centres (S, D).

    The host waits for the device once, at the end.
    """
    place_BN, there_BN = packed(unlabelled_Bhw)
    width = dense_BDhw.shape[1]
    with torch.inference_mode():
        dense = torch.from_numpy(np.ascontiguousarray(dense_BDhw)).to(device, non_blocking=True)
        unit_BhwD = F.normalize(dense.permute(0, 2, 3, 1).float(), dim=3, eps=1e-12)
        seed_BSD, seed_there_BS = batched_seeds(
            unit_BhwD,
            torch.from_numpy(unlabelled_Bhw).to(device, non_blocking=True),
            [(torch.from_numpy(a).to(device), torch.from_numpy(b).to(device)) for a, b in windows],
        )
        place = torch.from_numpy(place_BN).to(device, non_blocking=True)
        point_BND = unit_BhwD.flatten(1, 2).gather(1, place[..., None].expand(-1, -1, width))
        there = torch.from_numpy(there_BN).to(device, non_blocking=True)
        label_BN, centre_BSD = lloyd(
            point_BND,
            there,
            seed_BSD,
            seed_there_BS,
            iterations=iterations,
            ask=device.type == "cpu",
        )
        labels, centres = label_BN.cpu().numpy(), centre_BSD.cpu().numpy()
    return [
        (label_N[there_N], centre_SD)
        for label_N, there_N, centre_SD in zip(labels, there_BN, centres, strict=True)
    ]
