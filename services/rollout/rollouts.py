"""What operators ask of rollouts: start, promote, cancel, roll back, retire, look. One at a time, by one process."""

from __future__ import annotations

import asyncio
import logging
import time
from datetime import UTC, datetime
from types import TracebackType

from services.backends.live_samples import Sample
from services.common.cancellation import end
from services.common.errors import FailedPrecondition, LookalikeError, NotFound, Unavailable
from services.export.publish import versions_in
from services.rollout.board import Board
from services.rollout.errors import RolloutRunning
from services.rollout.lease import Lease
from services.rollout.mirroring import Parts
from services.rollout.models import ModelInfo, describe_models
from services.rollout.record import Options, Progress, Rollout, Stage, Status
from services.rollout.walk import Walk

_log = logging.getLogger("lookalike.rollout")
_POLL_S = 0.2
_READY_S = 10.0


class Rollouts:
    """Use as `async with`: entering begins to walk once the lease is held; leaving stops where it is."""

    def __init__(self, parts: Parts, lease: Lease) -> None:
        self._parts = parts
        self._lease = lease
        self._board = Board(parts.index)
        self._walk = Walk(parts, self._board)
        self._walking = False
        self._task: asyncio.Task[None] | None = None
        # commands, one at a time
        self._commands = asyncio.Lock()

    async def __aenter__(self) -> Rollouts:
        self._task = asyncio.create_task(self._run())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        await end(self._task)

    # -- commands --------------------------------------------------------------------------------------------------

    async def start(self, version: int, options: Options) -> Rollout:
        """Begins a rollout.

        Raises:
            RolloutRunning: another one has not ended. FailedPrecondition: the version serves already
            (MODEL_SERVING), or another one is kept for a rollback (RETENTION_RUNNING). NotFound: there is no such
            version. Unavailable: this process does not hold the lease.
        """
        async with self._commands:
            board = await self._active()
            self._refuse_second()
            if version not in await asyncio.to_thread(versions_in, self._parts.models):
                raise NotFound(
                    f"there is no version {version} in {self._parts.models}", reason="MODEL_NOT_FOUND", field="name"
                )
            if version == board.collection.model_version:
                raise FailedPrecondition(f"version {version} serves already", reason="MODEL_SERVING")
            if board.state.mirror and board.state.mirror_version != version and not options.validate_only:
                kept = board.state.mirror_version
                raise FailedPrecondition(
                    f"version {kept} is kept up to date for a rollback; `lookalike models retire {kept}` ends that",
                    reason="RETENTION_RUNNING",
                )
            if options.validate_only and board.state.mirror_version == version:
                raise FailedPrecondition(f"version {version} follows already: it is validated", reason="MODEL_RETAINED")
            return await self._begin(Rollout(_new_id(version), version, board.collection.model_version, options))

    async def rollback(self) -> Rollout:
        """Begins to switch back. Raises RolloutRunning; FailedPrecondition (NOTHING_RETAINED); Unavailable."""
        async with self._commands:
            board = await self._active()
            self._refuse_second()
            if not board.state.mirror:
                raise FailedPrecondition(
                    "no version is kept for a rollback: none has been switched, or its retention has ended",
                    reason="NOTHING_RETAINED",
                )
            version = board.state.mirror_version
            before = board.record.options if board.record else Options()
            options = Options(retention_s=before.retention_s)
            record = Rollout(_new_id(version), version, board.collection.model_version, options, rollback=True)
            return await self._begin(record.but(stage=Stage.CHECK))

    async def promote(self, rollout_id: str) -> Rollout:
        """Lets it go on from where it waits. Raises NotFound; FailedPrecondition when it does not wait; Unavailable."""
        async with self._commands:
            board = await self._active()
            changed = await board.amend(lambda record: _promoted(_running(record, rollout_id)))
            self._walk.poke()
            return changed

    async def cancel(self, rollout_id: str) -> Rollout:
        """Begins to end it before its switch. Raises NotFound; FailedPrecondition; Unavailable."""
        async with self._commands:
            board = await self._active()
            changed = await board.amend(lambda record: _cancelling(_running(record, rollout_id)))
            self._walk.cancel_stage()
            return changed

    async def retire(self, version: int) -> None:
        """Gives up a version that does not serve. Raises FailedPrecondition, NotFound, RolloutRunning, Unavailable."""
        async with self._commands:
            board = await self._active()
            self._refuse_second()
            if version == board.collection.model_version:
                raise FailedPrecondition(f"version {version} serves", reason="MODEL_SERVING")
            known = {each.model_version for each in await self._parts.index.collections.all()}
            if version not in known | set(await asyncio.to_thread(versions_in, self._parts.models)):
                raise NotFound(f"there is no version {version}", reason="MODEL_NOT_FOUND", field="name")
            await self._walk.retire(version)

    # -- looking ---------------------------------------------------------------------------------------------------

    async def get(self, rollout_id: str = "") -> Rollout:
        """The one of that id; "": the one that runs, or the last one. Raises NotFound (ROLLOUT_NOT_FOUND)."""
        for record in await self.all():
            if not rollout_id or record.id == rollout_id:
                return record
        raise NotFound(
            f"there is no rollouts/{rollout_id}" if rollout_id else "there was no rollout yet",
            reason="ROLLOUT_NOT_FOUND",
        )

    async def all(self) -> list[Rollout]:
        """The newest first; the last few alone are remembered. Raises Unavailable."""
        board = self._board
        if not self._walking:
            # another process walks, or none can: what is stored is what is known
            board = Board(self._parts.index)
            await board.read()
        if board.record is None:
            return []
        current = board.record
        if not self._walking and not current.status.ended:
            current = current.but(status=Status.PAUSED, message=f"not at work here: {self._lease.holder}")
        return [current, *board.history]

    @property
    def retention_end(self) -> float:
        """Until when a version is kept for a rollback, in seconds since 1970; 0: none is."""
        return self._board.state.retention_end

    def progress(self, rollout_id: str) -> Progress | None:
        """None when this process does not walk it."""
        record = self._board.record
        walks = self._walking and record is not None and record.id == rollout_id
        return self._walk.progress if walks else None

    async def samples(self, rollout_id: str) -> list[Sample]:
        """What gateways saw of it; none when Redis does not answer, or of a rollout before the last."""
        record = self._board.record
        if record is None or record.id != rollout_id or not record.samples_log:
            return []
        try:
            return await self._parts.samples.all(record.samples_log)
        except LookalikeError:
            return []

    async def wait(self, rollout_id: str, timeout_s: float | None) -> Rollout:
        """How it stands when it has ended, or after the time. Raises NotFound, Unavailable."""
        end = time.monotonic() + timeout_s if timeout_s is not None else float("inf")
        while not (record := await self.get(rollout_id)).status.ended and time.monotonic() < end:  # noqa: ASYNC110
            await asyncio.sleep(_POLL_S)
        return record

    async def models(self) -> list[ModelInfo]:
        """Every version there is anything of, the newest first. Raises Unavailable."""
        board = self._board
        if not self._walking:
            board = Board(self._parts.index)
            await board.read()
        index = self._parts.index
        collections = await index.collections.all()
        rows = {each.model_version: await index.count(each) for each in collections}
        try:
            loaded = await self._parts.encoder.loaded_versions()
        except LookalikeError:
            loaded = set()
        record = board.record
        return await asyncio.to_thread(
            describe_models,
            self._parts.models,
            collections,
            rows,
            loaded,
            serving=board.collection.model_version,
            mirror=board.state.mirror_version,
            rolling_out=record.version if record and not record.status.ended else 0,
        )

    # -- parts -----------------------------------------------------------------------------------------------------

    async def _run(self) -> None:
        """Walks while the lease is held. Whoever loses it stops at once and begins from what is stored."""
        while True:
            await self._lease.acquired()
            _log.info("this process holds the lease")
            walking = asyncio.create_task(self._walk_until_lost())
            lost = asyncio.create_task(self._lease.lost())
            try:
                await asyncio.wait({walking, lost}, return_when=asyncio.FIRST_COMPLETED)
            finally:
                self._walking = False
                for task in (walking, lost):
                    task.cancel()
                results = await asyncio.gather(walking, lost, return_exceptions=True)
            if isinstance(results[0], Exception):
                _log.error("the walk ended", exc_info=results[0])
                await asyncio.sleep(1.0)

    async def _walk_until_lost(self) -> None:
        self._walk = Walk(self._parts, self._board)
        await self._walk.read()
        self._walking = True
        await self._walk.run()

    async def _active(self) -> Board:
        """The board of the process that walks. Raises Unavailable when that is not this one."""
        end = time.monotonic() + _READY_S
        while not (self._walking and self._lease.held):
            if time.monotonic() > end:
                raise Unavailable(f"this process does not hold the lease: {self._lease.holder}", reason="NOT_ACTIVE")
            await asyncio.sleep(_POLL_S)
        return self._board

    def _refuse_second(self) -> None:
        record = self._board.record
        if record and not record.status.ended:
            name = f"rollouts/{record.id}"
            raise RolloutRunning(
                f"{name} is {record.status} in {record.stage}: one rollout at a time", metadata={"rollout": name}
            )

    async def _begin(self, record: Rollout) -> Rollout:
        begun = await self._board.remember(record.but(created=time.time()))
        self._walk.poke()
        return begun


def _running(record: Rollout, rollout_id: str) -> Rollout:
    if record.id != rollout_id:
        raise NotFound(f"rollouts/{rollout_id} does not run", reason="ROLLOUT_NOT_FOUND", field="name")
    if record.status.ended:
        raise FailedPrecondition(f"rollouts/{rollout_id} has ended: {record.status}", reason="ROLLOUT_ENDED")
    return record


def _promoted(record: Rollout) -> Rollout:
    if record.status is not Status.WAITING:
        raise FailedPrecondition(
            f"rollouts/{record.id} does not wait: it is {record.status} in {record.stage}",
            reason="ROLLOUT_NOT_WAITING",
        )
    return record.but(promoted=True, status=Status.RUNNING, message="")


def _cancelling(record: Rollout) -> Rollout:
    if record.stage is Stage.SWITCH:
        raise FailedPrecondition(
            f"rollouts/{record.id} is switching; `lookalike rollback` undoes it afterwards",
            reason="ROLLOUT_SWITCHING",
        )
    return record.but(cancelling=True)


def _new_id(version: int) -> str:
    return f"{version}-{datetime.now(UTC):%Y%m%d-%H%M%S-%f}"[:-3]
