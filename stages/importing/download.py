"""Downloads one file: goes on where it was interrupted, compares its size and hash."""

import hashlib
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from zsseg.stages.errors import ResourceError
from zsseg.stages.offline import refuse_offline

_PARTIAL = ".partial"
_CHUNK = 1 << 20
_PATIENCE = 30.0  # seconds without a byte
_ATTEMPTS = 2  # in a row without a new byte
_FULL = 416  # the answer where nothing is left to send


@dataclass(frozen=True)
class PublicFile:
    """Where a file is and what it should be; None: nobody has published it."""

    url: str
    md5: str | None = None
    bytes: int | None = None


def download(file: PublicFile, target: Path, *, progress: Callable[[int, int], None]) -> None:
    """Write the file to `target`, which appears only when it is whole and what it should be.

    Calls `progress(bytes done, bytes)`. Raises ResourceError when it cannot be had, is another than
    it should be, or has no room on the disk; what was received is kept for the next call, unless it
    is wrong.
    """
    refuse_offline(file.url, f"Unset it, or bring the file to {target}")
    partial = target.with_name(target.name + _PARTIAL)
    partial.parent.mkdir(parents=True, exist_ok=True)
    failed = 0
    while True:
        before = partial.stat().st_size if partial.exists() else 0
        try:
            if _receive(file, partial, progress):
                break
            reason = "the connection ended too early"
        except HTTPError as error:
            raise ResourceError(
                f"{file.url}: the server answers {error.code} {error.reason}. Try again later, or "
                f"download it by hand to {target}"
            ) from error
        except (OSError, HTTPException) as error:
            reason = str(error) or type(error).__name__
        have = partial.stat().st_size if partial.exists() else 0
        failed = failed + 1 if have <= before else 0
        if failed >= _ATTEMPTS or not have:
            raise ResourceError(
                f"{file.url}: cannot be downloaded ({reason}). Run the same command again when the "
                f"network is back: {have:,} bytes are kept; or put the file at {target}"
            )
    _check(file, partial)
    partial.replace(target)


def _receive(file: PublicFile, partial: Path, progress: Callable[[int, int], None]) -> bool:
    """Receive what is missing; whether all of it is there then."""
    have = partial.stat().st_size if partial.exists() else 0
    headers = {"User-Agent": "zsseg", "Accept-Encoding": "identity"}
    if have:
        headers["Range"] = f"bytes={have}-"
    try:
        response: HTTPResponse = urlopen(Request(file.url, headers=headers), timeout=_PATIENCE)
    except HTTPError as error:
        if error.code == _FULL and have:  # all of it was received before
            error.close()
            return True
        raise
    with response:
        goes_on = response.status == 206
        if not goes_on:
            have = 0  # the server sends it from the start
        total = _total(response, have) or file.bytes
        _refuse(file, partial, have, total)
        with partial.open("ab" if goes_on else "wb") as out:
            while chunk := response.read(_CHUNK):
                out.write(chunk)
                have += len(chunk)
                progress(have, max(total or have, have))
    return total is None or have >= total


def _total(response: HTTPResponse, have: int) -> int | None:
    length = response.headers.get("Content-Length", "")
    return have + int(length) if length.isdecimal() else None


def _refuse(file: PublicFile, partial: Path, have: int, total: int | None) -> None:
    """Raise ResourceError for a file of another size, and for one that the disk has no room for."""
    if file.bytes and total and total != file.bytes:
        raise ResourceError(
            f"{file.url}: has {total:,} bytes where {file.bytes:,} are expected: another file. "
            "Download the data set by hand from its page"
        )
    free = shutil.disk_usage(partial.parent).free
    if total and total - have > free:
        raise ResourceError(
            f"{partial.parent}: {total - have:,} bytes are still to come, {free:,} are free. Make "
            "room, or give another --root; what is here is kept"
        )


def _check(file: PublicFile, partial: Path) -> None:
    """Raise ResourceError, and remove the file, where its size or its hash is another."""
    size = partial.stat().st_size
    if file.bytes is not None and size != file.bytes:
        partial.unlink()
        raise ResourceError(
            f"{file.url}: has {size:,} bytes where {file.bytes:,} are expected: another file. It "
            "is removed; run the same command again, or download the data set from its page"
        )
    if file.md5 is None:
        return
    with partial.open("rb") as stream:
        found = hashlib.file_digest(stream, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
    if found != file.md5:
        partial.unlink()
        raise ResourceError(
            f"{file.url}: its MD5 is {found} where {file.md5} is expected: it was damaged on the "
            "way, or is another file. It is removed; run the same command again"
        )
