"""Where a store lies: paths and URLs as a person writes them."""

from contextlib import suppress
from pathlib import Path

import pytest

from zsseg.stages.cache.disk.store_path import store_path
from zsseg.stages.errors import ResourceError, UserError


@pytest.mark.parametrize(
    ("text", "path"),
    [("data_cache", Path("data_cache")), ("file:///tmp/x", Path("/tmp/x"))],
)
def test_places_of_this_machine_are_paths(text: str, path: Path) -> None:
    found = store_path(text)
    assert type(found) is type(path)
    assert found == path


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("s3://user:hunter2@bucket/x", "a password or key stands in this URL"),
        ("nowhere://bucket", "no such protocol"),
        ("s3://", "names no bucket"),
        ("filecache::s3://bucket/x", "a chain of file systems"),
        ("gs://bucket/x", "package that speaks gs:// is missing; install it: .*gcsfs"),
    ],
)
def test_a_url_that_cannot_be_used_says_why(url: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as error:
        store_path(url)
    assert "hunter2" not in str(error.value)


@pytest.mark.parametrize(
    "url",
    [
        "s3://AKIA1:hunter2/x+y@bucket/store",
        "s3://AKIA1:a/b#hunter2@bucket",
        "s3://AKIA1:hunter2?c@bucket",
        "s3://AKIA1:hunter2#@bucket/x",
        "filecache::s3://AKIA1:hun/hunter2@bucket/x",
        "https://host/x?X-Amz-Signature=hunter2",
        "nowhere://user:hunter2/@host",
    ],
)
def test_a_key_in_a_url_is_refused_unseen(url: str, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(UserError, match="not shown") as error:
        store_path(url)
    shown = f"{error.value} {error.value.__cause__} {caplog.text}"
    assert not any(part in shown for part in ("hunter2", "AKIA1", "bucket/"))


@pytest.mark.parametrize("url", ["s3://bucket/a@b", "abfs://box@account.example/x"])
def test_an_at_sign_is_no_key(url: str) -> None:
    with suppress(ResourceError):  # the package for the protocol is not here
        assert str(store_path(url)) == url


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(_: str) -> None:
        raise ImportError("Install s3fs to access S3")

    monkeypatch.setattr("fsspec.get_filesystem_class", missing)
    with pytest.raises(ResourceError, match=r'pip install "zsseg\[s3\]"'):
        store_path("s3://bucket/x")
