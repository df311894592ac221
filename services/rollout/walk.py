"""The walk of a rollout through its stages, from wherever its record says that it is (docs/decisions/0008)."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

from services.backends.change_log import LogLost
from services.backends.index import Collection
from services.common.changes import Changes
from services.common.errors import DeadlineExceeded, FailedPrecondition, LookalikeError, Overloaded, Unavailable
from services.rollout.board import Board
from services.rollout.mirroring import Mirroring, Parts
from services.rollout.record import Progress, Rollout, Stage, Status
from services.rollout.stages import Stages, SwitchPostponed

T = TypeVar("T")

_log = logging.getLogger("lookalike.rollout")
_RETRY_S = 1.0
# between two tries of a switch that was postponed: what was in its way may need a moment
_AGAIN_S = 3.0
_LONG_S = 3600.0
_TEMPORARY = (Unavailable, Overloaded, DeadlineExceeded)
# gateways do not know of the version yet
_UNPUBLISHED = (Stage.VERIFY, Stage.LOAD, Stage.GATE)


class Walk:
    """The one actor of this process: `read`, then `run`, which goes on until it is cancelled."""

    def __init__(self, parts: Parts, board: Board) -> None:
        self._parts = parts
        self._board = board
        self._poked = Changes()
        self._mirroring = Mirroring(parts, board)
        self._stages = Stages(parts, board, self._mirroring, self._poked)
        self._stage: asyncio.Task[None] | None = None
        # a version that an operator gives up, and who waits for that
        self._retiring: tuple[int, asyncio.Future[None]] | None = None

    @property
    def progress(self) -> Progress:
        record = self._board.record
        if record and record.stage is Stage.GATE and not record.status.ended:
            return self._stages.gate_progress
        return self._mirroring.progress

    def poke(self) -> None:
        """Something on the board has changed: whatever waits looks again."""
        self._poked.tell()

    def cancel_stage(self) -> None:
        """Ends what the stage does now, unless it switches."""
        record = self._board.record
        if self._stage and record and record.stage is not Stage.SWITCH:
            self._stage.cancel()
        self.poke()

    async def retire(self, version: int) -> None:
        """Gives up a version that does not serve, between stages. Raises LookalikeError."""
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._retiring = (version, done)
        self.poke()
        await done

    async def read(self) -> None:
        """Before `run`: finds out what is to be done, however long that takes."""
        await self._again_and_again(self._read_and_recover)

    async def run(self) -> None:
        """Goes on with what the board says, for ever."""
        try:
            while True:
                asked, record = self._poked.mark(), self._board.record
                if leaving := self._board.state.leaving:
                    await self._again_and_again(functools.partial(self._retired, leaving))
                elif self._retiring:
                    await self._retire(*self._retiring)
                elif record and not record.status.ended:
                    await self._one_stage(record)
                elif self._board.state.mirror:
                    await self._retain(asked)
                else:
                    await self._poked.wait(_LONG_S, asked)
        finally:
            await self._mirroring.stop()
            if self._retiring and not self._retiring[1].done():
                self._retiring[1].set_exception(Unavailable("this process has lost the lease", reason="NOT_ACTIVE"))

    async def _read_and_recover(self) -> None:
        await self._board.read()
        await self._stages.recover()

    async def _one_stage(self, record: Rollout) -> None:
        began = time.monotonic()
        try:
            if record.status is Status.PAUSED:
                record = await self._board.change(status=Status.RUNNING, message="")
            if record.cancelling:
                await self._end(record, Status.CANCELLED, "cancelled by an operator", "CANCELLED")
                return
            self._stage = asyncio.create_task(self._stages.run(record))
            await asyncio.wait([self._stage])
            if not self._stage.cancelled():  # else by an operator, which the next turn sees
                self._stage.result()
        except asyncio.CancelledError:
            if self._stage:
                self._stage.cancel()
                await asyncio.gather(self._stage, return_exceptions=True)
            raise
        except _TEMPORARY as error:
            await self._paused(record, error)
        except LookalikeError as error:
            await self._end(record, Status.FAILED, error.message, error.reason)
        except Exception as error:
            _log.exception("a stage failed")
            message = f"internal error: {type(error).__name__}; the log of the rollout service has more"
            await self._end(record, Status.FAILED, message, "INTERNAL")
        finally:
            self._stage = None
            now = self._board.record
            if now and now.id == record.id:
                spent = now.stage_s.get(record.stage, 0.0) + time.monotonic() - began
                # stored with the next change: no stage is worth a write of its own
                self._board.record = now.but(stage_s=now.stage_s | {record.stage.value: round(spent, 2)})

    async def _paused(self, record: Rollout, error: LookalikeError) -> None:
        _log.warning("paused", extra={"facts": {"stage": record.stage.value, "error": error.message}})
        postponed = isinstance(error, SwitchPostponed)
        if postponed:
            # nobody but the index knows on which side it ended
            await self._again_and_again(self._read_and_recover)
        now = self._board.record
        if now and not now.status.ended:
            with contextlib.suppress(LookalikeError):
                await self._board.change(status=Status.PAUSED, message=error.message)
        await self._poked.wait(_AGAIN_S if postponed else _RETRY_S)

    async def _retain(self, asked: asyncio.Event) -> None:
        """The version before follows, until its time is over or something is asked for."""
        state = self._board.state
        previous = await self._again_and_again(lambda: self._parts.index.collections.describe(state.mirror))
        left_s = state.retention_end - time.time()
        if previous is None or left_s <= 0:
            _log.info("the retention is over", extra={"facts": {"version": state.mirror_version}})
            await self._again_and_again(lambda: self._retired(state.mirror_version))
            return
        await self._again_and_again(lambda: self._mirroring.follow_retained(previous))
        await self._poked.wait(min(left_s, _LONG_S), asked)

    async def _retire(self, version: int, done: asyncio.Future[None]) -> None:
        try:
            await self._retired(version)
        except LookalikeError as error:
            if not done.done():
                done.set_exception(error)
        else:
            if not done.done():
                done.set_result(None)
        self._retiring = None

    async def _retired(self, version: int) -> None:
        await self._mirroring.retire(version)
        record = self._board.record
        if record and record.stage is Stage.RETENTION and not self._board.state.mirror:
            await self._board.change(stage=Stage.RETIRED)

    async def _end(self, record: Rollout, status: Status, message: str, reason: str) -> None:
        await self._again_and_again(lambda: self._ended(record, status, message, reason))

    async def _ended(self, record: Rollout, status: Status, message: str, reason: str) -> None:
        """Ends a rollout before its switch. What a retention keeps stays as it was before."""
        await self._mirroring.stop()
        state = self._board.state
        target = Collection.of(record.version, 0, "").name
        if state.mirror == target and state.retention_end:
            await self._board.publish(query_version=0, frozen=False, hurry=False, canary=0.0, shadow=0.0)
        elif status is Status.CANCELLED:
            await self._mirroring.retire(record.version)
        else:
            if record.stage not in _UNPUBLISHED:
                await self._mirroring.end()
            # what was filled is left: the next try compares it instead of filling it again
            await self._mirroring.unload(record.version)
        await self._board.change(status=status, message=message, reason=reason)

    async def _again_and_again(self, work: Callable[[], Awaitable[T]]) -> T:
        """What it gives once the parts that it needs answer."""
        told = ""
        while True:
            try:
                return await work()
            except (*_TEMPORARY, FailedPrecondition) as error:
                if error.message != told:
                    _log.warning("waiting", extra={"facts": {"reason": error.reason, "error": error.message}})
                    told = error.message
                # a registry that was lost is complete again: `reached` has waited for that
                if not isinstance(error, LogLost):
                    await asyncio.sleep(_RETRY_S)
