"""The gateway as the command line sees it: three services over one channel."""

from __future__ import annotations

import json
from types import TracebackType
from typing import Any

import grpc
import grpc.aio
from lookalike.v1 import catalog_pb2_grpc, search_pb2_grpc, status_pb2_grpc

MAX_MESSAGE_BYTES = 64 << 20
# above 256 KiB the channel does not retry a request unless it may keep that much of it
RETRY_BUFFER_BYTES = 8 << 20
TIMEOUT_S = 30.0

# calls that may be sent twice without harm
_RETRIED = {
    "lookalike.v1.CatalogService": ("GetProduct", "ListProducts"),
    "lookalike.v1.SearchService": ("SearchProducts",),
    "lookalike.v1.StatusService": ("GetStatus",),
}
_SERVICE_CONFIG = {
    "methodConfig": [
        {
            "name": [
                {"service": service, "method": method} for service, methods in _RETRIED.items() for method in methods
            ],
            "retryPolicy": {
                "maxAttempts": 3,
                "initialBackoff": "0.2s",
                "maxBackoff": "2s",
                "backoffMultiplier": 3,
                "retryableStatusCodes": ["UNAVAILABLE", "RESOURCE_EXHAUSTED"],
            },
        }
    ]
}


class Client:
    """Use as `async with`. Calls raise grpc.aio.AioRpcError; `services.cli.failures` makes a line of it.

    Args:
        address: host:port of a gateway.
    """

    def __init__(self, address: str) -> None:
        self.address = address
        self._channel = grpc.aio.insecure_channel(
            address,
            options=[
                ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
                ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
                ("grpc.per_rpc_retry_buffer_size", RETRY_BUFFER_BYTES),
                ("grpc.service_config", json.dumps(_SERVICE_CONFIG)),
                # an import waits for a gateway that restarts, and shall see soon that it is back
                ("grpc.max_reconnect_backoff_ms", 2000),
            ],
        )
        self.catalog: Any = catalog_pb2_grpc.CatalogServiceStub(self._channel)
        self.search: Any = search_pb2_grpc.SearchServiceStub(self._channel)
        self.status: Any = status_pb2_grpc.StatusServiceStub(self._channel)

    async def __aenter__(self) -> Client:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        await self._channel.close()


def product_name(text: str) -> str:
    """`products/ID`, also for the id alone."""
    return text if text.startswith("products/") else f"products/{text}"
