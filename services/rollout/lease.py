"""Who may act as the rollout service: one process at a time, by a lease in Redis.

Whoever holds it looks at it once more before each call that changes anything (`confirm`): a process that was paused
finds out that another has taken over before it does harm, not after.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import socket
import time
from types import TracebackType

from services.backends.coordination import Coordination
from services.common.cancellation import end
from services.common.changes import Changes
from services.common.errors import LookalikeError, Unavailable

NAME = "rollout"
TTL_S = 6.0
_RENEW_S = TTL_S / 4
_TRY_S = 0.5


class LeaseLost(Unavailable):
    """Another process may act by now, so this one must not."""

    reason = "LEASE_LOST"


class Lease:
    """Use as `async with`. It is tried for while somebody waits in `acquired`, then kept; leaving gives it up.

    One that has lapsed is not taken again before its holder has noticed and asks anew: somebody else may have had it.
    """

    def __init__(self, coordination: Coordination) -> None:
        self._coordination = coordination
        self._owner = f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(4)}"
        self._until = -float("inf")
        self._turned = Changes()
        self._asked = Changes()
        # an answer of before must not be taken for a newer one
        self._taking = asyncio.Lock()
        self._task: asyncio.Task[None] | None = None
        self._wanted = False
        # who has it, or why that is not known
        self.holder = "nobody yet"

    async def __aenter__(self) -> Lease:
        self._task = asyncio.create_task(self._keep())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        await end(self._task)
        with contextlib.suppress(LookalikeError):
            await self._coordination.drop_lease(NAME, self._owner)

    @property
    def held(self) -> bool:
        return time.monotonic() < self._until

    async def acquired(self) -> None:
        self._wanted = True
        self._asked.tell()
        try:
            while not self.held:
                await self._turned.wait()
        finally:
            self._wanted = False

    async def confirm(self) -> None:
        """Raises LeaseLost unless this process holds the lease now.

        Redis is asked: one that was emptied may have given it to another. One that does not answer has not, as long as
        the lease lasts.
        """
        if self.held:
            with contextlib.suppress(LookalikeError):
                await self._take()
        if not self.held:
            raise LeaseLost(f"this process does not hold the lease any more: {self.holder}")

    async def lost(self) -> None:
        while self.held:
            await self._turned.wait(max(0.01, self._until - time.monotonic()))

    async def _keep(self) -> None:
        while True:
            try:
                if self.held or self._wanted:
                    await self._take()
            except LookalikeError as error:
                self.holder = error.message
            await self._asked.wait(_RENEW_S if self.held else _TRY_S)

    async def _take(self) -> None:
        async with self._taking:
            began = time.monotonic()
            holder = await self._coordination.take_lease(NAME, self._owner, TTL_S)
            if holder != self._owner and _is_dead(holder):
                await self._coordination.drop_lease(NAME, holder)
                holder = await self._coordination.take_lease(NAME, self._owner, TTL_S)
            self.holder = holder
            self._until = began + TTL_S * 0.8 if holder == self._owner else -float("inf")
        self._turned.tell()


def _is_dead(owner: str) -> bool:
    """Whether it was a process of this machine that has ended, so that nobody has to wait for its lease."""
    host, _, rest = owner.partition(":")
    pid = rest.partition(":")[0]
    if host != socket.gethostname() or not pid.isdigit():
        return False
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    return False
