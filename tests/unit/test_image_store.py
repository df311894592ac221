"""Originals are kept whole, found by their hash, and read from nowhere that is not allowed."""

from __future__ import annotations

import asyncio
import hashlib
import os
import threading
from collections.abc import AsyncIterator, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from services.backends.image_store import ImageStore, ImageStoreSettings
from services.common.errors import FailedPrecondition, InvalidArgument, InvalidImage, NotFound, Unavailable

LIMIT = 1000


@pytest.fixture(params=["file", "memory"])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[ImageStore]:
    """A directory, and fsspec's object store in memory."""
    async with ImageStore(ImageStoreSettings(url=f"{request.param}://{tmp_path}/store")) as store:
        yield store


@pytest.fixture
async def directory(tmp_path: Path) -> AsyncIterator[ImageStore]:
    async with ImageStore(ImageStoreSettings(url=f"file://{tmp_path}/store")) as store:
        yield store


def files_below(folder: Path) -> list[Path]:
    return [path.relative_to(folder) for path in folder.rglob("*") if path.is_file()]


async def test_what_was_put_is_found_by_its_hash(store: ImageStore) -> None:
    for data in (b"", b"one", os.urandom(100_000)):
        sha256 = hashlib.sha256(data).hexdigest()
        assert not await store.has(sha256)
        assert await store.put(data) == sha256
        assert await store.put(data) == sha256
        assert await store.has(sha256)
        assert await store.get(sha256) == data


async def test_what_was_deleted_is_gone(store: ImageStore) -> None:
    sha256 = await store.put(b"one")
    other = await store.put(b"two")
    await store.delete(sha256)
    await store.delete(sha256)
    assert not await store.has(sha256)
    with pytest.raises(NotFound) as error:
        await store.get(sha256)
    assert error.value.reason == "IMAGE_NOT_FOUND"
    assert await store.get(other) == b"two"


@pytest.mark.parametrize("name", ["", "ab", "../../etc/passwd", "g" * 64, "A" * 64, "a" * 64 + "\n", "a" * 65])
async def test_what_is_not_a_hash_names_nothing(store: ImageStore, name: str) -> None:
    for call in (store.get(name), store.has(name), store.delete(name)):
        with pytest.raises(NotFound):
            await call


async def test_concurrent_puts_of_the_same_and_of_other_pictures(store: ImageStore) -> None:
    pictures = [os.urandom(50_000) for _ in range(5)]
    hashes = await asyncio.gather(*(store.put(data) for data in pictures * 8))
    assert set(hashes) == {hashlib.sha256(data).hexdigest() for data in pictures}
    assert [await store.get(h) for h in hashes[:5]] == pictures


async def test_pictures_lie_by_the_beginning_of_their_hash_and_nothing_else_does(
    directory: ImageStore, tmp_path: Path
) -> None:
    sha256 = await directory.put(b"one")
    assert files_below(tmp_path / "store") == [Path(sha256[:2], sha256[2:4], sha256)]


async def test_a_damaged_picture_is_not_given_out_and_putting_it_again_heals_it(
    directory: ImageStore, tmp_path: Path
) -> None:
    sha256 = await directory.put(b"one")
    file = tmp_path / "store" / sha256[:2] / sha256[2:4] / sha256
    file.write_bytes(b"onx")
    with pytest.raises(NotFound, match="damaged"):
        await directory.get(sha256)
    await directory.put(b"one")
    assert await directory.get(sha256) == b"one"


