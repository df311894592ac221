"""google.longrunning.Operations over whatever a service does for long: training runs, rollouts."""

from __future__ import annotations

from typing import Generic, NoReturn, Protocol, TypeVar

import grpc.aio
from google.longrunning import operations_pb2, operations_pb2_grpc
from google.protobuf import empty_pb2

from services.common.errors import InvalidArgument, NotSupported
from services.common.pages import Place, page_of

NAME = operations_pb2.DESCRIPTOR.services_by_name["Operations"].full_name
PREFIX = "operations/"
# the answer must be on its way before the caller's deadline
ANSWER_S = 0.2

S = TypeVar("S")


class LongWork(Protocol[S]):
    """What stands behind the operations of a service; `S` is how one of them stands.

    `state`, `wait` and `cancel` raise NotFound for an id that is not known, whatever its characters.
    """

    async def state(self, work: str, /) -> S: ...

    async def states(self) -> list[S]:
        """By their places, the greatest first."""
        ...

    def place(self, state: S, /) -> Place: ...

    async def wait(self, work: str, timeout_s: float | None, /) -> S:
        """Until it has ended, or for so long."""
        ...

    async def cancel(self, work: str, /) -> None:
        """Begins to end it; nothing happens when it has ended."""
        ...

    async def to_operation(self, state: S, /) -> operations_pb2.Operation: ...


class OperationsService(operations_pb2_grpc.OperationsServicer, Generic[S]):
    """Args:
    undeletable: why an operation can't be deleted, for people.
    """

    def __init__(self, work: LongWork[S], undeletable: str) -> None:
        self._work = work
        self._undeletable = undeletable

    async def GetOperation(  # noqa: N802
        self, request: operations_pb2.GetOperationRequest, context: grpc.aio.ServicerContext
    ) -> operations_pb2.Operation:
        return await self._work.to_operation(await self._work.state(operation_id(request.name)))

    async def ListOperations(  # noqa: N802
        self, request: operations_pb2.ListOperationsRequest, context: grpc.aio.ServicerContext
    ) -> operations_pb2.ListOperationsResponse:
        if request.name not in ("", "operations"):
            raise InvalidArgument(
                "operations are listed under 'operations'", reason="OPERATION_NAME_INVALID", field="name"
            )
        if request.filter:
            raise InvalidArgument("operations have no filter", reason="FILTER_UNSUPPORTED", field="filter")
        page, token = page_of(await self._work.states(), self._work.place, request.page_size, request.page_token)
        operations = [await self._work.to_operation(state) for state in page]
        return operations_pb2.ListOperationsResponse(operations=operations, next_page_token=token)

    async def WaitOperation(  # noqa: N802
        self, request: operations_pb2.WaitOperationRequest, context: grpc.aio.ServicerContext
    ) -> operations_pb2.Operation:
        limits = []
        if request.HasField("timeout"):
            limits.append(request.timeout.seconds + request.timeout.nanos / 1e9)
        remaining_s = context.time_remaining()
        if remaining_s is not None:
            limits.append(remaining_s - ANSWER_S)
        timeout_s = max(0.0, min(limits)) if limits else None
        return await self._work.to_operation(await self._work.wait(operation_id(request.name), timeout_s))

    async def CancelOperation(  # noqa: N802
        self, request: operations_pb2.CancelOperationRequest, context: grpc.aio.ServicerContext
    ) -> empty_pb2.Empty:
        await self._work.cancel(operation_id(request.name))
        return empty_pb2.Empty()

    async def DeleteOperation(  # noqa: N802
        self, request: operations_pb2.DeleteOperationRequest, context: grpc.aio.ServicerContext
    ) -> NoReturn:
        raise NotSupported(self._undeletable)


def operation_id(name: str) -> str:
    """Of an operation's name. Raises InvalidArgument (OPERATION_NAME_INVALID)."""
    if not name.startswith(PREFIX):
        raise InvalidArgument(
            f"{name!r} is no operation's name; one is operations/ID", reason="OPERATION_NAME_INVALID", field="name"
        )
    return name.removeprefix(PREFIX)
