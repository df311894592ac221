"""Waiting until every gateway acts by a state, and looking whether the change log is whole."""

from __future__ import annotations

import asyncio
import time

from services.backends.change_log import ChangeLog, LogLost
from services.backends.gateway_registry import GATEWAY_TTL_S, Beat, GatewayRegistry
from services.backends.index import Collection, Index
from services.common.errors import Unavailable
from services.common.rollout_state import RolloutState

_POLL_S = 0.02


class NotAcknowledged(Unavailable):
    """A gateway that lives has not acknowledged in time; the message names it and why."""

    reason = "STATE_NOT_ACKNOWLEDGED"


class Agreement:
    """Between this service, which publishes, and the gateways."""

    def __init__(self, index: Index, registry: GatewayRegistry, log: ChangeLog) -> None:
        self._index = index
        self._registry = registry
        self._log = log

    async def reached(self, state: RolloutState, limit_s: float) -> None:
        """Returns when all gateways alive have acknowledged `state`, which was published.

        Who is alive is known only if Redis has been the same since before the state was published.

        Raises:
            NotAcknowledged: not within `limit_s`. LogLost: Redis is another one, so nobody knows who is alive.
            Unavailable: Redis does not answer.
        """
        end = time.monotonic() + limit_s
        while True:
            behind = [beat for beat in await self._registry.alive() if beat.seq < state.seq]
            if not behind:
                break
            if time.monotonic() >= end:
                raise NotAcknowledged(f"not acknowledged by {'; '.join(map(_told, behind))}")
            await asyncio.sleep(_POLL_S)
        if state.log and not await self._log.intact(state.log):
            # by then every gateway that trusted its beats of before has read the state anew
            await asyncio.sleep(GATEWAY_TTL_S)
            raise LogLost("Redis is not the one that the change log was begun in")

    async def log_is_whole(self, collection: Collection, state: RolloutState) -> None:
        """Raises LogLost unless every write to `collection` since the log began has been entered into it."""
        if not await self._log.intact(state.log):
            raise LogLost("Redis is not the one that the change log was begun in")
        seen = await self._index.collections.describe(collection.name)
        if seen is None or state.log in seen.gaps:
            raise LogLost("a gateway could not enter a write into the change log")


def _told(beat: Beat) -> str:
    return f"{beat.address} ({beat.problem})" if beat.problem else beat.address
