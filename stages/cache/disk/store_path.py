"""Reads the path or URL of a store, or of a folder of stores, as a person writes it.

Credentials belong in the environment and in the configuration files of the object store's own
tools. A URL is printed and written into the records of runs, so it may not contain any.
"""

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from zsseg.stages.errors import ResourceError, UserError

if TYPE_CHECKING:
    from upath import UPath as UPath  # the other modules import it from here

    StorePath: TypeAlias = Path | UPath
else:
    StorePath = Path  # fsspec is imported for the first URL, not for the annotations

BUCKETS = frozenset({"s3", "s3a", "gs", "gcs", "az", "abfs", "abfss"})
"""Protocols whose URLs begin with a bucket, which has to be created first."""

_LOCAL = ("file", "local")
_S3 = ("s3", "s3a")
CREDENTIALS_ADVICE = (
    "Set credentials and endpoint in the environment or in the configuration files of the object "
    "store's own tools (for s3:// AWS_PROFILE, AWS_ACCESS_KEY_ID, AWS_ENDPOINT_URL, ~/.aws)"
)


_SECRET_VALUE = re.compile(
    r"[?&#][^=&]*(key|secret|token|sig|signature|password|credential)[^=&]*=", re.IGNORECASE
)


def _holds_secret(rest: str) -> bool:
    """Does a URL, without its protocol, hold a password or key?

    KEY:SECRET@ before the bucket, where the secret may hold any of '/', '#' and '?' (so that it is
    not what an URL's grammar takes for a password), or a signature in its query.
    """
    first = re.split(r"[/?#]", rest, maxsplit=1)[0]
    return (":" in first and "@" in rest) or _SECRET_VALUE.search(rest) is not None


def store_path(text: str | StorePath) -> StorePath:
    """The path of what a person writes: `s3://bucket/folder`, `gs://...`, `file:///...`, or a path.

    UserError for a URL that cannot be used, or that contains a password; ResourceError when the
    package for its protocol is not installed. No connection is made.
    """
    url = str(text)
    protocol, scheme, rest = url.partition("://")
    if not scheme:
        return Path(url)
    if _holds_secret(rest):
        raise UserError(
            f"--cache {protocol[:8]}://...: a password or key stands in this URL, which is not "
            f"shown. {CREDENTIALS_ADVICE}"
        )
    if "::" in url:
        raise UserError(
            f"{url}: a chain of file systems. Give the URL of the store itself, or copy it to this "
            "machine with `zsseg cache export` and `import`"
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
        raise UserError(
            f"{url}: no such protocol. Use one of fsspec, such as s3:// or gs://"
        ) from error
    except ImportError as error:
        package = 'pip install "zsseg[s3]"' if protocol in _S3 else str(error)
        raise ResourceError(
            f"{url}: the package that speaks {protocol}:// is missing; install it: {package}"
        ) from error
    options: dict[str, Any] = {}
    if protocol in BUCKETS:  # a cached listing would hide what other processes write
        options["use_listings_cache"] = False
    if protocol in _S3:  # else s3fs asks for the size of every file that it reads
        options["max_concurrency"] = 1
    return UPath(url.rstrip("/"), protocol=protocol, **options)
