"""Our door to the originals of product pictures, by the hash of their bytes. Needed to embed them again.

A picture lies at `ab/cd/abcd...`, the hexadecimal SHA-256 of its bytes, below the store's URL: a directory
(`file:///...`) or whatever fsspec reaches (`s3://bucket/...` with s3fs installed).
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
import re
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, TypeVar

import fsspec
from pydantic import Field

from services.backends.image_uri import read_uri
from services.common.errors import FailedPrecondition, LookalikeError, NotFound, Unavailable
from services.common.settings import SettingsGroup

T = TypeVar("T")

_log = logging.getLogger("lookalike.image_store")
_SHA256 = re.compile(r"[0-9a-f]{64}\Z")


class ImageStoreSettings(SettingsGroup):
    url: str = Field("file:///var/lib/lookalike/images", description="where originals are kept; any URL of fsspec")
    options: dict[str, Any] = Field({}, description="for fsspec, for example {'endpoint_url': ...} for S3")
    threads: int = Field(8, gt=0, description="calls at a time")
    timeout_s: float = Field(30.0, gt=0, description="for any call")


class ImageStore:
    """Use as `async with`. Every method raises Unavailable when the store fails or does not answer in time."""

    def __init__(self, settings: ImageStoreSettings) -> None:
        self._timeout_s = settings.timeout_s
        self._threads = ThreadPoolExecutor(settings.threads, thread_name_prefix="image-store")
        try:
            files, root = fsspec.core.url_to_fs(settings.url, **settings.options)
        except (ImportError, ValueError) as error:
            raise FailedPrecondition(
                f"the image store can't be used: {error}", reason="IMAGE_STORE_UNUSABLE"
            ) from error
        local = "file" in (files.protocol if isinstance(files.protocol, tuple) else (files.protocol,))
        self._store: _Store = _Directory(Path(root)) if local else _Remote(files, root)

    async def __aenter__(self) -> ImageStore:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def put(self, data: bytes) -> str:
        """Keeps the bytes, durably; the hexadecimal SHA-256 to get them by. Putting them again changes nothing."""

        def put() -> str:
            sha256 = hashlib.sha256(data).hexdigest()
            self._store.write(_path(sha256), data)
            return sha256

        return await self._run(put)

    async def get(self, sha256: str) -> bytes:
        """The bytes of that hash. Raises NotFound when there are none, or they are not what was put."""

        def get() -> bytes:
            data = self._store.read(_path(sha256))
            if hashlib.sha256(data).hexdigest() != sha256:
                _log.error("a stored original is damaged", extra={"facts": {"sha256": sha256}})
                raise NotFound(f"the original {sha256} is damaged", reason="IMAGE_NOT_FOUND")
            return data

        try:
            return await self._run(get)
        except FileNotFoundError:
            raise NotFound(f"there is no original {sha256}", reason="IMAGE_NOT_FOUND") from None

    async def has(self, sha256: str) -> bool:
        return await self._run(lambda: self._store.exists(_path(sha256)))

    async def version(self) -> str:
        """The library's version, after a look at the store. Raises Unavailable."""
        await self.has("0" * 64)
        return f"fsspec {fsspec.__version__}"

    async def delete(self, sha256: str) -> None:
        """Deleting what is not there changes nothing."""
        try:
            await self._run(lambda: self._store.delete(_path(sha256)))
        except FileNotFoundError:
            return

    async def read_uri(self, uri: str, allowed_prefixes: Sequence[str], max_bytes: int) -> bytes:
        """The bytes behind a caller's address, as `services.backends.image_uri.read_uri`."""
        return await self._run(lambda: read_uri(uri, allowed_prefixes, max_bytes, self._timeout_s))

    async def _run(self, work: Callable[[], T]) -> T:
        try:
            async with asyncio.timeout(self._timeout_s):
                return await asyncio.get_running_loop().run_in_executor(self._threads, work)
        except (LookalikeError, FileNotFoundError):
            raise
        except TimeoutError:
            raise Unavailable(
                f"the image store did not answer within {self._timeout_s:g} s", reason="IMAGE_STORE_UNAVAILABLE"
            ) from None
        except Exception as error:
            # fsspec's file systems raise whatever their libraries raise
            raise Unavailable(
                f"the image store failed: {type(error).__name__}", reason="IMAGE_STORE_UNAVAILABLE"
            ) from error


class _Store(Protocol):
    """Files by their path below the root. `read` and `delete` raise FileNotFoundError."""

    def write(self, path: str, data: bytes) -> None: ...
    def read(self, path: str) -> bytes: ...
    def exists(self, path: str) -> bool: ...
    def delete(self, path: str) -> None: ...


class _Directory:
    """A file appears whole or not at all, and stays over a power cut."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def write(self, path: str, data: bytes) -> None:
        target = self._root / path
        if target.exists() and target.read_bytes() == data:
            # who wrote it may not have come to this yet
            _sync_folder(target.parent)
            return
        self._make_folder(target.parent)
        handle, temporary = tempfile.mkstemp(prefix=".new-", dir=target.parent)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            Path(temporary).replace(target)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise
        _sync_folder(target.parent)

    def read(self, path: str) -> bytes:
        return (self._root / path).read_bytes()

    def exists(self, path: str) -> bool:
        return (self._root / path).exists()

    def delete(self, path: str) -> None:
        (self._root / path).unlink()

    def _make_folder(self, folder: Path) -> None:
        if folder.is_dir():
            return
        if folder != folder.parent:
            self._make_folder(folder.parent)
        folder.mkdir(exist_ok=True)
        _sync_folder(folder.parent)


class _Remote:
    """An object store: its writes are whole and durable by themselves."""

    def __init__(self, files: fsspec.AbstractFileSystem, root: str) -> None:
        self._files = files
        self._root = root.rstrip("/")

    def write(self, path: str, data: bytes) -> None:
        if not self.exists(path):
            self._files.pipe_file(self._full(path), data)

    def read(self, path: str) -> bytes:
        return bytes(self._files.cat_file(self._full(path)))

    def exists(self, path: str) -> bool:
        return bool(self._files.exists(self._full(path)))

    def delete(self, path: str) -> None:
        self._files.rm_file(self._full(path))

    def _full(self, path: str) -> str:
        return f"{self._root}/{path}"


def _path(sha256: str) -> str:
    if not _SHA256.match(sha256):
        raise NotFound(f"{sha256[:80]!r} is not a SHA-256", reason="IMAGE_NOT_FOUND")
    return f"{sha256[:2]}/{sha256[2:4]}/{sha256}"


def _sync_folder(folder: Path) -> None:
    """A new name in a folder is durable once the folder is."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
