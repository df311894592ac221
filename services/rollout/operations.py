"""Rollouts as long-running operations, `operations/{rollout}`. They outlive this process, as their records do."""

from __future__ import annotations

from google.longrunning import operations_pb2

from services.common.errors import FailedPrecondition, NotFound
from services.common.pages import Place
from services.rollout.controller import Controller, standing
from services.rollout.convert import to_operation
from services.rollout.record import Rollout

UNDELETABLE = "an operation is as durable as the record of its rollout; the last few are kept"


class RolloutWork:
    """See `services.common.operations.LongWork`."""

    def __init__(self, rollouts: Controller) -> None:
        self._rollouts = rollouts

    async def state(self, work: str) -> Rollout:
        return await self._rollouts.get(_named(work))

    async def states(self) -> list[Rollout]:
        return await self._rollouts.all()

    def place(self, state: Rollout) -> Place:
        return f"{state.created:020.6f}", state.id

    async def wait(self, work: str, timeout_s: float | None) -> Rollout:
        return await self._rollouts.wait(_named(work), timeout_s)

    async def cancel(self, work: str) -> None:
        """Raises FailedPrecondition while it switches."""
        if (await self.state(work)).status.ended:
            return
        try:
            await self._rollouts.cancel(work)
        except FailedPrecondition:
            # it may have ended between the two looks
            if not (await self.state(work)).status.ended:
                raise

    async def to_operation(self, state: Rollout) -> operations_pb2.Operation:
        return to_operation(await standing(self._rollouts, state))


def _named(work: str) -> str:
    """For "" would be the newest one. Raises NotFound."""
    if not work:
        raise NotFound("an operation's name is operations/ID", reason="ROLLOUT_NOT_FOUND", field="name")
    return work
