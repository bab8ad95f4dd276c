"""Where a store or a folder of stores lies: a path of this machine, or a URL of a place elsewhere.

Credentials belong to the environment and to the configuration files of the object store's own
tools. A URL is printed and written into the records of runs, so none may stand in it.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias
from urllib.parse import urlsplit

from zsseg.stages.errors import ResourceError, UserError

if TYPE_CHECKING:
    from upath import UPath as UPath  # from here, for the modules that know both

    StorePath: TypeAlias = Path | UPath
else:
    StorePath = Path  # fsspec is imported for the first URL, not for the annotations

BUCKETS = frozenset({"s3", "s3a", "gs", "gcs", "az", "abfs", "abfss"})
"""Protocols whose URLs begin with a bucket, which somebody has to make first."""

_LOCAL = ("file", "local")
_S3 = ("s3", "s3a")
CREDENTIALS_ADVICE = (
    "Credentials and endpoint come from the environment or the configuration files of the object "
    "store's own tools (for s3:// AWS_PROFILE, AWS_ACCESS_KEY_ID, AWS_ENDPOINT_URL, ~/.aws)"
)


def store_path(text: str | Path) -> StorePath:
    """What a person names: `s3://bucket/folder`, `gs://...`, `file:///...`, or a path.

    UserError for a URL that cannot be used, or that holds a password; ResourceError when the
    package for its protocol is not installed. Nothing is connected to.
    """
    url = str(text)
    protocol, scheme, rest = url.partition("://")
    if not scheme:
        return Path(text)
    if "::" in url:
        raise UserError(
            f"{url}: a chain of file systems. Give the URL of the store itself, or copy it to this "
            "machine with `zsseg cache export` and `import`"
        )
    if urlsplit(url).password is not None:
        raise UserError(
            f"--cache {protocol}://...: a password stands in this URL. {CREDENTIALS_ADVICE}"
        )
    if protocol in _LOCAL:
        return Path(rest)
    if not rest.strip("/"):
        raise UserError(f"{url}: names no bucket or folder. Give one, as in s3://bucket/folder")
    from fsspec import get_filesystem_class
    from upath import UPath

    try:
        get_filesystem_class(protocol)
    except ValueError as error:
        raise UserError(f"{url}: no such protocol; those of fsspec work") from error
    except ImportError as error:
        package = 'pip install "zsseg[s3]"' if protocol in _S3 else str(error)
        raise ResourceError(
            f"{url}: the package that speaks {protocol}:// is missing: {package}"
        ) from error
    options: dict[str, Any] = {}
    if protocol in BUCKETS:  # other processes write too: a kept listing would hide what they did
        options["use_listings_cache"] = False
    if protocol in _S3:  # else s3fs asks for the size of every file that it reads
        options["max_concurrency"] = 1
    return UPath(url.rstrip("/"), protocol=protocol, **options)
