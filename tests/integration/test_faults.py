"""Parts that are dead, hung or full: the documented status, in time, and cached queries that still answer."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from lookalike.v1 import status_pb2

from services.common.manifest import MODEL_FILE
from tests.integration.encoders import make_repository, publish_version, tiles
from tests.integration.shop import OK, Shop, details, picture, product

pytestmark = pytest.mark.timeout(240)


@pytest.fixture(scope="module")
async def stack(make_stack) -> AsyncIterator:
    async with make_stack() as stack:
        yield stack


@pytest.fixture(scope="module")
async def shop(stack) -> AsyncIterator[Shop]:
    async with Shop(stack.gateway_address) as shop:
        answers = await shop.upsert(product(f"p{n}", picture(n)) for n in range(5))
        assert [a.status.code for a in answers] == [OK] * 5
        yield shop


async def test_a_dead_encoder_is_unavailable_and_cached_queries_still_answer(stack, shop: Shop) -> None:
    known = picture(1)
    await shop.search(known)
    await stack.stop("triton")
    try:
        assert (await shop.search(known)).results[0].product.name == "products/p1"
        # an embedding that is cached answers other questions too
        assert (await shop.search(known, page_size=2)).provenance.embedding_cached
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await shop.search(picture(777), timeout_s=5)
        assert caught.value.code() == grpc.StatusCode.UNAVAILABLE
        assert details(caught.value)["ErrorInfo"].reason == "ENCODER_UNAVAILABLE"
        assert details(caught.value)["RetryInfo"].retry_delay.ToTimedelta().total_seconds() > 0
        status = await shop.status.GetStatus(status_pb2.GetStatusRequest(), timeout=20)
        assert {c.name: c.healthy for c in status.components}["triton"] is False
    finally:
        await stack.start("triton")
    await shop.answered(picture(778))


async def test_an_encoder_that_comes_back_to_a_damaged_version_serves_the_good_one(make_stack, tmp_path: Path) -> None:
    """Triton by itself would then serve none: see services/backends/triton_config.py."""
    models = make_repository(tmp_path)
    publish_version(models, 1, tiles())
    async with make_stack(model_repository=models.parent) as stack, Shop(stack.gateway_address) as shop:
        answers = await shop.upsert(product(f"p{n}", picture(n)) for n in range(3))
        assert [a.status.code for a in answers] == [OK] * 3
        (models / "2").mkdir()
        (models / "2" / MODEL_FILE).write_bytes(b"half of it")
        await stack.stop("triton")
        await stack.start("triton")
        await shop.answered(picture(4))


async def test_a_hung_encoder_is_unavailable_within_the_deadline(stack, shop: Shop) -> None:
    stack.signal("triton", signal.SIGSTOP)
    try:
        start = time.monotonic()
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await shop.search(picture(779), timeout_s=5)
        # not DEADLINE_EXCEEDED: a tenth of the deadline is left to tell why
        assert caught.value.code() == grpc.StatusCode.UNAVAILABLE
        assert time.monotonic() - start < 5
    finally:
        stack.signal("triton", signal.SIGCONT)
    await shop.answered(picture(780))


async def test_a_dead_index_is_unavailable_and_comes_back(stack, shop: Shop) -> None:
    await stack.stop("milvus")
    try:
        for call in (shop.search(picture(1), page_size=3), shop.get("products/p1"), shop.delete("products/p1")):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await call
            assert caught.value.code() == grpc.StatusCode.UNAVAILABLE
        (answer,) = await shop.upsert([product("p9", picture(9))])
        assert answer.status.code == grpc.StatusCode.UNAVAILABLE.value[0]
        status = await shop.status.GetStatus(status_pb2.GetStatusRequest(), timeout=20)
        assert {c.name: c.healthy for c in status.components}["milvus"] is False
        assert not status.HasField("product_count")
    finally:
        await stack.start("milvus")
    await shop.answered(picture(1))
    assert (await shop.get("products/p1")).name == "products/p1"


async def test_a_full_queue_is_resource_exhausted_with_a_delay(stack, shop: Shop) -> None:
    """Three hundred new pictures at once are more than the encoder's queue takes while it stands still."""
    stack.signal("triton", signal.SIGSTOP)
    calls = [asyncio.create_task(shop.search(picture(10_000 + n), timeout_s=60)) for n in range(300)]
    await asyncio.sleep(2)
    stack.signal("triton", signal.SIGCONT)
    results = await asyncio.gather(*calls, return_exceptions=True)
    codes = {r.code() if isinstance(r, grpc.aio.AioRpcError) else grpc.StatusCode.OK for r in results}
    assert codes <= {
        grpc.StatusCode.OK,
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        grpc.StatusCode.DEADLINE_EXCEEDED,
    }
    assert (await shop.search(picture(20_000), timeout_s=60)).results


async def test_health_reflection_and_status(stack, shop: Shop) -> None:
    health = health_pb2_grpc.HealthStub(shop.channel)
    for service in ("", "lookalike.v1.SearchService", "lookalike.v1.CatalogService", "lookalike.v1.StatusService"):
        answer = await health.Check(health_pb2.HealthCheckRequest(service=service), timeout=5)
        assert answer.status == health_pb2.HealthCheckResponse.SERVING
    status = await shop.status.GetStatus(status_pb2.GetStatusRequest(), timeout=20)
    assert [c.name for c in status.components] == ["gateway", "triton", "milvus", "redis", "image store"]
    assert all(c.healthy and c.version and c.latency.ToTimedelta().total_seconds() > 0 for c in status.components)
    assert (status.serving_model, status.serving_collection) == ("models/1", "products_m1")
    assert status.product_count >= 5
    assert status.image_count >= status.product_count


async def test_a_gateway_drains_on_sigterm(stack, shop: Shop) -> None:
    """What runs is answered; health says NOT_SERVING meanwhile; new calls are refused."""
    health = health_pb2_grpc.HealthStub(shop.channel)
    watch = health.Watch(health_pb2.HealthCheckRequest(service=""))
    assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVING
    calls = [asyncio.create_task(shop.search(picture(30_000 + n))) for n in range(30)]
    await asyncio.sleep(0.2)
    stopped = asyncio.create_task(stack.stop("gateway"))
    try:
        assert (await watch.read()).status == health_pb2.HealthCheckResponse.NOT_SERVING
        assert all(answer.results for answer in await asyncio.gather(*calls))
    finally:
        await stopped
        await stack.start("gateway")
    await shop.answered(picture(1))
