"""A gRPC server as every service of ours runs it: health, reflection, limits, metrics, graceful drain."""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import Sequence
from types import TracebackType
from typing import Any

import grpc
import grpc.aio
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from services.common.interceptor import RequestInterceptor
from services.common.settings import ServerSettings
from services.common.telemetry import Metrics

_log = logging.getLogger("lookalike.server")


class Server:
    """Use as `async with`: entering listens with every service NOT_SERVING; leaving drains.

    Args:
        services: full names of the services that are added to `grpc`, for health and reflection.

    Raises:
        OSError: the address can't be listened on.
    """

    def __init__(self, settings: ServerSettings, metrics: Metrics, services: Sequence[str]) -> None:
        self._settings = settings
        self._services = tuple(services)
        self.grpc: Any = grpc.aio.server(
            interceptors=[RequestInterceptor(metrics)],
            options=[
                ("grpc.max_receive_message_length", settings.max_message_bytes),
                ("grpc.max_send_message_length", settings.max_message_bytes),
                # two gateways on one port would share its callers without anybody noticing
                ("grpc.so_reuseport", 0),
                ("grpc.keepalive_time_ms", 60_000),
                ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
            ],
            maximum_concurrent_rpcs=settings.max_concurrent_requests,
        )
        self._health = health.aio.HealthServicer()
        self.port = 0

    async def __aenter__(self) -> Server:
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self.grpc)
        names = (*self._services, health.SERVICE_NAME, reflection.SERVICE_NAME)
        reflection.enable_server_reflection(names, self.grpc)
        await self._set_health(health_pb2.HealthCheckResponse.NOT_SERVING)
        address = f"{self._settings.host}:{self._settings.port}"
        try:
            self.port = self.grpc.add_insecure_port(address)
        except RuntimeError as error:
            raise OSError(f"cannot listen on {address}: is the port in use?") from error
        await self.grpc.start()
        _log.info("listening", extra={"facts": {"address": f"{self._settings.host}:{self.port}"}})
        return self

    async def ready(self) -> None:
        """From now on every service is SERVING."""
        await self._set_health(health_pb2.HealthCheckResponse.SERVING)
        _log.info("serving")

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        # NOT_SERVING first, and then as before for a moment: load balancers need it to send their callers elsewhere,
        # and requests that arrive meanwhile would be cut off
        await self._health.enter_graceful_shutdown()
        _log.info("draining")
        await asyncio.sleep(self._settings.lame_duck_s)
        await self.grpc.stop(self._settings.drain_s)
        _log.info("stopped")

    async def _set_health(self, status: Any) -> None:
        for name in ("", *self._services):
            await self._health.set(name, status)


async def until_signal() -> None:
    """Returns at the first SIGTERM or SIGINT; the second one ends the process the hard way."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()

    def on_signal(number: int) -> None:
        loop.remove_signal_handler(number)
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal, number)
    await stop.wait()
