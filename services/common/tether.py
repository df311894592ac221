"""Ties a process to its parent: `tether.py PARENT_PID COMMAND ...` becomes COMMAND, and is killed when PARENT ends.

It runs as a plain script in a fresh interpreter, not between fork and exec of the parent, where threads of gRPC may
hold locks. The signal is SIGKILL: every engine and the training process are durable against it, and no half-stopped
one blocks the next start.
"""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1


def tethered(*command: str) -> tuple[str, ...]:
    """The command line that runs `command` as a child which ends with this process, or rather with the thread that
    starts it."""
    # -I and -S: no site-packages, it starts in 15 ms
    return (sys.executable, "-I", "-S", __file__, str(os.getpid()), *command)


def main() -> None:
    parent, command = int(sys.argv[1]), sys.argv[2:]
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
    if os.getppid() != parent:  # it ended before the line above
        sys.exit(1)
    try:
        os.execvp(command[0], command)
    except OSError as error:
        sys.exit(f"cannot run {command[0]}: {error}")


if __name__ == "__main__":
    main()
