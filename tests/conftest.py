"""Small generated inputs that several test files share."""

import logging
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from helpers.drawn_world import draw_world
from helpers.random_clip import write_clip
from helpers.urls import at_url

if TYPE_CHECKING:
    from upath import UPath

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture(scope="session", autouse=True)
def gradients_before_any_forecast() -> None:
    """torch sets up its threads for gradients once, at the first that are asked for.

    After a memory forecast (tensors without numbers) it takes the processor for one of several
    devices, starts threads, and no fork of this process can compute gradients: tests fork.
    """
    import torch

    torch.ones(1, requires_grad=True).sum().backward()


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real data beside the checkout (CamVid and a small CLIP for it), where it is there."""
    if not (SHARED / "camvid").is_dir():
        pytest.skip(f"no real data at {SHARED}")
    return SHARED


@pytest.fixture
def tiny_world(tmp_path: Path) -> Path:
    """A `folder` data set of six training images; the fixture is its description's path."""
    root = tmp_path / "world"
    draw_world(root, split="train", images=6)
    return draw_world(root, split="val", images=3, seed=1)


@pytest.fixture(scope="session")
def tiny_clip(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Teacher spec of a small random ViT CLIP."""
    return write_clip(tmp_path_factory.mktemp("clip-vit"), tower="vit")


@pytest.fixture(scope="session")
def tiny_cnn_clip(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Teacher spec of a small random CLIP with a timm tower."""
    return write_clip(tmp_path_factory.mktemp("clip-cnn"), tower="cnn")


@pytest.fixture
def one_teacher(monkeypatch: pytest.MonkeyPatch) -> None:
    """Loading one costs more than most tests of stage one; equal files are the same teacher."""
    from helpers.clip_store import load_once

    monkeypatch.setattr("zsseg.stages.precompute.teacher.clip_teacher.load_teacher", load_once)


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory, tiny_clip: str) -> tuple[Path, Path]:
    """A world of six images and the store of it, for tests that change neither."""
    from helpers.clip_store import make

    folder = tmp_path_factory.mktemp("made")
    world = draw_world(folder / "world", images=6)
    return world, make(world, tiny_clip, folder / "cache")


@pytest.fixture
def fresh(made: tuple[Path, Path], tmp_path: Path) -> tuple[Path, Path]:
    """A copy of the world, and of its store beside it in `tmp_path / "cache"`."""
    world, store = made
    shutil.copytree(world.parent, tmp_path / "world")
    shutil.copytree(store, tmp_path / "cache" / store.name)
    return tmp_path / "world" / world.name, tmp_path / "cache" / store.name


@pytest.fixture(scope="module", autouse=True)
def logging_as_before() -> Iterator[None]:
    """The commands set up logging for their process; other tests share this one."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    logging.captureWarnings(False)
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.getLogger("zsseg").setLevel(logging.NOTSET)


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of an S3 server; this process's environment leads to it and to nothing else."""
    from moto.moto_server.threaded_moto_server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    running = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    running.start()
    host, port = running.get_host_and_port()
    nothing = tmp_path_factory.mktemp("aws") / "none"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        patch.setenv("AWS_ACCESS_KEY_ID", "key")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        patch.setenv("AWS_CONFIG_FILE", str(nothing))
        patch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(nothing))
        patch.delenv("AWS_PROFILE", raising=False)
        yield f"http://{host}:{port}"
    running.stop()


@pytest.fixture
def bucket(s3_server: str) -> "UPath":
    """A folder in an S3 bucket of its own."""
    folder = at_url(f"s3://stores-{uuid.uuid4().hex[:12]}/of/tests")
    at_url(f"s3://{folder.path.split('/')[0]}").mkdir()
    return folder


@pytest.fixture(params=["s3", "memory"])
def url_folder(request: pytest.FixtureRequest) -> "UPath":
    """A folder at a URL: in a bucket, and in memory."""
    if request.param == "s3":
        return request.getfixturevalue("bucket")  # type: ignore[no-any-return]
    return at_url(f"memory://{uuid.uuid4().hex}/of/tests")
