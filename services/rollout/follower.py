"""Keeps the mirror following the serving collection: begins the change log, copies all once, then what is entered.

Steps 2 and 3 of docs/decisions/0008. When the log is lost a new one is begun and everything compared again, by itself.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from types import TracebackType

from services.backends.change_log import START, ChangeLog, LogLost
from services.backends.gateway_registry import GATEWAY_TTL_S
from services.backends.index import Index
from services.common.cancellation import end
from services.common.errors import LookalikeError
from services.rollout.agreement import Agreement
from services.rollout.board import Board
from services.rollout.mirror import Mirror
from services.rollout.record import Progress

_log = logging.getLogger("lookalike.rollout")
_POLL_S = 0.05
_RETRY_S = 1.0
_LOOK_S = 1.0
_READ = 256
# entries that the next look at the log is over in no time with
_CLOSE = 16
# stretches of the comparison that are copied at a time
_COPIES = 3
_ACKNOWLEDGE_S = 30.0


class Follower:
    """Use as `async with`: entering starts it. `copied` and `caught_up` wait for how far it is.

    It must not run while a check or a switch does: they need the entries that it forgets, and copy by themselves.
    """

    def __init__(
        self,
        board: Board,
        mirror: Mirror,
        agreement: Agreement,
        log: ChangeLog,
        index: Index,
        *,
        query_version: int = 0,
    ) -> None:
        self.mirror = mirror
        self._board = board
        self._agreement = agreement
        self._log = log
        self._index = index
        self._query_version = query_version
        self._copied = asyncio.Event()
        self._cursor = START
        # how often there was next to nothing to follow
        self._times_close = 0
        self.problem = ""
        self.progress = Progress()
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Follower:
        self._task = asyncio.create_task(self._run())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        await self.stop()

    async def stop(self) -> None:
        await end(self._task)
        self._task = None

    @property
    def is_complete(self) -> bool:
        """Everything was compared and copied since the log began, and the log has been whole since."""
        return self._copied.is_set()

    async def copied(self) -> None:
        await self._copied.wait()

    async def caught_up(self) -> None:
        """Returns once everything was copied and there was next to nothing left to follow after that.

        Not "nothing": while the catalogue is written all the time, there always is something.
        """
        await self._copied.wait()
        seen = self._times_close
        while not self._copied.is_set() or self._times_close == seen:  # noqa: ASYNC110 - a number is waited for
            await asyncio.sleep(_POLL_S)

    async def _run(self) -> None:
        while True:
            try:
                await self._begin_log()
                self.problem = ""
                await self._follow_and_copy()
            except LogLost as error:
                self._paused(error)
                self._copied.clear()
            except LookalikeError as error:
                self._paused(error)
            except Exception as error:
                _log.exception("following failed")
                self.problem = f"internal error: {type(error).__name__}; see the log"
            await asyncio.sleep(_RETRY_S)

    def _paused(self, error: LookalikeError) -> None:
        if error.message != self.problem:
            _log.warning("paused", extra={"facts": {"reason": error.reason, "error": error.message}})
        self.problem = error.message

    async def _begin_log(self) -> None:
        """Goes on with the log of the published state if it is whole, or publishes a new one."""
        board, target = self._board, self.mirror.target
        state = board.state
        usable = state.log and state.mirror == target.name
        if usable:
            try:
                await self._agreement.log_is_whole(board.collection, state)
            except LogLost:
                usable = False
        if not usable:
            self._copied.clear()
            self._cursor = START
            log = secrets.token_hex(8)
            await self._log.open(log)
            state = await board.publish(
                log=log,
                mirror=target.name,
                mirror_version=target.model_version,
                query_version=self._query_version,
                frozen=False,
                hurry=False,
            )
            record = board.record
            if record and record.samples_log and not record.status.ended:
                # gateways sample under the new log
                await board.change(samples_log=log)
        began = time.monotonic()
        await self._agreement.reached(state, _ACKNOWLEDGE_S)
        if not usable:
            # a Redis that was emptied before does not know gateways that still trust what they hold
            await asyncio.sleep(max(0.0, began + GATEWAY_TTL_S - time.monotonic()))

    async def _follow_and_copy(self) -> None:
        """Until something fails."""
        tasks = [asyncio.create_task(self._follow())]
        if not self._copied.is_set():
            tasks.append(asyncio.create_task(self._copy_all()))
        try:
            await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _copy_all(self) -> None:
        total = await self._index.count(self.mirror.source)
        self.progress = Progress(total=total, backlog=self.progress.backlog)
        start, done, copied_rows = time.monotonic(), 0, 0
        slots = asyncio.Semaphore(_COPIES)
        running: set[asyncio.Task[None]] = set()

        async def copy(compared: int, ids: list[str]) -> None:
            nonlocal done, copied_rows
            try:
                rows = await self.mirror.copy(ids, paced=True)
            finally:
                slots.release()
            # not `+= await`: others add meanwhile
            copied_rows += rows
            done += compared
            took_s = max(1e-3, time.monotonic() - start)
            # nothing is done when all that differs so far is to be removed
            eta_s = max(0, total - done) * took_s / done if done else None
            self.progress = Progress(min(done, total), total, copied_rows / took_s, eta_s, self.progress.backlog)

        try:
            async for compared, ids in self.mirror.differing():
                await slots.acquire()
                for task in [task for task in running if task.done()]:
                    running.discard(task)
                    task.result()
                running.add(asyncio.create_task(copy(compared, ids)))
            await asyncio.gather(*running)
        finally:
            for task in running:
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)
        self._copied.set()

    async def _follow(self) -> None:
        log, looked_at = self._board.state.log, time.monotonic()
        while True:
            entries = await self._log.read(log, self._cursor, _READ)
            if entries:
                self.progress = self._with_backlog(await self._log.length(log))
                await self.mirror.copy(entry.product for entry in entries)
                self._cursor = entries[-1].id
                await self._log.trim(log, self._cursor)
                self._times_close += len(entries) <= _CLOSE
            else:
                self.progress = self._with_backlog(0)
                self._times_close += 1
                await asyncio.sleep(_POLL_S)
            if time.monotonic() - looked_at > _LOOK_S:
                await self._agreement.log_is_whole(self._board.collection, self._board.state)
                looked_at = time.monotonic()

    def _with_backlog(self, backlog: int) -> Progress:
        now = self.progress
        return Progress(now.done, now.total, now.rows_per_s, now.eta_s, backlog)
