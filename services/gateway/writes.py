"""How a write gets past a rollout: it waits while writes are frozen, is entered into the change log, and is confirmed.

Steps 1, 2 and 4 of a write in docs/decisions/0008, which says why they are enough.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace

from services.backends.change_log import ChangeLog
from services.backends.index import Collection, Index
from services.common.errors import Unavailable
from services.common.rollout_state import RolloutState
from services.gateway.serving import Serving
from services.gateway.settings import ServingSettings

_log = logging.getLogger("lookalike.writes")


@dataclass(frozen=True, slots=True)
class Write:
    """A write of one product under one state, to the collection that came with it.

    Args:
        log: the change log that it is entered into; "": into none.
        late: it gave up waiting for the freeze that it began in.
    """

    product_id: str
    collection: Collection
    state: RolloutState
    log: str
    late: bool = False


class Writes:
    """One for the whole gateway."""

    def __init__(self, settings: ServingSettings, serving: Serving, log: ChangeLog, index: Index) -> None:
        self._freeze_limit_s = settings.freeze_limit_s
        self._serving = serving
        self._log = log
        self._index = index
        # writes between `begun` and its end, by the number of the state that they began under
        self._running: Counter[int] = Counter()
        # logs that are known to lack an entry
        self._gaps: set[str] = set()
        # number of the freeze that was last seen, and since when (monotonic)
        self._frozen: tuple[int, float] = (-1, 0.0)

    def quiet(self, seq: int) -> bool:
        """Whether no write that began under a state before `seq` still runs."""
        return not any(count and began < seq for began, count in self._running.items())

    @asynccontextmanager
    async def begun(self, product_id: str, collection: Collection) -> AsyncIterator[Write | None]:
        """A write to `collection`, once writes are not frozen; None when another collection serves by then.

        Raises:
            Unavailable: the state can't be read.
        """
        view, late = self._serving.view, False
        while view.state.frozen and not late:
            left_s = self._thaws_in(view.state)
            if left_s > 0:
                await self._serving.changed(view.state.seq, left_s)
                view = self._serving.view
            else:
                seen, view = view.state.freeze, await self._serving.refresh()
                late = view.state.frozen and view.state.freeze == seen
        if view.collection.name != collection.name:
            yield None
            return
        seq = view.state.seq
        self._running[seq] += 1
        try:
            yield Write(product_id, view.collection, view.state, view.state.log, late)
        finally:
            self._running[seq] -= 1
            if not self._running[seq]:
                del self._running[seq]

    async def enter(self, write: Write) -> None:
        """Enters the product into the log of the write's state, before its rows and once more when searches see them.

        Raises:
            Unavailable: neither Redis nor Milvus could be told; the write must not go on.
        """
        log = write.log
        if not log or log in self._gaps:
            return
        try:
            await self._log.append(log, write.product_id, write.collection.name)
        except Unavailable:
            _log.warning("a write could not be entered into the change log", extra={"facts": {"log": log}})
            await self._index.collections.keep_gap(write.collection.name, log)
            self._gaps.add(log)

    async def confirmed(self, write: Write) -> bool:
        """Whether the write counts, when its rows are durable; False: it must be done again.

        Raises:
            Unavailable: the state can't be read, so nobody knows.
        """
        began = write.state
        while True:
            state = (await self._serving.refresh()).state
            # not the collection's name: after a switch and back it is the same, and the write has been undone
            if state.turn != began.turn or (write.late and state.freeze != began.freeze):
                return False
            if state.frozen and state.freeze != began.freeze:
                left_s = self._thaws_in(state)
                if left_s <= 0:
                    return False
                await self._serving.changed(state.seq, left_s)
            elif state.log and state.log != write.log:
                write = replace(write, log=state.log)
                await self.enter(write)
            else:
                return True

    def _thaws_in(self, state: RolloutState) -> float:
        """Seconds until this gateway gives up waiting for a freeze that it sees: whoever froze it is gone."""
        now = time.monotonic()
        freeze, since = self._frozen
        if freeze != state.freeze:
            self._frozen = (state.freeze, now)
            return self._freeze_limit_s
        return since + self._freeze_limit_s - now
