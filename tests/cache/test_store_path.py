"""Where a store lies: paths and URLs as a person writes them."""

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
        ("s3://user:hunter2@bucket/x", "a password stands in this URL"),
        ("nowhere://bucket", "no such protocol"),
        ("s3://", "names no bucket"),
        ("filecache::s3://bucket/x", "a chain of file systems"),
        ("gs://bucket/x", "package that speaks gs:// is missing: .*gcsfs"),
    ],
)
def test_a_url_that_cannot_be_used_says_why(url: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as error:
        store_path(url)
    assert "hunter2" not in str(error.value)


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(_: str) -> None:
        raise ImportError("Install s3fs to access S3")

    monkeypatch.setattr("fsspec.get_filesystem_class", missing)
    with pytest.raises(ResourceError, match=r'pip install "zsseg\[s3\]"'):
        store_path("s3://bucket/x")
