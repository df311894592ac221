"""The rollout service as the command line sees it."""

from __future__ import annotations

from types import TracebackType
from typing import Any

import grpc.aio
from google.longrunning import operations_pb2
from lookalike.v1 import model_pb2, model_pb2_grpc

TIMEOUT_S = 30.0


class RolloutClient:
    """Use as `async with`. Calls raise grpc.aio.AioRpcError; `services.cli.failures` makes a line of it.

    Args:
        address: host:port of a rollout service.
    """

    def __init__(self, address: str) -> None:
        # a watch goes on when the service comes back, and shall see it soon
        self._channel = grpc.aio.insecure_channel(address, options=[("grpc.max_reconnect_backoff_ms", 2000)])
        self.models: Any = model_pb2_grpc.ModelServiceStub(self._channel)

    async def __aenter__(self) -> RolloutClient:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        await self._channel.close()

    async def rollout(self, name: str = "") -> model_pb2.Rollout:
        """The one of that name; "": the one that runs, or the last one."""
        found: model_pb2.Rollout = await self.models.GetRollout(
            model_pb2.GetRolloutRequest(name=name), timeout=TIMEOUT_S
        )
        return found


def rollout_of(operation: operations_pb2.Operation) -> model_pb2.Rollout:
    """What an operation is about."""
    metadata = model_pb2.RolloutModelMetadata()
    operation.metadata.Unpack(metadata)
    return metadata.rollout
