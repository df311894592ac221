"""An operator of rollouts, by gRPC, who also kills the service that does them."""

from __future__ import annotations

import asyncio
import contextlib
import random
import signal
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from types import TracebackType
from typing import Any

import grpc
import grpc.aio
from google.longrunning import operations_pb2, operations_pb2_grpc
from lookalike.v1 import model_pb2, model_pb2_grpc

from services.local.stack import LocalStack

RUNNING = (model_pb2.ROLLOUT_STATUS_RUNNING, model_pb2.ROLLOUT_STATUS_WAITING, model_pb2.ROLLOUT_STATUS_PAUSED)
WAITING = model_pb2.ROLLOUT_STATUS_WAITING


class Operator:
    """Use as `async with`.

    Args:
        address: of the rollout service, when it is not the stack's own.
    """

    def __init__(self, stack: LocalStack, seed: int = 0, address: str = "") -> None:
        self.stack = stack
        self.rng = random.Random(seed)
        self.killed: list[str] = []
        self.seen = ""
        self.began = time.monotonic()
        self._channel = grpc.aio.insecure_channel(
            address or stack.rollout_address, options=[("grpc.max_reconnect_backoff_ms", 200)]
        )
        self.models = model_pb2_grpc.ModelServiceStub(self._channel)
        self._operations = operations_pb2_grpc.OperationsStub(self._channel)

    async def __aenter__(self) -> Operator:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        await self._channel.close()

    # -- commands ------------------------------------------------------------------------------------------------

    async def start(self, version: int, **options: Any) -> operations_pb2.Operation:
        request = model_pb2.RolloutModelRequest(name=f"models/{version}", **options)
        return await self.models.RolloutModel(request, timeout=30)

    async def rollback(self) -> operations_pb2.Operation:
        return await self.models.RollbackModel(model_pb2.RollbackModelRequest(), timeout=30)

    async def promote(self) -> model_pb2.Rollout:
        """The rollout that waits."""
        rollout = await self.now()
        return await self.models.PromoteRollout(model_pb2.PromoteRolloutRequest(name=rollout.name), timeout=30)

    async def cancel(self) -> model_pb2.Rollout:
        """The rollout that runs."""
        rollout = await self.now()
        return await self.models.CancelRollout(model_pb2.CancelRolloutRequest(name=rollout.name), timeout=30)

    async def retire(self, version: int) -> model_pb2.Model:
        return await self.models.RetireModel(model_pb2.RetireModelRequest(name=f"models/{version}"), timeout=60)

    async def again(self, call: Callable[..., object], request: object) -> None:
        """A command that is given again when the service was killed over it."""
        async with asyncio.timeout(90):
            while True:
                try:
                    await call(request, timeout=30)  # type: ignore[misc]
                    return
                except grpc.aio.AioRpcError as error:
                    if error.code() is grpc.StatusCode.ABORTED:  # it had been heard
                        return
                    if error.code() is not grpc.StatusCode.UNAVAILABLE:
                        raise
                await asyncio.sleep(0.1)

    # -- looking -------------------------------------------------------------------------------------------------

    async def now(self) -> model_pb2.Rollout:
        """However often the service is killed meanwhile."""
        async with asyncio.timeout(60):
            while True:
                with contextlib.suppress(grpc.aio.AioRpcError):
                    return await self.models.GetRollout(model_pb2.GetRolloutRequest(), timeout=5)
                await asyncio.sleep(0.05)

    async def when(self, wanted: Callable[[model_pb2.Rollout], bool], limit_s: float = 60) -> model_pb2.Rollout:
        """The rollout once it is as wanted."""
        async with asyncio.timeout(limit_s):
            while not wanted(rollout := await self.now()):
                assert rollout.status in RUNNING, rollout
                await asyncio.sleep(0.01)
        return rollout

    async def waits_in(self, stage: str, limit_s: float = 60) -> model_pb2.Rollout:
        return await self.when(lambda rollout: stage_of(rollout) == stage and rollout.status == WAITING, limit_s)

    async def ended(self, operation: operations_pb2.Operation, limit_s: float = 180) -> operations_pb2.Operation:
        """The operation when it is done."""
        request = operations_pb2.WaitOperationRequest(name=operation.name)
        request.timeout.FromSeconds(round(limit_s))
        done = await self._operations.WaitOperation(request, timeout=limit_s + 5)
        assert done.done, done
        return done

    async def model(self, version: int) -> model_pb2.Model:
        return await self.models.GetModel(model_pb2.GetModelRequest(name=f"models/{version}"), timeout=30)

    # -- faults --------------------------------------------------------------------------------------------------

    async def walk(
        self,
        kills: Sequence[str] = (),
        limit_s: float = 300,
        faults: Mapping[str, Callable[[], Awaitable[None]]] | None = None,
    ) -> model_pb2.Rollout:
        """Until the rollout has ended: promotes it where it waits, and kills the service once in each of these stages.

        A stage may be over before the kill comes: it is tried again in whatever comes of it.

        Args:
            faults: what else is done, once, in a stage.
        """
        left = dict.fromkeys(kills, self._kill) | dict(faults or {})
        async with asyncio.timeout(limit_s):
            while True:
                rollout = await self.now()
                stage = stage_of(rollout)
                if stage != self.seen:
                    self.seen = stage
                    print(f"{time.monotonic() - self.began:6.1f} s {stage}")  # for whoever asks what took so long
                if stage in left:
                    await left.pop(stage)()
                    self.killed.append(stage)
                elif rollout.status not in RUNNING:
                    return rollout
                elif rollout.status == WAITING:
                    with contextlib.suppress(grpc.aio.AioRpcError):
                        await self.models.PromoteRollout(model_pb2.PromoteRolloutRequest(name=rollout.name), timeout=10)
                await asyncio.sleep(0.01)

    async def _kill(self) -> None:
        await asyncio.sleep(self.rng.random() * 0.3 if self.seen != "switch" else self.rng.random() * 0.05)
        self.stack.signal("rollout", signal.SIGKILL)
        await asyncio.sleep(0.2)


def stage_of(rollout: model_pb2.Rollout) -> str:
    return model_pb2.RolloutStage.Name(rollout.stage).removeprefix("ROLLOUT_STAGE_").lower()


def rollout_of(operation: operations_pb2.Operation) -> model_pb2.Rollout:
    """What an operation tells of its rollout while it runs."""
    metadata = model_pb2.RolloutModelMetadata()
    assert operation.metadata.Unpack(metadata)
    return metadata.rollout
