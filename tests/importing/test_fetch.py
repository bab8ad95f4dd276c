"""`zsseg dataset fetch` from a server on loopback that breaks off, lies, and sends bad archives."""

import hashlib
import io
import shutil
import stat
import tarfile
import threading
import zipfile
from collections.abc import Iterator
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.zsseg_command import zsseg

from zsseg.stages.data.spec import load_spec
from zsseg.stages.errors import DatasetError, ResourceError
from zsseg.stages.importing import download as download_module
from zsseg.stages.importing import downloads
from zsseg.stages.importing.download import PublicFile, download
from zsseg.stages.importing.downloads import DownloadFile, PublicDataset, public_datasets
from zsseg.stages.importing.unpack import unpack


class Files:
    """What a server has, and how it misbehaves."""

    def __init__(self) -> None:
        self.content: dict[str, bytes] = {}
        self.cut: list[int] = []
        """Bytes after which the next answers break off, one each."""
        self.ranges = True
        self.tells_length = True
        self.asked: list[str | None] = []
        """The Range of each request."""


class _Handler(BaseHTTPRequestHandler):
    def __init__(self, files: Files, *args: Any) -> None:
        self.files = files
        super().__init__(*args)

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_GET(self) -> None:
        content = self.files.content.get(self.path)
        if content is None:
            self.send_error(404)
            return
        asked = self.headers.get("Range")
        self.files.asked.append(asked)
        start = int(asked.removeprefix("bytes=").rstrip("-")) if asked else 0
        if not self.files.ranges:
            start = 0
        if asked and self.files.ranges and start >= len(content):
            self.send_error(416)
            return
        self.send_response(206 if start else 200)
        if self.files.tells_length:
            self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        sent = content[start:]
        self.wfile.write(sent[: self.files.cut.pop(0)] if self.files.cut else sent)


@pytest.fixture
def served() -> Iterator[tuple[Files, str]]:
    files = Files()
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Handler, files))
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield files, f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def md5(content: bytes) -> str:
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


def got(file: PublicFile, target: Path) -> bytes:
    download(file, target, progress=lambda done, total: None)
    return target.read_bytes()


BODY = bytes(range(256)) * 40


def test_an_interrupted_download_goes_on(served: tuple[Files, str], tmp_path: Path) -> None:
    files, address = served
    files.content["/a.zip"] = BODY
    files.cut = [1000, 500, 3000]
    file = PublicFile(f"{address}/a.zip", md5(BODY), len(BODY))
    assert got(file, tmp_path / "a.zip") == BODY
    assert files.asked == [None, "bytes=1000-", "bytes=1500-", "bytes=4500-"]
    assert [path.name for path in tmp_path.iterdir()] == ["a.zip"]


def test_what_a_killed_process_left_is_used(served: tuple[Files, str], tmp_path: Path) -> None:
    files, address = served
    files.content["/a.zip"] = BODY
    for have in (10, len(BODY)):
        (tmp_path / "a.zip.partial").write_bytes(BODY[:have])
        assert got(PublicFile(f"{address}/a.zip", md5(BODY)), tmp_path / "a.zip") == BODY


def test_a_server_that_knows_no_ranges_sends_it_anew(
    served: tuple[Files, str], tmp_path: Path
) -> None:
    files, address = served
    files.content["/a.zip"] = BODY
    files.ranges = False
    (tmp_path / "a.zip.partial").write_bytes(b"old")
    assert got(PublicFile(f"{address}/a.zip"), tmp_path / "a.zip") == BODY


def test_another_file_is_refused(served: tuple[Files, str], tmp_path: Path) -> None:
    files, address = served
    files.content["/a.zip"] = BODY
    target = tmp_path / "a.zip"
    with pytest.raises(ResourceError, match=r"has 10,240 bytes where 5 are expected"):
        got(PublicFile(f"{address}/a.zip", bytes=5), target)
    with pytest.raises(ResourceError, match=r"MD5 is .* It is removed; run the same command again"):
        got(PublicFile(f"{address}/a.zip", md5="0" * 32), target)
    with pytest.raises(ResourceError, match="answers 404"):
        got(PublicFile(f"{address}/b.zip"), target)
    assert not [*tmp_path.iterdir()]


