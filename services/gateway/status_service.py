"""StatusService: one small call to every part, at the same time."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from importlib.metadata import version

import grpc.aio
from google.protobuf import duration_pb2
from lookalike.v1 import status_pb2, status_pb2_grpc

from services.backends.cache import Cache
from services.backends.encoder import Encoder
from services.backends.image_store import ImageStore
from services.backends.index import MAIN_IMAGES, Index
from services.common.errors import LookalikeError
from services.gateway.serving import Serving

NAME = status_pb2.DESCRIPTOR.services_by_name["StatusService"].full_name


class StatusService(status_pb2_grpc.StatusServiceServicer):
    def __init__(self, encoder: Encoder, index: Index, cache: Cache, images: ImageStore, serving: Serving) -> None:
        self._index = index
        self._serving = serving
        self._probes: dict[str, Callable[[], Awaitable[str]]] = {
            "gateway": self._own_version,
            "triton": encoder.server_version,
            "milvus": index.version,
            "redis": cache.server_version,
            "image store": images.version,
        }

    async def GetStatus(  # noqa: N802
        self, request: status_pb2.GetStatusRequest, context: grpc.aio.ServicerContext
    ) -> status_pb2.GetStatusResponse:
        components, counts = await asyncio.gather(
            asyncio.gather(*(_asked(name, probe) for name, probe in self._probes.items())), self._counts()
        )
        response = status_pb2.GetStatusResponse(components=components)
        try:
            collection = self._serving.collection
        except LookalikeError:
            return response
        response.serving_model = f"models/{collection.model_version}"
        response.serving_collection = collection.name
        if counts is not None:
            response.product_count, response.image_count = counts
        return response

    async def _own_version(self) -> str:
        return version("lookalike")

    async def _counts(self) -> tuple[int, int] | None:
        try:
            collection = self._serving.collection
            return await self._index.count(collection, MAIN_IMAGES), await self._index.count(collection)
        except LookalikeError:
            return None


async def _asked(name: str, probe: Callable[[], Awaitable[str]]) -> status_pb2.Component:
    start = time.perf_counter()
    found, error = "", ""
    try:
        found = await probe()
    except (LookalikeError, OSError) as problem:
        error = str(problem)
    took_us = round((time.perf_counter() - start) * 1e6)
    latency = duration_pb2.Duration(seconds=took_us // 10**6, nanos=took_us % 10**6 * 1000)
    return status_pb2.Component(name=name, version=found, healthy=not error, latency=latency, error=error)
