"""How a run is started: the command line and the service do it here and nowhere else."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from services.common.manifest import MODEL_NAME
from services.common.tether import tethered
from services.trainer.device import DeviceLock, check_free
from services.trainer.environment import training_python
from services.trainer.older import check_older
from services.trainer.process import Listener, Training
from services.trainer.recipe import Recipe
from services.trainer.runs import Run, State

WORKER = ("-m", "services.trainer.worker")
EARLIER = ".earlier"

_log = logging.getLogger("lookalike.training")


@dataclass(frozen=True, slots=True)
class Launcher:
    """Starts runs.

    Args:
        runs: folder of all runs.
        repository: Triton's model repository, where the encoder is exported to.
        python: of the training environment; None: see `training_python`.
        device: name of what is trained on; one run at a time.
        worker: arguments of Python before the run's folder.
        stop_grace_s: how long the process may take to end after SIGTERM.
    """

    runs: Path
    repository: Path
    python: Path | None = None
    device: str = "cpu"
    worker: tuple[str, ...] = WORKER
    stop_grace_s: float = 20.0

    def run_of(self, recipe: Recipe) -> Run:
        """May not be there yet."""
        return Run.named(self.runs.absolute(), recipe)

    def check(self, recipe: Recipe, *, again: bool = False) -> None:
        """Raises what `start` would raise now."""
        run = self.run_of(recipe)
        if again or not _succeeded(run):
            check_older(self.repository / MODEL_NAME, recipe)
            training_python(self.python)
            check_free(self.runs, self.device)
            if run.exists and not again:
                run.state()

    async def start(self, recipe: Recipe, listener: Listener, *, again: bool = False) -> Training | None:
        """Starts or resumes the run of a recipe; returns when the process is started.

        Args:
            listener: is called with each event, in the event loop.
            again: from the beginning; what there is of the run is put aside.

        Returns:
            None when the run has succeeded before, and `again` does not say otherwise.

        Raises:
            DeviceBusy, NoTrainingEnvironment, FailedPrecondition (RUN_DAMAGED), and what `check_older` raises.
        """
        prepared = await asyncio.to_thread(self._prepare, recipe, again)
        if prepared is None:
            return None
        run, python, lock = prepared
        try:
            return await self._spawn(run, python, lock, listener)
        except BaseException:
            lock.release()
            raise

    def _prepare(self, recipe: Recipe, again: bool) -> tuple[Run, Path, DeviceLock] | None:
        run = self.run_of(recipe)
        if not again and _succeeded(run):
            return None
        check_older(self.repository / MODEL_NAME, recipe)
        python = training_python(self.python)
        lock = DeviceLock(self.runs, self.device)
        lock.acquire(run.id)
        try:
            if again and run.folder.exists():
                _put_aside(run)
            run = Run.of(self.runs.absolute(), recipe)
            # another process may have finished it since the first look
            if run.state().state is not State.SUCCEEDED:
                run.update(state=State.RUNNING, error="", reason="")
                run.log.touch()
                return run, python, lock
        except BaseException:
            lock.release()
            raise
        lock.release()
        return None

    async def _spawn(self, run: Run, python: Path, lock: DeviceLock, listener: Listener) -> Training:
        command = (str(python), *self.worker, str(run.folder), "--models", str(self.repository.absolute()))
        # not asyncio's own pipes: with them `wait` may not return as long as a grandchild holds the other end open
        with contextlib.ExitStack() as ours, contextlib.ExitStack() as theirs:
            stdout, child_stdout = _pipe(ours, theirs)
            # through here as well, so that the log has whole lines
            stderr, child_stderr = _pipe(ours, theirs)
            child = await asyncio.create_subprocess_exec(
                *tethered(*command),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=child_stdout,
                stderr=child_stderr,
                # Ctrl-C in a terminal reaches the parent alone, which then stops the child in an orderly way
                start_new_session=True,
            )
            ours.pop_all()
        _log.info("training", extra={"facts": {"run": run.id, "pid": child.pid, "device": self.device}})
        return Training(run, lock, child, (stdout, stderr), listener, self.stop_grace_s)


def _succeeded(run: Run) -> bool:
    return run.exists and run.state().state is State.SUCCEEDED


def _put_aside(run: Run) -> None:
    """Keeps its report and figures, not the weights."""
    aside = run.folder.parent / EARLIER / f"{run.id}-{time.time_ns()}"
    aside.parent.mkdir(exist_ok=True)
    run.folder.rename(aside)
    shutil.rmtree(Run(aside).checkpoint, ignore_errors=True)


def _pipe(*ends: contextlib.ExitStack) -> tuple[IO[bytes], IO[bytes]]:
    """Reading and writing end, each to be closed with its stack."""
    reader, writer = os.pipe()
    return (
        ends[0].enter_context(os.fdopen(reader, "rb", buffering=0)),
        ends[1].enter_context(os.fdopen(writer, "wb", buffering=0)),
    )