async def test_a_write_that_fails_leaves_nothing(
    directory: ImageStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_space(_: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr("services.backends.image_store.os.fsync", no_space)
        # its folders exist, so that the file is the first thing to be synced
        sha256 = hashlib.sha256(b"one").hexdigest()
        (tmp_path / "store" / sha256[:2] / sha256[2:4]).mkdir(parents=True)
        with pytest.raises(Unavailable) as error:
            await directory.put(b"one")
        assert error.value.reason == "IMAGE_STORE_UNAVAILABLE"
    assert files_below(tmp_path) == []
    assert await directory.get(await directory.put(b"one")) == b"one"


async def test_a_store_that_hangs_is_unavailable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    release = threading.Event()
    async with ImageStore(ImageStoreSettings(url=f"file://{tmp_path}", timeout_s=0.1)) as store:
        monkeypatch.setattr("services.backends.image_store.os.fsync", lambda _: release.wait(10))
        try:
            with pytest.raises(Unavailable, match=r"0\.1 s"):
                await store.put(b"one")
        finally:
            release.set()


def test_a_store_that_can_not_be_used_says_so() -> None:
    with pytest.raises(FailedPrecondition) as error:
        ImageStore(ImageStoreSettings(url="nosuch://bucket"))
    assert error.value.reason == "IMAGE_STORE_UNUSABLE"


class Shelf(BaseHTTPRequestHandler):
    """`/ok/N` answers N bytes; `/ok/away` redirects to what is not allowed; anything else is not there."""

    def do_GET(self) -> None:
        name = self.path.rpartition("/")[2]
        if name == "away":
            self.send_response(302)
            self.send_header("Location", "/secret/5")
            self.end_headers()
        elif name.isdigit():
            self.send_response(200)
            self.send_header("Content-Length", name)
            self.end_headers()
            self.wfile.write(b"x" * int(name))
        else:
            self.send_response(404 if name == "missing" else 503)
            self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def http() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Shelf) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


async def test_pictures_are_read_over_http(directory: ImageStore, http: str) -> None:
    prefixes = [f"{http}/ok"]
    assert await directory.read_uri(f"{http}/ok/5", prefixes, LIMIT) == b"x" * 5
    assert len(await directory.read_uri(f"{http}/ok/{LIMIT}", prefixes, LIMIT)) == LIMIT
    with pytest.raises(InvalidImage) as too_large:
        await directory.read_uri(f"{http}/ok/{LIMIT + 1}", prefixes, LIMIT)
    assert too_large.value.reason == "IMAGE_TOO_LARGE"
    with pytest.raises(InvalidArgument) as missing:
        await directory.read_uri(f"{http}/ok/missing", prefixes, LIMIT)
    assert missing.value.reason == "IMAGE_URI_NOT_FOUND"
    with pytest.raises(Unavailable, match="503"):
        await directory.read_uri(f"{http}/ok/broken", prefixes, LIMIT)


async def test_a_redirect_is_not_followed(directory: ImageStore, http: str) -> None:
    with pytest.raises(Unavailable, match="302"):
        await directory.read_uri(f"{http}/ok/away", [f"{http}/ok/"], LIMIT)


async def test_files_are_read_below_an_allowed_directory(directory: ImageStore, tmp_path: Path) -> None:
    shelf = tmp_path / "shelf"
    shelf.mkdir()
    (shelf / "a b.jpg").write_bytes(b"picture")
    assert await directory.read_uri(f"file://{shelf}/a%20b.jpg", [f"file://{shelf}"], LIMIT) == b"picture"
    with pytest.raises(InvalidArgument) as missing:
        await directory.read_uri(f"file://{shelf}/b.jpg", [f"file://{shelf}"], LIMIT)
    assert missing.value.reason == "IMAGE_URI_NOT_FOUND"


async def test_other_stores_are_read_too(directory: ImageStore) -> None:
    import fsspec

    fsspec.filesystem("memory").pipe_file("/bucket/a.jpg", b"picture")
    assert await directory.read_uri("memory://bucket/a.jpg", ["memory://bucket"], LIMIT) == b"picture"


async def test_only_files_are_read_and_links_do_not_lead_out(directory: ImageStore, tmp_path: Path) -> None:
    shelf = tmp_path / "shelf"
    shelf.mkdir()
    (tmp_path / "secret").write_bytes(b"secret")
    (shelf / "link").symlink_to(tmp_path / "secret")
    os.mkfifo(shelf / "pipe")
    with pytest.raises(InvalidArgument) as link:
        await directory.read_uri(f"file://{shelf}/link", [f"file://{shelf}"], LIMIT)
    assert link.value.reason == "IMAGE_URI_NOT_ALLOWED"
    with pytest.raises(InvalidArgument) as pipe:
        await directory.read_uri(f"file://{shelf}/pipe", [f"file://{shelf}"], LIMIT)
    assert pipe.value.reason == "IMAGE_URI_NOT_FOUND"


@pytest.mark.parametrize(
    "uri",
    [
        "https://cdn.example.com.evil.example/products/a.jpg",
        "https://cdn.example.com/products/../secret",
        "https://cdn.example.com/products/%2e%2e/secret",
        "https://cdn.example.com/products/%252e%252e/secret",
        "https://cdn.example.com/products/..%2fsecret",
        "https://cdn.example.com/products\\..\\secret",
        "https://cdn.example.com/products-other/a.jpg",
        "https://user@cdn.example.com/products/a.jpg",
        "http://cdn.example.com/products/a.jpg",
        "https://cdn.example.com/products/a.jpg\r\nHost: evil.example",
        "https://cdn.example.com/products/a.zip::file:///etc/passwd",
        "file:///etc/passwd",
        "/etc/passwd",
        "https://cdn.example.com/products/a b.jpg",
        "",
    ],
)
async def test_what_is_not_allowed_is_not_read(directory: ImageStore, uri: str) -> None:
    with pytest.raises(InvalidArgument) as error:
        await directory.read_uri(uri, ["https://cdn.example.com/products"], LIMIT)
    assert error.value.reason == "IMAGE_URI_NOT_ALLOWED"


async def test_by_default_no_address_is_allowed(directory: ImageStore) -> None:
    with pytest.raises(InvalidArgument):
        await directory.read_uri("https://cdn.example.com/products/a.jpg", (), LIMIT)
