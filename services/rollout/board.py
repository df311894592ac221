"""What is published: the serving collection, its state, the record of the rollout. One writer: the lease's holder."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from services.backends.index import Collection, Index
from services.common.errors import FailedPrecondition, Unavailable
from services.common.rollout_state import RolloutState
from services.rollout.record import Rollout

_log = logging.getLogger("lookalike.rollout")

# finished rollouts that are remembered, without what their gates measured
HISTORY = 20
_NONE = Rollout(id="", version=0, previous=0)


class Board:
    """`read` before anything else. What is stored is kept here as well, for there is no other writer."""

    def __init__(self, index: Index) -> None:
        self._index = index
        self._collection: Collection | None = None
        # of the last state that was published, or may have been
        self._seq = 0
        self.state = RolloutState()
        self.record: Rollout | None = None
        self.history: list[Rollout] = []
        # a promotion and the end of a stage may come at the same time
        self._lock = asyncio.Lock()

    @property
    def collection(self) -> Collection:
        """The serving one."""
        if self._collection is None:
            raise Unavailable("the rollout service is starting", reason="NOT_READY")
        return self._collection

    async def read(self) -> None:
        """Raises Unavailable, or FailedPrecondition when nothing serves yet or what is stored can't be read."""
        collections = self._index.collections
        collection = await collections.resolve()
        if collection is None:
            raise FailedPrecondition("no gateway has made a serving collection yet", reason="NOT_READY")
        try:
            self.state = RolloutState.from_json(collection.state)
            self.record = Rollout.from_json(await collections.kept(collection.name, "record"))
            past = json.loads(await collections.kept(collection.name, "history") or "[]")
            self.history = [made for text in past if (made := Rollout.from_json(text))]
        except ValueError as error:
            raise FailedPrecondition(
                f"the state kept with {collection.name} can't be read: {error}", reason="STATE_INVALID"
            ) from error
        self._seq = max(self._seq, self.state.seq)
        self._collection = collection

    async def publish(self, **changes: Any) -> RolloutState:
        """Tells gateways the next state.

        Raises:
            Unavailable: it may have been stored or not. `state` is what it was before, so that whoever tries again
            publishes again, under another number.
        """
        # counted before it is tried: a number must never come twice
        self._seq += 1
        state = replace(self.state.after(**changes), seq=self._seq)
        try:
            await self._index.collections.keep(self.collection.name, {"state": state.to_json()})
        except BaseException:
            self.state = replace(self.state, freeze=state.freeze)
            raise
        self.state = state
        return state

    async def change(self, **changes: Any) -> Rollout:
        """Stores changes of the record as it is by then."""
        return await self.amend(lambda record: record.but(**changes))

    async def remember(self, record: Rollout) -> Rollout:
        """Stores the record; one of another rollout makes way."""
        return await self.amend(lambda _: record)

    async def amend(self, make: Callable[[Rollout], Rollout]) -> Rollout:
        """Stores what `make` makes of the record as it is by then. Raises what it raises; nothing changes then."""
        async with self._lock:
            return await self._stored(make(self.record or _NONE))

    async def _stored(self, record: Rollout) -> Rollout:
        record, history = record.but(updated=time.time()), self.history
        kept = {"record": record.to_json()}
        if self.record and self.record.id != record.id:
            history = [self.record.but(gate=None), *history][:HISTORY]
            kept["history"] = _json(history)
        await self._index.collections.keep(self.collection.name, kept)
        before, self.record, self.history = self.record, record, history
        _tell(before, record)
        return record

    async def switch(self, target: Collection, state: RolloutState, record: Rollout, fence: str) -> None:
        """Makes `target` the serving collection, with this state and record as of the same moment.

        Raises:
            Unavailable: nobody knows on which side it ended; `read` tells.
        """
        async with self._lock:
            self._seq = max(self._seq, state.seq)
            kept = {
                "state": state.to_json(),
                "record": record.to_json(),
                "history": _json(self.history),
                "fence": fence,
            }
            await self._index.collections.keep(target.name, kept)
            await self._index.collections.set_alias(target.name)
            before = self.record
            self._collection, self.state, self.record = target, state, record
        _tell(before, record)


def _json(history: list[Rollout]) -> str:
    return json.dumps([each.to_json() for each in history])


def _tell(before: Rollout | None, now: Rollout) -> None:
    """One line in the log for each stage that begins and each status that changes."""
    if before and (before.id, before.stage, before.status) == (now.id, now.stage, now.status):
        return
    facts = {"rollout": now.id, "version": now.version, "stage": now.stage.value, "status": now.status.value}
    if now.message:
        facts["why"] = now.message
    _log.info("rollout", extra={"facts": facts})
