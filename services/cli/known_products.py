"""What the catalogue has already. It is asked itself, so that an import is right whatever happened since the last."""

from __future__ import annotations

import asyncio
from collections.abc import Collection

import grpc
import grpc.aio
from lookalike.v1 import catalog_pb2

from services.cli.client import TIMEOUT_S, Client
from services.cli.messages import fingerprint

# up to here products are asked for one by one; beyond it the whole catalogue is listed
MOST_SINGLE_READS = 200
CONCURRENT_READS = 16
PAGE_SIZE = 1000


async def known_products(client: Client, ids: Collection[str]) -> dict[str, bytes]:
    """Fingerprints by product id, of those of `ids` that the catalogue has."""
    if len(ids) <= MOST_SINGLE_READS:
        return await _read_each(client, ids)
    return await _list_all(client, frozenset(ids))


async def _read_each(client: Client, ids: Collection[str]) -> dict[str, bytes]:
    limit = asyncio.Semaphore(CONCURRENT_READS)
    known: dict[str, bytes] = {}

    async def read(product_id: str) -> None:
        async with limit:
            try:
                request = catalog_pb2.GetProductRequest(name=f"products/{product_id}")
                known[product_id] = fingerprint(await client.catalog.GetProduct(request, timeout=TIMEOUT_S))
            except grpc.aio.AioRpcError as error:
                if error.code() is not grpc.StatusCode.NOT_FOUND:
                    raise

    # not a TaskGroup: its ExceptionGroup would hide the one error that matters
    await asyncio.gather(*(read(product_id) for product_id in ids))
    return known


async def _list_all(client: Client, ids: frozenset[str]) -> dict[str, bytes]:
    known: dict[str, bytes] = {}
    request = catalog_pb2.ListProductsRequest(page_size=PAGE_SIZE)
    while True:
        page = await client.catalog.ListProducts(request, timeout=TIMEOUT_S)
        for product in page.products:
            product_id = product.name.removeprefix("products/")
            if product_id in ids:
                known[product_id] = fingerprint(product)
        if not page.next_page_token:
            return known
        request.page_token = page.next_page_token
