"""Runs a command and fails when it leaves a process behind: python3 alone.py COMMAND ...

Linux hands an orphan to the nearest ancestor that asked for orphans. This script asks, so whatever outlives the
command, under any name, in any session, is its child in the end. What is left is printed and killed. The exit code is
the command's own, or 1 when the command succeeded and left something.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

PR_SET_CHILD_SUBREAPER = 36
# a process that was told to stop may take this long
PATIENCE_S = 10.0


def children() -> list[int]:
    """Processes whose parent this one is; those that ended are collected on the way."""
    while True:
        try:
            if os.waitpid(-1, os.WNOHANG)[0] == 0:
                break
        except ChildProcessError:
            return []
    task = Path(f"/proc/self/task/{os.getpid()}/children")
    return [int(pid) for pid in task.read_text().split()]


def describe(pid: int) -> str:
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ")
    except OSError:
        words = b"(ended just now)"
    return f"{pid}: {words.decode(errors='replace')[:200]}"


def run(command: list[str]) -> int:
    """Its exit code. Orphans that end meanwhile are collected, as init does: nobody shall find them as zombies."""
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL)
    while True:
        pid, status = os.wait()
        if pid == process.pid:
            process.returncode = os.waitstatus_to_exitcode(status)
            return process.returncode


def main(command: list[str]) -> int:
    if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "cannot ask for orphans")
    code = run(command)
    deadline = time.monotonic() + PATIENCE_S
    while (left := children()) and time.monotonic() < deadline:
        time.sleep(0.1)
    if not left:
        return code
    print("left behind:", *map(describe, left), sep="\n  ", file=sys.stderr)
    while left := children():  # killing one may hand over its own children
        for pid in left:
            os.kill(pid, signal.SIGKILL)
        time.sleep(0.1)
    return code or 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
