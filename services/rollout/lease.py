"""Who may act as the rollout service: one process at a time, by a lease in Redis."""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import socket
import time
from types import TracebackType

from services.backends.coordination import Coordination
from services.common.changes import Changes
from services.common.errors import LookalikeError

NAME = "rollout"
TTL_S = 6.0
_RENEW_S = TTL_S / 4


class Lease:
    """Use as `async with`: entering begins to try for it, leaving gives it up."""

    def __init__(self, coordination: Coordination) -> None:
        self._coordination = coordination
        self._owner = f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(4)}"
        self._until = -float("inf")
        self._turned = Changes()
        self._task: asyncio.Task[None] | None = None
        # who has it, or why that is not known
        self.holder = "nobody yet"

    async def __aenter__(self) -> Lease:
        self._task = asyncio.create_task(self._keep())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        if self._task:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
        with contextlib.suppress(LookalikeError):
            await self._coordination.drop_lease(NAME, self._owner)

    @property
    def held(self) -> bool:
        return time.monotonic() < self._until

    async def acquired(self) -> None:
        while not self.held:
            await self._turned.wait()

    async def lost(self) -> None:
        while self.held:
            await self._turned.wait(max(0.01, self._until - time.monotonic()))

    async def _keep(self) -> None:
        while True:
            began = time.monotonic()
            before = self.held
            try:
                holder = await self._coordination.take_lease(NAME, self._owner, TTL_S)
                if holder != self._owner and _is_dead(holder):
                    await self._coordination.drop_lease(NAME, holder)
                    continue
                self.holder = holder
                self._until = began + TTL_S * 0.8 if holder == self._owner else -float("inf")
            except LookalikeError as error:
                self.holder = error.message
            if self.held != before:
                self._turned.tell()
            await asyncio.sleep(_RENEW_S if self.held else 0.5)


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
