"""google.longrunning.Operations over training runs. They outlive this process, for the runs' folders do."""

from __future__ import annotations

from typing import NoReturn

import grpc
import grpc.aio
from google.longrunning import operations_pb2, operations_pb2_grpc
from google.protobuf import empty_pb2

from services.common.errors import InvalidArgument
from services.trainer.convert import run_id, to_operation
from services.trainer.errors import NotSupported
from services.trainer.pages import page_of
from services.trainer.runs import RunState
from services.trainer.trainings import Trainings

NAME = operations_pb2.DESCRIPTOR.services_by_name["Operations"].full_name
# the answer must be on its way before the caller's deadline
ANSWER_S = 0.2


class OperationsService(operations_pb2_grpc.OperationsServicer):
    def __init__(self, trainings: Trainings) -> None:
        self._trainings = trainings

    async def GetOperation(  # noqa: N802
        self, request: operations_pb2.GetOperationRequest, context: grpc.aio.ServicerContext
    ) -> operations_pb2.Operation:
        return self._operation(await self._trainings.state(run_id(request.name)))

    async def ListOperations(  # noqa: N802
        self, request: operations_pb2.ListOperationsRequest, context: grpc.aio.ServicerContext
    ) -> operations_pb2.ListOperationsResponse:
        if request.name not in ("", "operations"):
            raise InvalidArgument(
                "operations are listed under 'operations'", reason="OPERATION_NAME_INVALID", field="name"
            )
        if request.filter:
            raise InvalidArgument("operations have no filter", reason="FILTER_UNSUPPORTED", field="filter")
        page, token = page_of(await self._trainings.states(), request.page_size, request.page_token)
        return operations_pb2.ListOperationsResponse(operations=map(self._operation, page), next_page_token=token)

    async def WaitOperation(  # noqa: N802
        self, request: operations_pb2.WaitOperationRequest, context: grpc.aio.ServicerContext
    ) -> operations_pb2.Operation:
        limits = []
        if request.HasField("timeout"):
            limits.append(request.timeout.ToTimedelta().total_seconds())
        remaining_s = context.time_remaining()
        if remaining_s is not None:
            limits.append(remaining_s - ANSWER_S)
        timeout_s = max(0.0, min(limits)) if limits else None
        return self._operation(await self._trainings.wait(run_id(request.name), timeout_s))

    async def CancelOperation(  # noqa: N802
        self, request: operations_pb2.CancelOperationRequest, context: grpc.aio.ServicerContext
    ) -> empty_pb2.Empty:
        await self._trainings.cancel(run_id(request.name))
        return empty_pb2.Empty()

    async def DeleteOperation(  # noqa: N802
        self, request: operations_pb2.DeleteOperationRequest, context: grpc.aio.ServicerContext
    ) -> NoReturn:
        raise NotSupported("an operation is as durable as its run; remove the run's folder")

    def _operation(self, state: RunState) -> operations_pb2.Operation:
        return to_operation(state, self._trainings.progress(state.id))
