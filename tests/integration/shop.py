"""What the tests of the running system share: a client, and products with pictures that differ from each other."""

from __future__ import annotations

import asyncio
import io
from collections.abc import AsyncIterator, Iterable
from types import TracebackType
from typing import Any

import grpc
import grpc.aio
import numpy as np
from google.rpc import error_details_pb2, status_pb2
from lookalike.v1 import (
    catalog_pb2,
    catalog_pb2_grpc,
    search_pb2,
    search_pb2_grpc,
    status_pb2_grpc,
)
from PIL import Image

OK = grpc.StatusCode.OK.value[0]


class Shop:
    """A gateway's three services behind one channel. Use as `async with`."""

    def __init__(self, address: str) -> None:
        self.channel = grpc.aio.insecure_channel(
            address,
            options=[
                ("grpc.max_send_message_length", 64 * 2**20),
                ("grpc.max_receive_message_length", 64 * 2**20),
                ("grpc.max_reconnect_backoff_ms", 500),
                ("grpc.use_local_subchannel_pool", 1),
            ],
        )
        self.catalog = catalog_pb2_grpc.CatalogServiceStub(self.channel)
        self.searches = search_pb2_grpc.SearchServiceStub(self.channel)
        self.status = status_pb2_grpc.StatusServiceStub(self.channel)

    async def __aenter__(self) -> Shop:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        await self.channel.close()

    async def upsert(self, products: Iterable[catalog_pb2.Product]) -> list[catalog_pb2.UpsertProductsResponse]:
        async def requests() -> AsyncIterator[catalog_pb2.UpsertProductsRequest]:
            for number, product in enumerate(products):
                yield catalog_pb2.UpsertProductsRequest(request_id=str(number), product=product)

        return [response async for response in self.catalog.UpsertProducts(requests(), timeout=120)]

    async def search(
        self, *queries: bytes | str | search_pb2.Query, timeout_s: float = 20, caller: str = "", **fields: Any
    ) -> search_pb2.SearchProductsResponse:
        """`queries` are pictures, products' names, or whole messages; `caller` says who asks."""
        request = search_pb2.SearchProductsRequest(queries=[_query(query) for query in queries], **fields)
        metadata = (("x-caller-id", caller),) if caller else ()
        return await self.searches.SearchProducts(request, timeout=timeout_s, metadata=metadata)

    async def answered(self, query: bytes) -> None:
        """Returns once this search is answered, within half a minute: what was down a moment ago is up again."""
        async with asyncio.timeout(30):
            while True:
                try:
                    assert (await self.search(query)).results
                    return
                except grpc.aio.AioRpcError:
                    await asyncio.sleep(0.2)

    async def get(self, name: str, **fields: Any) -> catalog_pb2.Product:
        return await self.catalog.GetProduct(catalog_pb2.GetProductRequest(name=name, **fields), timeout=20)

    async def delete(self, name: str, **fields: Any) -> None:
        await self.catalog.DeleteProduct(catalog_pb2.DeleteProductRequest(name=name, **fields), timeout=20)


def _query(query: bytes | str | search_pb2.Query) -> search_pb2.Query:
    if isinstance(query, search_pb2.Query):
        return query
    return search_pb2.Query(image=query) if isinstance(query, bytes) else search_pb2.Query(product=query)


def picture(seed: int, side: int = 160, quality: int = 90) -> bytes:
    """A JPEG of coloured tiles, another one for every seed."""
    rng = np.random.default_rng(seed)
    tiles = rng.integers(0, 256, (rng.integers(2, 6), rng.integers(2, 6), 3), dtype=np.uint8)
    image = Image.fromarray(tiles).resize((side, side), Image.Resampling.NEAREST)
    out = io.BytesIO()
    image.save(out, "JPEG", quality=quality)
    return out.getvalue()


def darker(data: bytes) -> bytes:
    """The same picture as a second photograph of the product: a PNG, a tenth darker."""
    pixels = np.asarray(Image.open(io.BytesIO(data)), np.float32)
    out = io.BytesIO()
    Image.fromarray((pixels * 0.9).astype(np.uint8)).save(out, "PNG")
    return out.getvalue()


def product(product_id: str, *pictures: bytes, **fields: Any) -> catalog_pb2.Product:
    return catalog_pb2.Product(
        name=f"products/{product_id}", images=[catalog_pb2.ProductImage(content=data) for data in pictures], **fields
    )


def ids(response: search_pb2.SearchProductsResponse) -> list[str]:
    return [result.product.name.removeprefix("products/") for result in response.results]


def details(error: grpc.aio.AioRpcError) -> dict[str, Any]:
    """The error's details by the name of their type: ErrorInfo, BadRequest, RetryInfo, RequestInfo."""
    trailing = dict(error.trailing_metadata() or ())
    return status_details(status_pb2.Status.FromString(trailing["grpc-status-details-bin"]))


def status_details(status: status_pb2.Status) -> dict[str, Any]:
    found = {}
    for detail in status.details:
        message = getattr(error_details_pb2, detail.TypeName().rsplit(".", 1)[-1])()
        detail.Unpack(message)
        found[type(message).__name__] = message
    return found
