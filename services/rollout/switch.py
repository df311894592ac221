"""The check and the switch: steps 5 to 7 of docs/decisions/0008. After it the two collections have changed places."""

from __future__ import annotations

import logging
import secrets
import time

from services.backends.change_log import START, ChangeLog, LogLost
from services.backends.index import Index
from services.common.errors import LookalikeError, Unavailable
from services.common.rollout_state import RolloutState
from services.rollout.agreement import Agreement
from services.rollout.board import Board
from services.rollout.mirror import Mirror
from services.rollout.record import Rollout, Stage, Status

_log = logging.getLogger("lookalike.rollout")
_ACKNOWLEDGE_S = 10.0
# of the whole freeze, up to moving the alias; gateways give up waiting after twice as long
FREEZE_BUDGET_S = 5.0
_READ = 512
# products that may be left to be copied while writes wait, and how often it is tried to be as few
_FEW, _ROUNDS = 8, 5


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
        start = await self._noted()
        async for _, ids in mirror.differing():
            await mirror.copy(ids)
        # comparing takes a while: what was written meanwhile is copied now, or writes would have to wait for it
        for _ in range(_ROUNDS):
            end = await self._noted()
            entered, _ = await self._entered(self._board.state.log, start, until=end)
            await mirror.copy(entered)
            start = end
            if len(entered) <= _FEW:
                break
        return start

    async def _noted(self) -> str:
        """The end of the log as it was; no write that was entered before it is under way any more."""
        end = await self._log.last(self._board.state.log)
        state = await self._board.publish(hurry=True)
        await self._agreement.reached(state, _ACKNOWLEDGE_S)
        return end

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
            state = await self._freeze()
            await self._agreement.reached(state, FREEZE_BUDGET_S)
            all_wait_s = time.monotonic() - began
            entered, start = await self._entered(old_log, start)
            await mirror.copy(entered)
            facts = {
                "acknowledged_s": round(all_wait_s, 3),
                "products": len(entered),
                "copied_s": round(time.monotonic() - began, 3),
            }
            _log.info("frozen", extra={"facts": facts})
            new_log = secrets.token_hex(8)
            await self._log.open(new_log)
            await self._agreement.log_is_whole(mirror.source, state)
            after = state.after(
                log=new_log,
                mirror=mirror.source.name,
                mirror_version=mirror.source.model_version,
                query_version=0,
                freeze=state.freeze + 1,
                turn=state.turn + 1,
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
        """What comes after the alias has moved, from `mirror.source` to `mirror.target`. It may be done again.

        Args:
            began: when writes were frozen (monotonic); None when this process does not know.

        Raises:
            Unavailable: gateways give up waiting by themselves; do it again.
        """
        board = self._board
        record = board.record
        assert record is not None
        if board.state.frozen:
            whole = await self._acknowledged()
            await self._repair(mirror, record, whole)
            await board.publish(frozen=False, hurry=False)
        freeze_s = time.monotonic() - began if began is not None else 0.0
        _log.info("switched", extra={"facts": {"collection": mirror.target.name, "freeze_s": round(freeze_s, 3)}})
        await self._log.close(record.switch_log)
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

    async def _repair(self, mirror: Mirror, record: Rollout, whole: bool) -> None:
        """Copies what gateways wrote to the source after they gave up waiting for the freeze before the switch.

        Not what was written to the target since: gateways give up waiting for the end of the switch as well. So nobody
        knows what to copy when the new log is not `whole`.
        """
        while whole and (late := await self._late(mirror, record)):
            frozen_at = time.monotonic()
            await self._freeze()
            whole = await self._acknowledged()
            newer, _ = await self._entered(self._board.state.log, START)
            _log.warning("repairing", extra={"facts": {"products": len(late)}})
            if whole:
                await mirror.copy((late | await self._late(mirror, record)) - newer)
            if time.monotonic() - frozen_at <= FREEZE_BUDGET_S:
                return

    async def _late(self, mirror: Mirror, record: Rollout) -> set[str]:
        """Products that may have been written to the source since the switch read the log."""
        late, _ = await self._entered(record.switch_log, record.switch_from, only=mirror.source.name)
        source = await self._index.collections.describe(mirror.source.name)
        if source is not None and record.switch_log in source.gaps:
            # some of them could not be entered
            late |= {product_id async for _, ids in mirror.differing() for product_id in ids}
        return late

    async def _acknowledged(self) -> bool:
        """Returns when all gateways act by the state; whether its log is whole."""
        try:
            await self._agreement.reached(self._board.state, _ACKNOWLEDGE_S)
            await self._agreement.log_is_whole(self._board.collection, self._board.state)
        except LogLost as error:
            # it has waited for as long as any gateway may still look at the old collection
            _log.warning("the log was lost at the switch", extra={"facts": {"error": error.message}})
            return False
        return True

    async def _entered(self, log: str, start: str, *, only: str = "", until: str = "") -> tuple[set[str], str]:
        """Products that were entered behind `start`, and the place of the last entry.

        Args:
            only: entries of writes to this collection alone.
            until: no entry behind this place.
        """
        products: set[str] = set()
        while log and (entries := await self._log.read(log, start, _READ, until=until)):
            products |= {entry.product for entry in entries if not only or entry.collection == only}
            start = entries[-1].id
        return products, start

    async def _freeze(self) -> RolloutState:
        return await self._board.publish(frozen=True, freeze=self._board.state.freeze + 1, hurry=True)

    async def _thaw(self) -> None:
        try:
            await self._board.publish(frozen=False, hurry=False)
        except LookalikeError as error:
            # gateways give up waiting by themselves, and whoever resumes this rollout thaws first
            _log.warning("writes could not be let go on", extra={"facts": {"error": error.message}})
