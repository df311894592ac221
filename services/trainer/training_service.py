"""TrainingService: starts and lists runs; `operations` follows and cancels them."""

from __future__ import annotations

import asyncio
from pathlib import Path

import grpc.aio
from google.longrunning import operations_pb2
from lookalike.v1 import training_pb2, training_pb2_grpc

from services.common.errors import InvalidArgument
from services.common.pages import page_of
from services.trainer.convert import to_operation, to_run
from services.trainer.operations import place
from services.trainer.recipe import Recipe, parse_recipe
from services.trainer.runs import standing
from services.trainer.trainings import Trainings

NAME = training_pb2.DESCRIPTOR.services_by_name["TrainingService"].full_name
MAX_RECIPE_CHARACTERS = 64 * 2**10


class TrainingService(training_pb2_grpc.TrainingServiceServicer):
    """Args:
    data: where paths in recipes start, and what they stay in.
    """

    def __init__(self, trainings: Trainings, data: Path) -> None:
        self._trainings = trainings
        self._data = data.absolute()

    async def TrainModel(  # noqa: N802
        self, request: training_pb2.TrainModelRequest, context: grpc.aio.ServicerContext
    ) -> operations_pb2.Operation:
        recipe = await asyncio.to_thread(self._recipe, request.recipe)
        if request.validate_only:
            return await asyncio.to_thread(self._validated, recipe, request.again)
        run = await self._trainings.start(recipe, again=request.again)
        return to_operation(await self._trainings.state(run), self._trainings.progress(run))

    async def ListTrainingRuns(  # noqa: N802
        self, request: training_pb2.ListTrainingRunsRequest, context: grpc.aio.ServicerContext
    ) -> training_pb2.ListTrainingRunsResponse:
        page, token = page_of(await self._trainings.states(), place, request.page_size, request.page_token)
        return training_pb2.ListTrainingRunsResponse(runs=map(to_run, page), next_page_token=token)

    def _recipe(self, text: str) -> Recipe:
        if len(text) > MAX_RECIPE_CHARACTERS:
            raise InvalidArgument(
                f"the recipe has more than {MAX_RECIPE_CHARACTERS} characters", reason="RECIPE_INVALID", field="recipe"
            )
        try:
            return parse_recipe(text, self._data, confined=True)
        except InvalidArgument as error:
            error.field = "recipe"
            raise

    def _validated(self, recipe: Recipe, again: bool) -> operations_pb2.Operation:
        run = self._trainings.check(recipe, again=again)
        found = training_pb2.TrainingRun(name=f"trainingRuns/{run.id}", epochs=recipe.optimiser.epochs)
        if run.exists:
            found = to_run(standing(run))
        operation = operations_pb2.Operation(done=True)
        operation.metadata.Pack(training_pb2.TrainModelMetadata(run=found.name, epoch=found.epoch, epochs=found.epochs))
        operation.response.Pack(training_pb2.TrainModelResponse(run=found))
        return operation
