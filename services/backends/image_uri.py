"""Pictures that callers give by address. The gateway reads what its operator allows and nothing else."""

from __future__ import annotations

import re
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any
from urllib.parse import unquote, urlsplit

import fsspec

from services.common.errors import InvalidArgument, InvalidImage, Unavailable

_FIELD = "product.images.uri"
# backslashes are slashes to some, control characters cut addresses short, "::" chains file systems in fsspec
_SUSPICIOUS = re.compile(r"[\\\x00-\x1f\x7f]|::")


def read_uri(uri: str, allowed_prefixes: Sequence[str], max_bytes: int, timeout_s: float) -> bytes:
    """The bytes behind `uri`. Blocks.

    Args:
        allowed_prefixes: addresses of folders: `https://cdn.example.com/products`, `s3://bucket`, `file:///srv/photos`.
            Reading never leaves them: not by `..`, not by a link in a directory, not by a redirect.

    Raises:
        InvalidArgument: IMAGE_URI_NOT_ALLOWED, IMAGE_URI_NOT_FOUND.
        InvalidImage: IMAGE_TOO_LARGE.
        Unavailable: IMAGE_URI_UNAVAILABLE.
    """
    prefix = _allowing_prefix(uri, allowed_prefixes)
    if prefix is None:
        raise _not_allowed(uri)
    scheme = urlsplit(uri).scheme.lower()
    try:
        if scheme == "file":
            data = _read_file(uri, prefix, max_bytes)
        elif scheme in ("http", "https"):
            data = _read_http(uri, max_bytes, timeout_s)
        else:
            with fsspec.open(uri, "rb") as file:
                data = _read(file, max_bytes)
    except FileNotFoundError:
        raise InvalidArgument(f"there is nothing at {uri[:200]}", reason="IMAGE_URI_NOT_FOUND", field=_FIELD) from None
    except (InvalidArgument, Unavailable):
        raise
    except Exception as error:
        raise Unavailable(f"{uri[:200]} can't be read now", reason="IMAGE_URI_UNAVAILABLE", field=_FIELD) from error
    if len(data) > max_bytes:
        raise InvalidImage(
            f"the picture at {uri[:200]} has more than {max_bytes:,} bytes", reason="IMAGE_TOO_LARGE", field=_FIELD
        )
    return data


def _allowing_prefix(uri: str, allowed_prefixes: Sequence[str]) -> str | None:
    if " " in uri:
        return None
    # decoded twice: what decodes once more behind us shall not find a way up either
    for text in (uri, unquote(uri), unquote(unquote(uri))):
        if _SUSPICIOUS.search(text) or ".." in re.split(r"[/?#]", text):
            return None
    for prefix in allowed_prefixes:
        folder = prefix if prefix.endswith("/") else f"{prefix}/"
        if uri.startswith(folder):
            return folder
    return None


def _read_file(uri: str, prefix: str, max_bytes: int) -> bytes:
    path = _local_path(uri).resolve()
    if not path.is_relative_to(_local_path(prefix).resolve()):
        raise _not_allowed(uri)
    if not path.is_file():
        raise FileNotFoundError(path)
    with path.open("rb") as file:
        return _read(file, max_bytes)


def _local_path(uri: str) -> Path:
    return Path(unquote(urlsplit(uri).path))


def _read_http(uri: str, max_bytes: int, timeout_s: float) -> bytes:
    opener = urllib.request.build_opener(_NoRedirects)
    try:
        with opener.open(uri, timeout=timeout_s) as answer:
            return _read(answer, max_bytes)
    except urllib.error.HTTPError as error:
        with error:
            if error.code in (404, 410):
                raise FileNotFoundError(uri) from None
            raise Unavailable(
                f"{uri[:200]} answered {error.code}", reason="IMAGE_URI_UNAVAILABLE", field=_FIELD
            ) from None


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """A redirect is the answer of a host that is allowed, naming one that may not be."""

    def redirect_request(self, *_: Any) -> None:
        return None


def _read(file: IO[bytes], max_bytes: int) -> bytes:
    """At most one byte more than allowed, to tell."""
    return bytes(file.read(max_bytes + 1))


def _not_allowed(uri: str) -> InvalidArgument:
    return InvalidArgument(
        f"this gateway does not read from {uri[:200]!r}", reason="IMAGE_URI_NOT_ALLOWED", field=_FIELD
    )
