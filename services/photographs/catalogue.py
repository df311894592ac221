"""The running catalogue as photographs: products from `CatalogService`, originals from the image store.

A product's first image is the shop's own picture, the further ones are photographs. Originals are kept in a folder by
the hash of their bytes, so that a second reading fetches what is new and nothing else.
"""

from __future__ import annotations

import asyncio
import logging
import os
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
from lookalike.v1 import catalog_pb2, catalog_pb2_grpc

from services.backends.image_store import ImageStore, ImageStoreSettings
from services.common.errors import DeadlineExceeded, InvalidArgument, LookalikeError, NotFound, Unavailable
from services.common.products import Region
from services.photographs.photograph import Photograph
from services.photographs.sources import Progress, no_progress

PAGE_SIZE = 200
TIMEOUT_S = 30.0
MAX_MESSAGE_BYTES = 64 << 20
# originals under way at a time
CONCURRENT = 8

_log = logging.getLogger("lookalike.photographs")


def read_catalogue(address: str, image_store: str, cache: Path, progress: Progress = no_progress) -> list[Photograph]:
    """`fetch_catalogue`, for callers without an event loop."""
    return asyncio.run(fetch_catalogue(address, image_store, cache, progress))


async def fetch_catalogue(
    address: str, image_store: str, cache: Path, progress: Progress = no_progress
) -> list[Photograph]:
    """Every image of every product, in the order of the catalogue; none is in a split.

    An original that the store has lost is a path with nothing there, and told in the log.

    Args:
        address: host:port of a gateway.
        image_store: its image store, as a URL.
        cache: where originals are kept.

    Raises:
        Unavailable: CATALOGUE_UNAVAILABLE, IMAGE_STORE_UNAVAILABLE.
        FailedPrecondition: IMAGE_STORE_UNUSABLE.
        InvalidArgument: DATA_EMPTY, DATA_INVALID.
    """
    products = [product async for product in _products(address)]
    pictures = [_picture(product, number, cache) for product in products for number in range(len(product.images))]
    if not pictures:
        raise InvalidArgument(f"the catalogue at {address} holds no picture", reason="DATA_EMPTY")
    hashes = sorted({sha256 for sha256, _ in pictures})
    free = asyncio.Semaphore(CONCURRENT)

    async def fetch(store: ImageStore, sha256: str) -> None:
        path = _path(cache, sha256)
        async with free:
            try:
                if not await asyncio.to_thread(path.exists):
                    await asyncio.to_thread(_keep, path, await store.get(sha256))
            except NotFound as error:
                _log.warning("an original is missing", extra={"facts": {"sha256": sha256, "why": error.message}})
            finally:
                progress(1, len(hashes))

    try:
        async with ImageStore(ImageStoreSettings(url=image_store)) as store, asyncio.TaskGroup() as group:
            for sha256 in hashes:
                group.create_task(fetch(store, sha256))
    except ExceptionGroup as failed:
        # the first stopped the others
        raise failed.exceptions[0] from None
    return [photograph for _, photograph in pictures]


async def _products(address: str) -> AsyncIterator[catalog_pb2.Product]:
    options = [("grpc.max_receive_message_length", MAX_MESSAGE_BYTES)]
    async with grpc.aio.insecure_channel(address, options=options) as channel:
        catalog: Any = catalog_pb2_grpc.CatalogServiceStub(channel)
        token = ""
        while True:
            request = catalog_pb2.ListProductsRequest(page_size=PAGE_SIZE, page_token=token)
            try:
                answer = await catalog.ListProducts(request, timeout=TIMEOUT_S)
            except grpc.aio.AioRpcError as error:
                raise _error(address, error) from None
            for product in answer.products:
                yield product
            token = answer.next_page_token
            if not token:
                return


def _picture(product: Any, number: int, cache: Path) -> tuple[str, Photograph]:
    """Hash of its bytes, and what it will be."""
    image = product.images[number]
    box = image.region
    region = Region(box.left, box.top, box.right, box.bottom) if image.HasField("region") else None
    product_id = product.name.removeprefix("products/")
    path = _path(cache, image.sha256)
    return image.sha256, Photograph(path, product_id, product.category, catalogue=number == 0, region=region)


def _path(cache: Path, sha256: str) -> Path:
    return cache / sha256[:2] / sha256


def _keep(path: Path, data: bytes) -> None:
    """Whole or not at all: a reading may be killed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(prefix=".new-", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def _error(address: str, error: grpc.aio.AioRpcError) -> LookalikeError:
    why = (error.details() or error.code().name)[:200]
    if error.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
        return DeadlineExceeded(f"the catalogue at {address} did not answer within {TIMEOUT_S:g} s")
    if error.code() is grpc.StatusCode.UNAVAILABLE:
        return Unavailable(f"the catalogue at {address} does not answer: {why}", reason="CATALOGUE_UNAVAILABLE")
    return Unavailable(f"the catalogue at {address} can't be listed: {why}", reason="CATALOGUE_UNAVAILABLE")
