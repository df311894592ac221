"""The training process: a child with an environment of its own, followed until it ends and what it was is written down.

`launcher` starts it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import IO, Any

from services.trainer.device import DeviceLock
from services.trainer.events import parse_event
from services.trainer.runs import Run, RunState, State

PROCESS_DIED = "TRAINING_PROCESS_DIED"
LOG_TAIL_LINES = 15
# of standard error, to find the last traceback in
ERROR_LINES = 200
# of one line on the child's standard output; a longer one is no event
MAX_LINE_BYTES = 16 * 2**20

Listener = Callable[[Mapping[str, Any]], None]

_log = logging.getLogger("lookalike.training")


class Training:
    """A run at work. Use as `async with`: leaving stops it when it still runs, so that it can be resumed."""

    def __init__(
        self,
        run: Run,
        lock: DeviceLock,
        child: asyncio.subprocess.Process,
        pipes: tuple[IO[bytes], IO[bytes]],
        listener: Listener,
        stop_grace_s: float,
    ) -> None:
        self.run = run
        self._lock = lock
        self._child = child
        self._listener = listener
        self._stop_grace_s = stop_grace_s
        self._wanted: State | None = None
        self._last: Mapping[str, Any] = {}
        self._printed: deque[str] = deque(maxlen=LOG_TAIL_LINES)
        self._errors: deque[str] = deque(maxlen=ERROR_LINES)
        self._ended = asyncio.create_task(self._follow(*pipes), name=f"follow {run.id}")

    async def __aenter__(self) -> Training:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        if not self._ended.done():
            await self.stop()

    @property
    def pid(self) -> int:
        return self._child.pid

    async def outcome(self) -> RunState:
        """Waits until it has ended. Raises what kept the run's folder from being written, for example OSError."""
        return await asyncio.shield(self._ended)

    async def stop(self, state: State = State.STOPPED) -> RunState:
        """SIGTERM, then SIGKILL.

        Args:
            state: STOPPED or CANCELLED; what the run is now unless it finished just before.
        """
        if self._wanted is None:
            self._wanted = state
        self._signal(signal.SIGTERM)
        await asyncio.wait((self._ended,), timeout=self._stop_grace_s)
        self.kill()
        return await self.outcome()

    def kill(self) -> None:
        """Ends it at once; nothing happens when it has ended."""
        self._signal(signal.SIGKILL)

    def _signal(self, number: signal.Signals) -> None:
        # a child that has been awaited may have given its number to a stranger
        if self._child.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self._child.send_signal(number)

    async def _follow(self, stdout: IO[bytes], stderr: IO[bytes]) -> RunState:
        try:
            reading = asyncio.gather(self._read(stdout, self._said), self._read(stderr, self._complained))
            try:
                code = await self._child.wait()
            finally:
                # what it has started ends with it, and then the pipe ends
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.killpg(self._child.pid, signal.SIGKILL)
            await reading
            state = await asyncio.to_thread(self._conclude, code)
        finally:
            self._lock.release()
        facts = {"run": self.run.id, "state": state.state.value, "code": code, "error": state.error}
        _log.info("training ended", extra={"facts": facts})
        return state

    async def _read(self, pipe: IO[bytes], hear: Callable[[str], None]) -> None:
        reader = asyncio.StreamReader(limit=MAX_LINE_BYTES)
        transport, _ = await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), pipe
        )
        try:
            while True:
                try:
                    line = await reader.readline()
                except ValueError:
                    continue  # too long; it is dropped
                if not line:
                    return
                hear(line.decode(errors="replace").rstrip("\r\n"))
        finally:
            transport.close()

    def _said(self, line: str) -> None:
        event = parse_event(line)
        if event is None:
            self._note(line)
        else:
            self._tell(event)

    def _complained(self, line: str) -> None:
        self._errors.append(line)
        self._note(line)

    def _note(self, line: str) -> None:
        self._printed.append(line)
        # the log may be on a full disk, or gone; training goes on
        with contextlib.suppress(OSError), self.run.log.open("a", encoding="utf-8") as log:
            log.write(line + "\n")

    def _tell(self, event: Mapping[str, Any]) -> None:
        if event["event"] in ("finished", "failed"):
            self._last = event
        try:
            self._listener(event)
        except Exception:
            # whoever looks on must not end the training
            _log.exception("an event was not understood")

    def _conclude(self, code: int) -> RunState:
        last = self._last
        # said last of all: how the interpreter ends after that changes nothing about the exported version
        if last.get("event") == "finished":
            facts = {name: last[name] for name in ("version", "before", "after") if name in last}
            return self.run.update(state=State.SUCCEEDED, error="", reason="", **facts)
        if self._wanted is not None:
            return self.run.update(state=self._wanted, error="", reason="")
        if last.get("event") == "failed":
            error, reason = str(last.get("message", "")), str(last.get("reason", PROCESS_DIED))
        else:
            error, reason = _death(code, self._printed, self._errors), PROCESS_DIED
        return self.run.update(state=State.FAILED, error=error, reason=reason)


def _death(code: int, printed: Sequence[str], errors: Sequence[str]) -> str:
    """What to say of a process that did not say it itself: a line, then the last lines of its log.

    Args:
        errors: those lines among the last ones that came from its standard error.
    """
    if code == -signal.SIGKILL:
        line = "the training process was killed by SIGKILL, probably because memory ran out"
    elif code < 0:
        line = f"the training process was ended by signal {-code} ({signal.strsignal(-code)})"
    elif code == 0:
        line = "the training process ended without saying how training went"
    else:
        line = f"the training process ended with code {code}" + (f": {_cause(errors)}" if errors else "")
    return "\n".join([line, "its log ends with:", *(f"  {entry}" for entry in printed)] if printed else [line])


def _cause(errors: Sequence[str]) -> str:
    """The exception of the last traceback, which warnings may follow; without one the last line."""
    traceback = max((n for n, line in enumerate(errors) if line.startswith("Traceback ")), default=len(errors))
    after = (line for line in list(errors)[traceback + 1 :] if line and not line[0].isspace())
    return next(after, errors[-1]).strip()
