"""One child process: started with a log file, awaited until it is ready, stopped with everything it started."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from services.common.tether import tethered
from services.local.errors import StartFailed

PROBE_INTERVAL_S = 0.05
LOG_TAIL_LINES = 15
# a longer log is put aside at the next start, as `.old`
MAX_LOG_BYTES = 16 * 2**20


@dataclass(frozen=True, slots=True)
class Program:
    """How to run a part of the stack.

    Args:
        probe: answers whether the part is ready; an OSError or TimeoutError counts as no. Called until it says yes.
        env: added to the parent's environment.
        stop_signal: what the program takes as a polite request to end.
        stop_grace_s: how long it may take for that before it is killed.
        start_timeout_s: how long one run may take to get ready.
        retry_s: for how long it is tried again when it ends before it is ready, at the first start.
        prepare: called in a thread before each start; clears what a killed run leaves behind.
        tidy: called with the process id when a run has ended; removes what it left outside of its own folder.
    """

    name: str
    command: tuple[str, ...]
    log: Path
    probe: Callable[[], Awaitable[bool]]
    env: Mapping[str, str] = field(default_factory=dict)
    directory: Path | None = None
    stop_signal: signal.Signals = signal.SIGTERM
    stop_grace_s: float = 10.0
    start_timeout_s: float = 30.0
    retry_s: float = 0.0
    prepare: Callable[[], None] = lambda: None
    tidy: Callable[[int], None] = lambda pid: None


class Process:
    """One run of a program, in a session and process group of its own so that Ctrl-C reaches only the parent."""

    def __init__(self, program: Program, child: asyncio.subprocess.Process) -> None:
        self.program = program
        self._child = child

    @classmethod
    async def start(cls, program: Program) -> Process:
        """Starts it, and does not wait for more."""
        await asyncio.to_thread(program.prepare)
        program.log.parent.mkdir(parents=True, exist_ok=True)
        if program.log.exists() and program.log.stat().st_size > MAX_LOG_BYTES:
            program.log.replace(program.log.with_suffix(".old"))
        with program.log.open("ab") as log:
            child = await asyncio.create_subprocess_exec(
                *tethered(*program.command),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, **program.env},
                cwd=program.directory,
                start_new_session=True,
            )
        return cls(program, child)

    @property
    def pid(self) -> int:
        return self._child.pid

    @property
    def returncode(self) -> int | None:
        """None while it runs; minus the signal's number when a signal ended it."""
        return self._child.returncode

    async def ready(self, timeout_s: float) -> None:
        """Raises StartFailed when it ends first, or is not ready in time."""
        program = self.program
        try:
            async with asyncio.timeout(timeout_s):
                while self.returncode is None:
                    with contextlib.suppress(OSError):
                        if await program.probe():
                            return
                    await asyncio.sleep(PROBE_INTERVAL_S)
        except TimeoutError:
            what = f"was not ready within {timeout_s:.0f} s"
        else:
            what = f"ended with code {self.returncode}"
        raise StartFailed(f"{program.name} {what}; {program.log} ends with:\n{tail(program.log)}")

    async def wait(self) -> int:
        """Waits until it ended, then ends what it left running."""
        code = await self._child.wait()
        self._signal_group(signal.SIGKILL)
        self.program.tidy(self.pid)
        return code

    async def stop(self) -> None:
        """Asks politely, waits, kills; nothing of its process group is left."""
        self.send_signal(self.program.stop_signal)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self.program.stop_grace_s):
                await self._child.wait()
        self._signal_group(signal.SIGKILL)
        await self.wait()

    def send_signal(self, number: signal.Signals) -> None:
        """To the process alone, not to what it started; nothing happens when it has ended."""
        if self.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self._child.send_signal(number)

    def _signal_group(self, number: signal.Signals) -> None:
        # the group's number stays taken as long as one member lives, so no stranger is hit
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, number)


def tail(log: Path, lines: int = LOG_TAIL_LINES) -> str:
    """The last lines of a text file, indented."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - 8192))
            text = file.read().decode(errors="replace")
    except OSError:
        return "  (no log)"
    return "\n".join(f"  {line}" for line in text.splitlines()[-lines:]) or "  (empty)"