def test_no_network_is_told_at_once_and_what_is_here_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tries = []

    def refused(*args: Any, **options: Any) -> None:
        tries.append(1)
        raise OSError("no route to host")

    monkeypatch.setattr(download_module, "urlopen", refused)
    with pytest.raises(ResourceError, match=r"no route to host.*0 bytes are kept"):
        got(PublicFile("http://nowhere/a.zip"), tmp_path / "a.zip")
    assert len(tries) == 1
    (tmp_path / "a.zip.partial").write_bytes(b"12345")
    with pytest.raises(ResourceError, match="5 bytes are kept"):
        got(PublicFile("http://nowhere/a.zip"), tmp_path / "a.zip")
    assert (tmp_path / "a.zip.partial").read_bytes() == b"12345"


def test_a_full_disk_is_told_before(
    served: tuple[Files, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files, address = served
    files.content["/a.zip"] = BODY
    usage = shutil.disk_usage(tmp_path)._replace(free=100)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(ResourceError, match=r"10,240 bytes are still to come, 100 are free"):
        got(PublicFile(f"{address}/a.zip"), tmp_path / "a.zip")


def test_the_size_that_is_known_counts_where_the_server_tells_none(
    served: tuple[Files, str], tmp_path: Path
) -> None:
    files, address = served
    files.content["/a.zip"] = BODY
    files.tells_length = False
    files.cut = [1000]
    assert got(PublicFile(f"{address}/a.zip", bytes=len(BODY)), tmp_path / "a.zip") == BODY
    assert files.asked == [None, "bytes=1000-"]
    with pytest.raises(ResourceError, match=r"has 10,240 bytes where 5 are expected.*is removed"):
        got(PublicFile(f"{address}/a.zip", bytes=5), tmp_path / "b.zip")
    assert [path.name for path in tmp_path.iterdir()] == ["a.zip"]


def zipped(*members: tuple[str, bytes], link: str = "") -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members:
            archive.writestr(name, content)
        if link:
            info = zipfile.ZipInfo(link)
            info.external_attr = (stat.S_IFLNK | 0o777) << 16
            archive.writestr(info, "/etc/passwd")
    return stream.getvalue()


def tarred(*members: tuple[str, bytes], link: str = "") -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
        if link:
            info = tarfile.TarInfo(link)
            info.type, info.linkname = tarfile.SYMTYPE, "/etc/passwd"
            archive.addfile(info)
    return stream.getvalue()


def unpacked(content: bytes, folder: Path) -> dict[str, bytes]:
    archive = folder / "archive"
    archive.write_bytes(content)
    unpack(archive, folder / "out", progress=lambda done, total: None)
    files = [path for path in (folder / "out").rglob("*") if path.is_file()]
    return {path.relative_to(folder / "out").as_posix(): path.read_bytes() for path in files}


@pytest.mark.parametrize("make", [zipped, tarred])
def test_archives_are_unpacked_and_again(make: Any, tmp_path: Path) -> None:
    content = make(("val/a.jpg", b"1"), ("val/b.jpg", b"22"), ("__MACOSX/val/._a.jpg", b"x"))
    assert unpacked(content, tmp_path) == {"val/a.jpg": b"1", "val/b.jpg": b"22"}
    (tmp_path / "out/val/a.jpg").unlink()
    assert unpacked(content, tmp_path) == {"val/a.jpg": b"1", "val/b.jpg": b"22"}
    (tmp_path / "out/val/a.jpg").write_bytes(b"mine")
    with pytest.raises(DatasetError, match=r"a\.jpg: another file is in the way"):
        unpacked(content, tmp_path)
    assert (tmp_path / "out/val/a.jpg").read_bytes() == b"mine"


@pytest.mark.parametrize("make", [zipped, tarred])
@pytest.mark.parametrize("name", ["../a", "/tmp/a", "b/../../a", "c:\\a", "..\\a"])
def test_members_that_lead_out_are_refused(make: Any, name: str, tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="leads out of the folder; nothing of it was unpacked"):
        unpacked(make(("good", b"1"), (name, b"2")), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["archive"]


@pytest.mark.parametrize("make", [zipped, tarred])
def test_links_and_damage_are_refused(make: Any, tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"is a link|is no ordinary file"):
        unpacked(make(("good", b"1"), link="evil"), tmp_path)
    whole = make(("a", bytes(5000)), ("b", BODY))
    with pytest.raises(DatasetError, match="is damaged, or no archive"):
        unpacked(whole[: len(whole) // 3], tmp_path)
    with pytest.raises(DatasetError, match="is damaged, or no archive"):
        unpacked(b"no archive", tmp_path)


@pytest.mark.parametrize("kind", ["gz", "bz2", "xz"])
@pytest.mark.parametrize("where", [0.5, 1.0])
def test_damage_in_a_packed_tar_is_told(kind: str, where: float, tmp_path: Path) -> None:
    stream = io.BytesIO()
    content = np.random.default_rng(0).bytes(300_000)
    mode: Any = f"w:{kind}"
    with tarfile.open(fileobj=stream, mode=mode) as archive:
        info = tarfile.TarInfo("a")
        info.size = len(content)
        archive.addfile(info, io.BytesIO(content))
    whole = bytearray(stream.getvalue())
    assert unpacked(bytes(whole), tmp_path) == {"a": content}
    shutil.rmtree(tmp_path / "out")
    # The last bytes of a packed file are its checksum, or of its end's.
    whole[min(int(where * len(whole)), len(whole) - 6)] ^= 255
    with pytest.raises(DatasetError, match="is damaged, or no archive"):
        unpacked(bytes(whole), tmp_path)


def test_an_encrypted_archive_is_told(tmp_path: Path) -> None:
    content = bytearray(zipped(("a", b"hello")))
    content[6] |= 1
    content[content.find(b"PK\x01\x02") + 8] |= 1
    with pytest.raises(DatasetError, match=r"is encrypted.*unpack it by hand to"):
        unpacked(bytes(content), tmp_path)


def test_an_archive_made_to_fill_the_disk_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"unpack to 20,000,000 bytes"):
        unpacked(zipped(("a", bytes(20_000_000))), tmp_path)


@pytest.fixture
def small_set(
    served: tuple[Files, str], monkeypatch: pytest.MonkeyPatch
) -> tuple[Files, PublicDataset]:
    """A data set of an archive and a single file on the server, in the place of ADE20K."""
    files, address = served
    files.content["/x/data.zip"] = body = zipped(("set/images/a.jpg", b"1"))
    files.content["/lists.json"] = b"{}"
    found = PublicDataset(
        licence="free for all",
        page="http://page",
        files=[
            DownloadFile(url=f"{address}/x/data.zip", md5=md5(body), bytes=len(body), into="."),
            DownloadFile(url=f"{address}/lists.json", into="set", unpack=False),
        ],
    )
    monkeypatch.setattr(downloads, "public_datasets", lambda: {"ade20k": found})
    return files, found


def test_the_command(
    small_set: tuple[Files, PublicDataset], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files, _ = small_set
    call = ("dataset", "fetch", "ade20k", "--root", tmp_path / "ade", "--yes", "-q")
    assert zsseg(*call) == 0
    shown = capsys.readouterr().out
    assert "free for all (http://page)" in shown
    assert "fetched data.zip, lists.json; next:" in shown
    assert (tmp_path / "ade/set/images/a.jpg").read_bytes() == b"1"
    assert (tmp_path / "ade/set/lists.json").read_bytes() == b"{}"
    assert not (tmp_path / "ade/downloads/data.zip").exists()
    requests = len(files.asked)
    assert zsseg(*call) == 0
    assert "all of it is here already" in capsys.readouterr().out
    assert len(files.asked) == requests


@pytest.mark.usefixtures("small_set")
def test_a_licence_is_agreed_to_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO())
    assert zsseg("dataset", "fetch", "ade20k", "--root", tmp_path / "ade") == 2
    shown = capsys.readouterr()
    assert "free for all" in shown.out
    assert "give --yes" in shown.err
    assert not (tmp_path / "ade").exists()


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("cityscapes", "without an account. Get it from https://www.cityscapes"),
        ("x", "Give one of"),
    ],
)
def test_what_cannot_be_fetched(
    name: str, text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert zsseg("dataset", "fetch", name, "--root", tmp_path, "--yes") == 4
    assert text in capsys.readouterr().err


def test_every_address_is_of_a_built_in_data_set() -> None:
    for name, found in public_datasets().items():
        assert load_spec(name).layout != "folder"
        assert found.licence
        for file in found.files:
            assert file.url.startswith(("http://", "https://"))
            assert file.md5 is None or len(file.md5) == 32
            assert ".." not in file.into
