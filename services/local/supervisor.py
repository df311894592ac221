"""Keeps a program running: starts it, and starts it again when it ends by itself."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import time

from services.local.errors import StartFailed
from services.local.processes import Process, Program

logger = logging.getLogger(__name__)

FIRST_BACKOFF_S = 0.1
MAX_BACKOFF_S = 5.0
# a run that lasted this long ended for a reason of its own: the backoff begins anew
STEADY_S = 30.0


class Supervisor:
    """One part of the stack. `async with` starts it and waits until it is ready; leaving stops it politely."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self._process: Process | None = None
        self._task: asyncio.Task[None] | None = None
        self._ready = asyncio.Event()

    async def __aenter__(self) -> Supervisor:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    @property
    def pid(self) -> int | None:
        """None while it is down."""
        process = self._process
        return process.pid if process and process.returncode is None else None

    async def start(self) -> None:
        """Waits until it is ready. Raises StartFailed when it does not get there; nothing is left running then."""
        if self._task is None:
            self._task = asyncio.create_task(self._keep_running(), name=f"supervise {self.program.name}")
        ready = asyncio.create_task(self._ready.wait())
        try:
            await asyncio.wait((ready, self._task), return_when=asyncio.FIRST_COMPLETED)
        finally:
            ready.cancel()
        if self._task.done():
            task, self._task = self._task, None
            await task

    async def stop(self) -> None:
        """Stops it and keeps it down until `start`."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError, StartFailed):
                await task

    async def restart(self) -> None:
        """Stops it politely and starts it again."""
        await self.stop()
        await self.start()

    async def kill(self) -> None:
        """Ends it at once, as a crash would; it comes back by itself, `ready` waits for that."""
        process = self._process
        if process is not None:
            self._ready.clear()
            process.send_signal(signal.SIGKILL)
            await process.wait()

    async def ready(self, timeout_s: float | None = None) -> None:
        """Waits until it is ready, by default as long as it takes. Raises TimeoutError."""
        async with asyncio.timeout(timeout_s):
            await self._ready.wait()

    async def _keep_running(self) -> None:
        """Ends only by being cancelled, or with StartFailed when it never got ready."""
        name, began, backoff_s, was_ready = self.program.name, time.monotonic(), FIRST_BACKOFF_S, False
        while True:
            started = time.monotonic()
            self._process = process = await Process.start(self.program)
            try:
                await process.ready(self.program.start_timeout_s)
                was_ready = True
                self._ready.set()
                code = await process.wait()
                logger.warning("%s ended with code %d, starting it again", name, code)
            except StartFailed as error:
                ended = process.returncode is not None
                if not was_ready and not (ended and time.monotonic() - began < self.program.retry_s):
                    raise
                logger.info("%s, trying again", error.message)
            finally:
                self._ready.clear()
                await process.stop()
            backoff_s = FIRST_BACKOFF_S if time.monotonic() - started > STEADY_S else min(2 * backoff_s, MAX_BACKOFF_S)
            await asyncio.sleep(backoff_s)
