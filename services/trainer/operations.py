"""Training runs as long-running operations. They outlive this process, for the runs' folders do."""

from __future__ import annotations

from google.longrunning import operations_pb2

from services.common.pages import Place
from services.trainer.convert import to_operation
from services.trainer.runs import RunState
from services.trainer.trainings import Trainings

UNDELETABLE = "an operation is as durable as its run; remove the run's folder"


class TrainingWork:
    """See `services.common.operations.LongWork`."""

    def __init__(self, trainings: Trainings) -> None:
        self._trainings = trainings

    async def state(self, work: str) -> RunState:
        return await self._trainings.state(work)

    async def states(self) -> list[RunState]:
        return await self._trainings.states()

    def place(self, state: RunState) -> Place:
        return place(state)

    async def wait(self, work: str, timeout_s: float | None) -> RunState:
        return await self._trainings.wait(work, timeout_s)

    async def cancel(self, work: str) -> None:
        await self._trainings.cancel(work)

    async def to_operation(self, state: RunState) -> operations_pb2.Operation:
        return to_operation(state, self._trainings.progress(state.id))


def place(state: RunState) -> Place:
    """Where a run stands among others, by age."""
    return state.created, state.id
