"""ModelService: encoder versions and their rollouts; `operations` follows and cancels them too."""

from __future__ import annotations

import grpc.aio
from google.longrunning import operations_pb2
from lookalike.v1 import model_pb2, model_pb2_grpc

from services.common.errors import NotFound
from services.common.pages import Place, page_of
from services.rollout.controller import Controller, standing
from services.rollout.convert import to_model, to_operation, to_rollout
from services.rollout.models import NO_FILES, ModelInfo, ModelState
from services.rollout.names import model_version, rollout_id
from services.rollout.record import Rollout
from services.rollout.request import to_options

NAME = model_pb2.DESCRIPTOR.services_by_name["ModelService"].full_name


class ModelService(model_pb2_grpc.ModelServiceServicer):
    def __init__(self, rollouts: Controller) -> None:
        self._rollouts = rollouts

    async def ListModels(  # noqa: N802
        self, request: model_pb2.ListModelsRequest, context: grpc.aio.ServicerContext
    ) -> model_pb2.ListModelsResponse:
        page, token = page_of(await self._rollouts.models(), _place, request.page_size, request.page_token)
        return model_pb2.ListModelsResponse(models=map(to_model, page), next_page_token=token)

    async def GetModel(  # noqa: N802
        self, request: model_pb2.GetModelRequest, context: grpc.aio.ServicerContext
    ) -> model_pb2.Model:
        version = model_version(request.name)
        found = await self._find(version)
        if found is None:
            raise NotFound(f"there is no version {version}", reason="MODEL_NOT_FOUND", field="name")
        return to_model(found)

    async def RolloutModel(  # noqa: N802
        self, request: model_pb2.RolloutModelRequest, context: grpc.aio.ServicerContext
    ) -> operations_pb2.Operation:
        version, options = model_version(request.name), to_options(request)
        return await self._operation(await self._rollouts.start(version, options))

    async def PromoteRollout(  # noqa: N802
        self, request: model_pb2.PromoteRolloutRequest, context: grpc.aio.ServicerContext
    ) -> model_pb2.Rollout:
        return await self._rollout(await self._rollouts.promote(rollout_id(request.name)))

    async def CancelRollout(  # noqa: N802
        self, request: model_pb2.CancelRolloutRequest, context: grpc.aio.ServicerContext
    ) -> model_pb2.Rollout:
        return await self._rollout(await self._rollouts.cancel(rollout_id(request.name)))

    async def RollbackModel(  # noqa: N802
        self, request: model_pb2.RollbackModelRequest, context: grpc.aio.ServicerContext
    ) -> operations_pb2.Operation:
        return await self._operation(await self._rollouts.rollback())

    async def RetireModel(  # noqa: N802
        self, request: model_pb2.RetireModelRequest, context: grpc.aio.ServicerContext
    ) -> model_pb2.Model:
        version = model_version(request.name)
        await self._rollouts.retire(version)
        # nothing is left of one that had a collection and no files
        return to_model(await self._find(version) or ModelInfo(version, ModelState.DAMAGED, NO_FILES))

    async def GetRollout(  # noqa: N802
        self, request: model_pb2.GetRolloutRequest, context: grpc.aio.ServicerContext
    ) -> model_pb2.Rollout:
        return await self._rollout(await self._rollouts.get(rollout_id(request.name) if request.name else ""))

    async def _find(self, version: int) -> ModelInfo | None:
        return next((info for info in await self._rollouts.models() if info.version == version), None)

    async def _rollout(self, record: Rollout) -> model_pb2.Rollout:
        return to_rollout(await standing(self._rollouts, record))

    async def _operation(self, record: Rollout) -> operations_pb2.Operation:
        return to_operation(await standing(self._rollouts, record))


def _place(info: ModelInfo) -> Place:
    return f"{info.version:09}", ""
