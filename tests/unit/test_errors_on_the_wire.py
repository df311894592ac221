"""What an exception becomes for the caller, through a real in-process server."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from typing import Any

import grpc
import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from lookalike.v1 import status_pb2, status_pb2_grpc

from services.common.errors import AlreadyChanged, InvalidArgument, InvalidFilter, NotFound, Overloaded, Unavailable
from services.common.server import Server
from services.common.settings import ServerSettings
from services.common.telemetry import Metrics
from tests.integration.shop import details

CODES = grpc.StatusCode


class Raising(status_pb2_grpc.StatusServiceServicer):
    def __init__(self) -> None:
        self.error: BaseException | None = None

    async def GetStatus(self, request: Any, context: Any) -> status_pb2.GetStatusResponse:  # noqa: N802
        if self.error:
            raise self.error
        return status_pb2.GetStatusResponse(serving_model="models/1")


@pytest.fixture
async def raising() -> AsyncIterator[tuple[Raising, grpc.aio.Channel, Metrics, Server]]:
    servicer, metrics = Raising(), Metrics()
    server = Server(ServerSettings(port=0, metrics_port=0, drain_s=1), metrics, ["lookalike.v1.StatusService"])
    status_pb2_grpc.add_StatusServiceServicer_to_server(servicer, server.grpc)
    async with server, grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        yield servicer, channel, metrics, server


async def failed(raising: Any, error: BaseException, **call: Any) -> grpc.aio.AioRpcError:
    servicer, channel, *_ = raising
    servicer.error = error
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await status_pb2_grpc.StatusServiceStub(channel).GetStatus(status_pb2.GetStatusRequest(), timeout=5, **call)
    return caught.value


@pytest.mark.parametrize(
    ("error", "code", "reason", "field", "retry"),
    [
        (InvalidArgument("m", reason="R", field="a.b"), CODES.INVALID_ARGUMENT, "R", "a.b", False),
        (InvalidFilter("m", reason="FILTER_SYNTAX", position=3), CODES.INVALID_ARGUMENT, "FILTER_SYNTAX", "filter", 0),
        (NotFound("m"), CODES.NOT_FOUND, "NOT_FOUND", "", False),
        (AlreadyChanged("m"), CODES.ABORTED, "ETAG_MISMATCH", "", False),
        (Overloaded("m"), CODES.RESOURCE_EXHAUSTED, "OVERLOADED", "", True),
        (Unavailable("m", reason="INDEX_UNAVAILABLE"), CODES.UNAVAILABLE, "INDEX_UNAVAILABLE", "", True),
        (TimeoutError(), CODES.DEADLINE_EXCEEDED, "DEADLINE_EXCEEDED", "", False),
    ],
)
async def test_errors_carry_code_reason_field_and_delay(raising, error, code, reason, field, retry) -> None:
    caught = await failed(raising, error)
    found = details(caught)
    assert caught.code() == code
    assert found["ErrorInfo"].reason == reason
    assert found["ErrorInfo"].domain == "lookalike"
    assert ("RetryInfo" in found) == retry
    assert [v.field for v in found["BadRequest"].field_violations] == [field] if field else "BadRequest" not in found


async def test_what_is_not_meant_for_the_caller_is_hidden_and_logged(raising, caplog) -> None:
    with caplog.at_level(logging.ERROR, "lookalike.request"):
        caught = await failed(raising, ValueError("secret"), metadata=(("x-request-id", "abc"),))
    assert caught.code() == CODES.INTERNAL
    assert "secret" not in str(caught)
    assert details(caught)["RequestInfo"].request_id == "abc"
    assert "secret" in caplog.text


async def test_requests_are_counted_by_code(raising) -> None:
    await failed(raising, NotFound("m"))
    _, _, metrics, _ = raising
    labels = {"method": "GetStatus", "code": "NOT_FOUND"}
    assert metrics.registry.get_sample_value("lookalike_requests_total", labels) == 1
    assert metrics.registry.get_sample_value("lookalike_requests_in_flight") == 0


async def test_health_is_not_serving_until_ready(raising) -> None:
    _, channel, _, server = raising
    check = health_pb2_grpc.HealthStub(channel).Check
    request = health_pb2.HealthCheckRequest(service="lookalike.v1.StatusService")
    assert (await check(request)).status == health_pb2.HealthCheckResponse.NOT_SERVING
    await server.ready()
    assert (await check(request)).status == health_pb2.HealthCheckResponse.SERVING


async def test_a_port_in_use_is_an_error(raising) -> None:
    *_, server = raising
    other = Server(ServerSettings(port=server.port, metrics_port=0), Metrics(), [])
    with pytest.raises(OSError, match=str(server.port)):
        await other.__aenter__()
