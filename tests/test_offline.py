"""With ZSSEG_OFFLINE nothing is fetched or sent, and the message says so at once."""

import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import constants

from zsseg.stages import offline
from zsseg.stages.errors import ResourceError
from zsseg.stages.importing.download import PublicFile, download
from zsseg.stages.offline import switch_in
from zsseg.stages.precompute.teacher import teacher_files
from zsseg.stages.share import hub


@pytest.fixture(autouse=True)
def no_connection(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def refused(*where: object, **how: object) -> Any:
        raise AssertionError(f"the network was asked: {where} {how}")

    monkeypatch.setenv("ZSSEG_OFFLINE", "1")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(socket, "create_connection", refused)
    monkeypatch.setattr(socket.socket, "connect", refused)


def test_no_file_is_downloaded(tmp_path: Path) -> None:
    with pytest.raises(ResourceError, match=r"a\.zip: ZSSEG_OFFLINE is set.*bring the file to"):
        download(PublicFile("https://example.org/a.zip"), tmp_path / "a.zip", progress=print)
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_sent(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(hub, "check_pretrained", lambda folder: None)
    with pytest.raises(ResourceError, match="lab/street: ZSSEG_OFFLINE is set"):
        hub.push(tmp_path, "lab/street")


def test_weights_at_an_address_are_not_fetched(monkeypatch: pytest.MonkeyPatch) -> None:
    published = {"url": "https://example.org/ViT.pt"}
    monkeypatch.setattr(teacher_files, "published_weights", lambda *_: ("openai", published))
    with pytest.raises(ResourceError, match=r"Bring https://example\.org/ViT\.pt here"):
        teacher_files._from_tag("ViT-B-16/openai")


@pytest.mark.parametrize(
    ("environ", "switch"),
    [
        ({}, None),
        ({"ZSSEG_OFFLINE": "0"}, None),
        ({"ZSSEG_OFFLINE": "Yes"}, "ZSSEG_OFFLINE"),
        ({"HF_HUB_OFFLINE": "1"}, "HF_HUB_OFFLINE"),
    ],
)
def test_which_variable_switches_the_network_off(
    environ: dict[str, str], switch: str | None
) -> None:
    assert switch_in(environ) == switch


def test_the_library_of_the_hub_is_switched_off_too() -> None:
    code = "import zsseg, huggingface_hub.constants as c; print(c.HF_HUB_OFFLINE)"
    environ = {name: text for name, text in os.environ.items() if name != "HF_HUB_OFFLINE"}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environ
    )
    assert done.stdout == "True\n"


@pytest.mark.parametrize("reached", [True, False])
def test_a_hub_is_tried_once_and_then_asked_or_left_alone(
    reached: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("ZSSEG_OFFLINE")
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    tried = []

    def answer(address: str, *, patience: float) -> bool:
        tried.append(address)
        return reached

    monkeypatch.setattr(offline, "takes_connection", answer)
    with offline.hub_at_once(wanted=False):
        assert not constants.HF_HUB_OFFLINE
    assert not tried
    with offline.hub_at_once():
        assert constants.HF_HUB_OFFLINE is not reached
    assert len(tried) == 1
    assert not constants.HF_HUB_OFFLINE


def test_a_teacher_that_is_not_here_is_missed_without_asking_the_hub() -> None:
    with pytest.raises(ResourceError, match="cannot get its weights"):
        teacher_files._from_tag("ViT-B-16-quickgelu/openai")  # a connection fails the test
