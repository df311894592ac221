"""One run at a time on a device: the lock file `<runs>/.device-<name>.lock`.

It is an open file description lock of Linux (fcntl(2), F_OFD_SETLK): the system lifts it when its holder ends in any
way, several of them work within one process, and unlike with flock one can look whether it is held without taking it,
so that listing runs never stands in the way of a start.
"""

from __future__ import annotations

import fcntl
import json
import os
import struct
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO

from services.trainer.errors import DeviceBusy

# struct flock on 64-bit Linux: type, whence, start, length (0: to the end), process (0 is asked for), padded
_FLOCK = struct.Struct("hhqqi0q")


@dataclass(frozen=True, slots=True)
class Holder:
    """Args:
    run: id; empty when the holder has not written it yet.
    pid: of the process that started the training process; 0 as long as it is unknown.
    """

    run: str = ""
    pid: int = 0


class DeviceLock:
    """Held from `acquire` to `release`, or while used as `with`."""

    def __init__(self, runs: Path, device: str) -> None:
        self._file = lock_file(runs, device)
        self._device = device
        self._open: IO[str] | None = None

    def acquire(self, run: str) -> None:
        """Raises DeviceBusy."""
        self._file.parent.mkdir(parents=True, exist_ok=True)
        file = self._file.open("a+", encoding="utf-8")
        try:
            fcntl.fcntl(file, fcntl.F_OFD_SETLK, _flock(fcntl.F_WRLCK))
        except OSError:
            file.close()
            raise _busy(self._device, _read(self._file)) from None
        file.truncate(0)
        file.write(json.dumps({"run": run, "pid": os.getpid()}))
        file.flush()
        self._open = file

    def release(self) -> None:
        if self._open:
            self._open.close()
            self._open = None

    def __enter__(self) -> DeviceLock:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.release()


def check_free(runs: Path, device: str) -> None:
    """Raises DeviceBusy."""
    if found := _holder(lock_file(runs, device)):
        raise _busy(device, found)


def active_runs(runs: Path) -> dict[str, Holder]:
    """The runs that a process is working on now, on any device."""
    found = (_holder(file) for file in runs.glob(".device-*.lock"))
    return {holder.run: holder for holder in found if holder}


def lock_file(runs: Path, device: str) -> Path:
    return runs / f".device-{device}.lock"


def _holder(file: Path) -> Holder | None:
    """None when nobody holds it."""
    try:
        with file.open("rb") as opened:
            answer = fcntl.fcntl(opened, fcntl.F_OFD_GETLK, _flock(fcntl.F_WRLCK))
    except FileNotFoundError:
        return None
    return None if _FLOCK.unpack(answer)[0] == fcntl.F_UNLCK else _read(file)


def _read(file: Path) -> Holder:
    try:
        return Holder(**json.loads(file.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return Holder()


def _flock(kind: int) -> bytes:
    return _FLOCK.pack(kind, os.SEEK_SET, 0, 0, 0)


def _busy(device: str, holder: Holder) -> DeviceBusy:
    metadata = {"device": device, "run": holder.run, "pid": str(holder.pid)}
    by = f"the run {holder.run} (process {holder.pid})" if holder.run else "a run that is just starting"
    return DeviceBusy(f"{device} is in use by {by}; cancel it or wait until it has ended", metadata=metadata)
