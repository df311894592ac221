"""Mutated pictures and random bytes against the running gateway: only documented statuses, and it lives on."""

from __future__ import annotations

import asyncio
import io
import random
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import grpc
import grpc.aio
import psutil
import pytest
from lookalike.v1 import search_pb2
from PIL import Image

from tests.integration.shop import Shop, details, picture
from tests.unit.test_images import MONSTERS

pytestmark = pytest.mark.timeout(300)

COUNT = 2000
REASONS = {
    "IMAGE_EMPTY",
    "IMAGE_NOT_RECOGNISED",
    "IMAGE_FORMAT_UNSUPPORTED",
    "IMAGE_TRUNCATED",
    "IMAGE_CORRUPT",
    "IMAGE_TOO_LARGE",
    "IMAGE_TOO_SMALL",
}
METHODS = (
    "SearchService/SearchProducts",
    "CatalogService/UpdateProduct",
    "CatalogService/GetProduct",
    "CatalogService/ListProducts",
    "CatalogService/DeleteProduct",
    "StatusService/GetStatus",
)


@pytest.fixture(scope="module")
async def shop(stack) -> AsyncIterator[Shop]:
    async with Shop(stack.gateway_address) as shop:
        yield shop


def originals() -> list[bytes]:
    image = Image.open(io.BytesIO(picture(1, side=64)))
    pictures = []
    for kind, options in (
        ("JPEG", {}),
        ("JPEG", {"progressive": True}),
        ("PNG", {}),
        ("WEBP", {}),
        ("GIF", {}),
        ("AVIF", {}),
    ):
        out = io.BytesIO()
        image.save(out, kind, **options)
        pictures.append(out.getvalue())
    out = io.BytesIO()
    image.convert("CMYK").save(out, "JPEG")
    return [*pictures, out.getvalue()]


def mutated(rng: random.Random, data: bytes) -> bytes:
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 3, 30))):
        if not changed:
            break
        place = rng.randrange(len(changed))
        action = rng.randrange(5)
        if action == 0:
            changed[place] = rng.randrange(256)
        elif action == 1:
            del changed[place : place + rng.randrange(1, 64)]
        elif action == 2:
            changed[place:place] = rng.randbytes(rng.randrange(1, 64))
        elif action == 3:
            changed = changed[: place + 1]
        else:
            changed[place : place + 4] = rng.choice((b"\xff\xff\xff\xff", b"\x00\x00\x00\x00", b"\x7f\xff\xff\xff"))
    return bytes(changed)


def mutations() -> Iterator[bytes]:
    rng, sources = random.Random(11), originals()
    for _ in range(COUNT):
        yield mutated(rng, rng.choice(sources))


async def test_mutated_pictures(shop: Shop, stack) -> None:
    pid = stack.pid("gateway")
    todo = mutations()
    codes: dict[grpc.StatusCode, int] = {}

    async def worker() -> None:
        for data in todo:
            try:
                await shop.search(data, page_size=1, timeout_s=60)
                code = grpc.StatusCode.OK
            except grpc.aio.AioRpcError as error:
                code = error.code()
                assert code == grpc.StatusCode.INVALID_ARGUMENT, error
                assert details(error)["ErrorInfo"].reason in REASONS
            codes[code] = codes.get(code, 0) + 1

    await asyncio.gather(*(worker() for _ in range(8)))
    assert sum(codes.values()) == COUNT
    assert codes[grpc.StatusCode.INVALID_ARGUMENT] > COUNT // 10, codes
    assert stack.pid("gateway") == pid
    assert psutil.Process(pid).memory_info().rss < 600 * 2**20


async def test_random_bytes_instead_of_messages(shop: Shop, stack) -> None:
    pid = stack.pid("gateway")
    rng = random.Random(12)
    request = search_pb2.SearchProductsRequest(
        queries=[search_pb2.Query(image=picture(2, side=32))], filter="price < 3"
    )
    for number in range(600):
        method = METHODS[number % len(METHODS)]
        data = rng.randbytes(rng.randrange(200)) if number % 2 else mutated(rng, request.SerializeToString())
        call = shop.channel.unary_unary(f"/lookalike.v1.{method}")
        try:
            await call(data, timeout=20)
        except grpc.aio.AioRpcError as error:
            assert error.code() in {grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND}, error
            assert details(error)["ErrorInfo"].reason
    assert stack.pid("gateway") == pid
    assert (await shop.search(picture(1))).provenance.model


async def test_the_largest_pictures_leave_the_gateway_below_600_mb(shop: Shop, stack) -> None:
    """Each of them twice at the same time; the peak is the kernel's own record."""
    for name in ("png rgba 16", "jpeg progressive cmyk 4:4:4", "jpeg cmyk", "avif", "webp"):
        data = MONSTERS[name]()
        both = (shop.search(data + end, timeout_s=120) for end in (b"", b"x"))
        assert [answer.provenance.model for answer in await asyncio.gather(*both)] == ["models/1"] * 2, name
    status = Path(f"/proc/{stack.pid('gateway')}/status").read_text()
    peak_kb = int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM")))
    assert peak_kb < 600 * 1000


async def test_a_message_over_the_limit_is_refused(shop: Shop) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await shop.search(b"\xff\xd8\xff" + bytes(21 * 2**20))
    assert details(caught.value)["ErrorInfo"].reason == "IMAGE_TOO_LARGE"
