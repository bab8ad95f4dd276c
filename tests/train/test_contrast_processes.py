"""The bank of contrast shared by two real gloo processes, against one and against float64 loops."""

from collections import deque
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from helpers.contrast_scene import TAU, WIDTH, global_of, rows, scene, slow_global
from torch import Tensor

from zsseg.stages.train.losses.contrast import Bank, empty_bank, enqueue

STEPS, SIZE = 3, 7


def share_of(number: int, count: int, step: int) -> tuple[Tensor, Tensor, Tensor]:
    """Feature, token and rows of a process in a step; image 1 comes twice, in both processes."""
    feature_BDhw, token_BD, _ = scene(10 * step, batch=4)
    row_B = rows(1, 4 * step + 2, 4 * step + 3, 1)
    token_BD[3] = token_BD[0]
    part = np.s_[number * 4 // count : (number + 1) * 4 // count]
    return feature_BDhw.detach()[part], token_BD[part], row_B[part]


def learn(number: int, count: int) -> tuple[list[float], Bank]:
    bank, losses = empty_bank(WIDTH, torch.device("cpu")), []
    for step in range(STEPS):
        feature_BDhw, token_BD, row_B = share_of(number, count, step)
        bank = enqueue(bank, token_BD, row_B, size=SIZE)
        loss = global_of(feature_BDhw, token_BD, row_B, bank, tau=TAU, normalise=True)
        losses.append(loss.item())
    return losses, bank


def process(number: int, folder: Path) -> None:
    store: Any = dist.FileStore(str(folder / "meeting"), 2)  # type: ignore[attr-defined]
    patience = timedelta(seconds=60)
    dist.init_process_group("gloo", store=store, rank=number, world_size=2, timeout=patience)
    try:
        losses, bank = learn(number, 2)
    finally:
        dist.destroy_process_group()
    torch.save((losses, bank.token_MD, bank.row_M), folder / f"{number}.pt")


def second_process(_: int, folder: Path) -> None:
    process(1, folder)


def test_two_processes_share_one_bank(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo")
    second: Any = mp.spawn(  # type: ignore[attr-defined, no-untyped-call]
        second_process, (tmp_path,), nprocs=1, join=False
    )
    process(0, tmp_path)
    while not second.join():
        pass
    whole, bank = learn(0, 1)
    halves = []
    for number in range(2):
        losses, token_MD, row_M = torch.load(tmp_path / f"{number}.pt")
        assert torch.equal(token_MD, bank.token_MD)
        assert torch.equal(row_M, bank.row_M)
        halves.append(losses)
    assert np.mean(halves, axis=0) == pytest.approx(whole, rel=1e-5)
    entries: deque[tuple[int, Tensor]] = deque(maxlen=SIZE)
    for step in range(STEPS):
        _, token_BD, row_B = share_of(0, 1, step)
        entries.extend(zip(row_B.tolist(), token_BD, strict=True))
        for number in range(2):
            expected = slow_global(*share_of(number, 2, step), list(entries), normalise=True)
            assert halves[number][step] == pytest.approx(expected, rel=1e-5)
        assert abs(halves[0][step] - halves[1][step]) > 1e-3
