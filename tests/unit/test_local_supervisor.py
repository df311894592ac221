"""Real child processes: started, awaited, brought back, and ended with all they started."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from services.local import processes
from services.local.errors import StartFailed
from services.local.processes import Program
from services.local.supervisor import Supervisor

READY = "import pathlib, time; pathlib.Path('ready').touch(); "
FOREVER = READY + "time.sleep(600)"


@pytest.fixture
def program(tmp_path: Path) -> Callable[..., Program]:
    """`program(source)`: a Python program that is ready when it has made the file `ready`."""

    def make(source: str, **options: object) -> Program:
        def forget() -> None:
            (tmp_path / "ready").unlink(missing_ok=True)

        async def probe() -> bool:
            return (tmp_path / "ready").exists()

        command = (sys.executable, "-c", source)
        return Program("it", command, tmp_path / "logs" / "log", probe, directory=tmp_path, prepare=forget, **options)  # type: ignore[arg-type]

    return make


def gone(pid: int) -> bool:
    """Whether the process ends soon; one that waits to be reaped has ended."""
    try:
        process = psutil.Process(pid)
        return process.status() == psutil.STATUS_ZOMBIE or bool(psutil.wait_procs([process], timeout=10)[0])
    except psutil.NoSuchProcess:
        return True


async def test_what_is_killed_comes_back(program: Callable[..., Program]) -> None:
    async with Supervisor(program(FOREVER)) as supervisor:
        first = supervisor.pid
        await supervisor.kill()
        await supervisor.ready(30)
        assert supervisor.pid not in (None, first)
        last = supervisor.pid
    assert supervisor.pid is None
    assert last is not None
    assert gone(last)


async def test_what_is_stopped_stays_down_until_it_is_started(program: Callable[..., Program]) -> None:
    async with Supervisor(program(FOREVER)) as supervisor:
        await supervisor.stop()
        await asyncio.sleep(0.5)  # longer than the first backoff
        assert supervisor.pid is None
        await supervisor.start()
        assert supervisor.pid is not None


async def test_an_early_end_is_told_with_the_end_of_the_log(program: Callable[..., Program]) -> None:
    supervisor = Supervisor(program("import sys; print('no such knob'); sys.exit(3)"))
    with pytest.raises(StartFailed, match=r"it ended with code 3.*(?s:.*)no such knob"):
        await supervisor.start()


async def test_a_long_log_makes_room(program: Callable[..., Program], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "MAX_LOG_BYTES", 10)
    loud = program(f"print('first or second run', flush=True); {FOREVER}")
    for _ in range(2):
        async with Supervisor(loud):
            pass
    assert loud.log.read_text().count("run") == 1
    assert loud.log.with_suffix(".old").read_text().count("run") == 1


async def test_a_program_that_does_not_exist_is_told(program: Callable[..., Program], tmp_path: Path) -> None:
    missing = program("")
    supervisor = Supervisor(Program("it", (str(tmp_path / "nothing"),), missing.log, missing.probe))
    with pytest.raises(StartFailed, match=r"cannot run .*nothing"):
        await supervisor.start()


async def test_what_never_gets_ready_is_ended(program: Callable[..., Program]) -> None:
    supervisor = Supervisor(program("import time; time.sleep(600)", start_timeout_s=1.0))
    with pytest.raises(StartFailed, match="was not ready within 1 s"):
        await supervisor.start()
    assert supervisor.pid is None


async def test_a_start_that_fails_for_a_while_is_tried_again(program: Callable[..., Program]) -> None:
    # as Milvus does while the lease of its killed predecessor stands
    source = (
        "import pathlib, sys; runs = pathlib.Path('runs'); "
        "count = len(runs.read_text()) if runs.exists() else 0; runs.write_text('x' * (count + 1)); "
        f"count < 2 and sys.exit(1)\n{FOREVER}"
    )
    async with Supervisor(program(source, retry_s=30)) as supervisor:
        assert supervisor.pid is not None


async def test_what_ignores_the_polite_signal_is_killed(program: Callable[..., Program]) -> None:
    deaf = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); " + FOREVER
    async with Supervisor(program(deaf, stop_grace_s=0.5)) as supervisor:
        pid = supervisor.pid
    assert pid is not None
    assert gone(pid)


@pytest.mark.parametrize("end", ["stop", "kill"])
async def test_what_it_started_ends_with_it(program: Callable[..., Program], tmp_path: Path, end: str) -> None:
    parent = (
        "import subprocess, sys, pathlib; "
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)']); "
        f"pathlib.Path('child').write_text(str(child.pid)); {FOREVER}"
    )
    async with Supervisor(program(parent)) as supervisor:
        child = int((tmp_path / "child").read_text())
        assert psutil.pid_exists(child)
        await getattr(supervisor, end)()
        assert gone(child)


async def test_a_stopped_process_can_be_ended_too(program: Callable[..., Program]) -> None:
    async with Supervisor(program(FOREVER, stop_grace_s=0.5)) as supervisor:
        pid = supervisor.pid
        assert pid is not None
        os.kill(pid, signal.SIGSTOP)
    assert gone(pid)


def test_a_child_ends_with_its_parent(tmp_path: Path) -> None:
    parent = f"""
import asyncio, os, pathlib, sys
from services.local.processes import Process, Program
async def probe(): return True
async def main():
    command = (sys.executable, "-c", "import time; time.sleep(600)")
    program = Program("it", command, pathlib.Path({str(tmp_path / "log")!r}), probe)
    print((await Process.start(program)).pid, flush=True)
    os._exit(9)
asyncio.run(main())
"""
    ran = subprocess.run([sys.executable, "-c", parent], capture_output=True, text=True, timeout=60, check=False)
    assert ran.returncode == 9, ran.stderr
    assert gone(int(ran.stdout))
