"""The check and the switch: steps 5 to 7 of docs/decisions/0008. After it the two collections have changed places."""

from __future__ import annotations

import logging
import secrets
import time

from services.backends.change_log import ChangeLog
from services.backends.index import Index
from services.common.errors import LookalikeError, Unavailable
from services.rollout.agreement import Agreement, LogLost
from services.rollout.board import Board
from services.rollout.mirror import Mirror
from services.rollout.record import Rollout, Stage, Status

_log = logging.getLogger("lookalike.rollout")
_ACKNOWLEDGE_S = 10.0
# of the whole freeze, up to moving the alias; gateways give up waiting after twice as long
FREEZE_BUDGET_S = 5.0
_READ = 512


class NotSwitched(Unavailable):
    """The switch was given up in time, and writes go on; it can be tried again."""

    reason = "SWITCH_POSTPONED"


class Switch:
    """Of one rollout. Nothing else may copy between the two collections while it is at work."""

    def __init__(self, board: Board, agreement: Agreement, log: ChangeLog, index: Index) -> None:
        self._board = board
        self._agreement = agreement
        self._log = log
        self._index = index

    async def check(self, mirror: Mirror) -> str:
        """Compares all rows and copies what differs; the place in the log that `switch` starts from.

        Raises:
            LogLost, NotAcknowledged, Unavailable.
        """
        board = self._board
        start = await self._log.last(board.state.log)
        state = await board.publish(hurry=True)
        # no write that was entered before `start` is under way any more
        await self._agreement.reached(state, _ACKNOWLEDGE_S)
        async for _, ids in mirror.differing():
            await mirror.copy(ids)
        return start

    async def switch(self, mirror: Mirror, start: str, record: Rollout, retention_s: float) -> None:
        """Freezes writes, copies what was written since `start`, moves the alias, lets writes go on.

        Raises:
            NotSwitched: not within the budget; nothing has changed, and writes go on.
            LogLost, Unavailable: the same, or nobody knows: `resume` tells.
        """
        board, old_log = self._board, self._board.state.log
        began = time.monotonic()
        moving = False
        try:
            state = await board.publish(frozen=True, hurry=True)
            await self._agreement.reached(state, FREEZE_BUDGET_S)
            start = await self._copy_entered(mirror, old_log, start)
            new_log = secrets.token_hex(8)
            await self._log.open(new_log)
            await self._agreement.log_is_whole(mirror.source, state)
            after = state.after(
                log=new_log,
                mirror=mirror.source.name,
                mirror_version=mirror.source.model_version,
                query_version=0,
                canary=0.0,
                shadow=0.0,
                retention_end=time.time() + retention_s,
            )
            record = record.but(stage=Stage.SWITCH, switch_log=old_log, switch_from=start, updated=time.time())
            if time.monotonic() - began > FREEZE_BUDGET_S:
                raise NotSwitched(f"the freeze took longer than {FREEZE_BUDGET_S:g} s")
            moving = True
            await board.switch(mirror.target, after, record, fence=secrets.token_hex(8))
        except BaseException:
            if not moving:
                await self._thaw()
            raise
        await self.finish(mirror, began)

    async def finish(self, mirror: Mirror, began: float | None = None) -> None:
        """What comes after the alias has moved, from `mirror.source` to `mirror.target`.

        Args:
            began: when writes were frozen (monotonic); None when this process does not know.
        """
        board = self._board
        record = board.record
        assert record is not None
        try:
            await self._agreement.reached(board.state, _ACKNOWLEDGE_S)
        except LogLost as error:
            # it has waited for as long as any gateway may still look at the old collection
            _log.warning("the registry was lost at the switch", extra={"facts": {"error": error.message}})
        # entered since by a gateway that gave up waiting for the freeze
        await self._copy_entered(mirror, record.switch_log, record.switch_from, only=mirror.source.name)
        await board.publish(frozen=False, hurry=False)
        freeze_s = time.monotonic() - began if began is not None else 0.0
        _log.info("switched", extra={"facts": {"collection": mirror.target.name, "freeze_s": round(freeze_s, 3)}})
        await board.remember(
            record.but(
                stage=Stage.RETENTION,
                status=Status.SUCCEEDED,
                message="",
                freeze_s=freeze_s,
                switch_log="",
                switch_from="",
            )
        )
        await self._log.close(record.switch_log)

    async def _copy_entered(self, mirror: Mirror, log: str, start: str, *, only: str = "") -> str:
        """Copies what was entered behind `start`; the place of the last entry.

        Args:
            only: entries of writes to this collection alone.
        """
        if not log:
            return start
        while entries := await self._log.read(log, start, _READ):
            products = {entry.product for entry in entries if not only or entry.collection == only}
            await mirror.copy(sorted(products))
            start = entries[-1].id
        return start

    async def _thaw(self) -> None:
        try:
            await self._board.publish(frozen=False, hurry=False)
        except LookalikeError as error:
            # gateways give up waiting by themselves, and whoever resumes this rollout thaws first
            _log.warning("writes could not be let go on", extra={"facts": {"error": error.message}})
