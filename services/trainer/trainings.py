"""The runs of one folder, and those among them that this process trains now."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
from collections.abc import Mapping
from types import TracebackType
from typing import Any

from services.common.errors import NotFound, Unavailable
from services.trainer.device import active_runs
from services.trainer.errors import RunElsewhere
from services.trainer.launcher import Launcher
from services.trainer.process import Training
from services.trainer.progress import Progress
from services.trainer.recipe import Recipe
from services.trainer.runs import Run, RunState, State, list_runs, standing

# how often a run of another process is looked at while it is waited for
POLL_S = 0.5
# what `Run.named` makes of a recipe's name; it is a folder's name and must not be a path
_RUN_ID = re.compile(r"[a-z0-9][a-z0-9._-]{0,127}")

_log = logging.getLogger("lookalike.training")


class Trainings:
    """Use as `async with`: leaving stops what is being trained, so that the same recipe goes on with it later."""

    def __init__(self, launcher: Launcher) -> None:
        self._launcher = launcher
        self._live: dict[str, _Live] = {}
        self._tasks: set[asyncio.Task[Any]] = set()
        self._closing = asyncio.Event()

    async def __aenter__(self) -> Trainings:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Starts nothing any more, and stops what runs."""
        self._closing.set()
        stopping = [self._spawned(live.training.stop()) for live in self._live.values()]
        await asyncio.gather(*stopping, *self._tasks, return_exceptions=True)

    def check(self, recipe: Recipe, *, again: bool) -> Run:
        """The run that `start` would start; raises what it would raise. Blocks for as long as files take."""
        self._launcher.check(recipe, again=again)
        return self._launcher.run_of(recipe)

    async def start(self, recipe: Recipe, *, again: bool) -> str:
        """Starts or resumes a run unless it has succeeded; its id.

        Raises what `Launcher.start` raises, and Unavailable (SHUTTING_DOWN).
        """
        # a caller that goes away must not leave a half started run
        return await asyncio.shield(self._spawned(self._start(recipe, again)))

    async def _start(self, recipe: Recipe, again: bool) -> str:
        progress = _Listener()
        if self._closing.is_set():
            raise Unavailable("the service is shutting down", reason="SHUTTING_DOWN")
        training = await self._launcher.start(recipe, progress, again=again)
        if training is None:
            return self._launcher.run_of(recipe).id
        run = training.run.id
        self._live[run] = live = _Live(training, progress)
        self._spawned(self._until_end(run, live))
        if self._closing.is_set():
            await training.stop()
        return run

    async def _until_end(self, run: str, live: _Live) -> None:
        try:
            await live.training.outcome()
        except Exception:
            _log.exception("the end of run %s could not be written down", run)
        finally:
            # it may have been started once more meanwhile
            if self._live.get(run) is live:
                del self._live[run]

    def progress(self, run: str) -> Progress | None:
        """None when this process does not train it."""
        live = self._live.get(run)
        return live.progress.now if live else None

    async def state(self, run: str) -> RunState:
        """Raises NotFound (RUN_NOT_FOUND)."""
        if not _RUN_ID.fullmatch(run):
            raise NotFound(f"there is no run {run}", reason="RUN_NOT_FOUND")
        return await asyncio.to_thread(standing, Run(self._launcher.runs / run))

    async def states(self) -> list[RunState]:
        """Of all runs, the newest first."""

        def read() -> list[RunState]:
            return [standing(run) for run in list_runs(self._launcher.runs)]

        return await asyncio.to_thread(read)

    async def cancel(self, run: str) -> None:
        """Begins to end it; nothing happens when it has ended.

        Raises NotFound, RunElsewhere when another process of this machine trains it.
        """
        state = await self.state(run)
        if live := self._live.get(run):
            self._spawned(live.training.stop(State.CANCELLED))
        elif state.state is State.RUNNING:
            holder = (await asyncio.to_thread(active_runs, self._launcher.runs)).get(run)
            if holder:
                raise RunElsewhere(
                    f"the run {run} was started by process {holder.pid} of the trainer's machine; stop it there",
                    metadata={"run": run, "pid": str(holder.pid)},
                )

    async def wait(self, run: str, timeout_s: float | None) -> RunState:
        """Until it has ended, or for so long; how it stands then. Raises NotFound."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                if live := self._live.get(run):
                    # what can't be written down is told by `_until_end`
                    with contextlib.suppress(OSError):
                        return await live.training.outcome()
                while (await self.state(run)).state is State.RUNNING:  # noqa: ASYNC110 - of another process
                    await asyncio.sleep(POLL_S)
        return await self.state(run)

    def _spawned(self, work: Any) -> asyncio.Task[Any]:
        task: asyncio.Task[Any] = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task


class _Listener:
    def __init__(self) -> None:
        self.now = Progress()

    def __call__(self, event: Mapping[str, Any]) -> None:
        self.now = self.now.after(event)


class _Live:
    def __init__(self, training: Training, progress: _Listener) -> None:
        self.training = training
        self.progress = progress
