"""What each stage of a rollout does. Whatever it is, it can be done again: a process that dies is replaced by one that
begins with the same stage."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, ClassVar

from services.common.changes import Changes
from services.common.errors import FailedPrecondition, LookalikeError, Unavailable
from services.common.to_the_end import to_the_end
from services.rollout import verification
from services.rollout.board import Board
from services.rollout.follower import Follower
from services.rollout.gate import gate_error, measure_gate
from services.rollout.mirroring import Mirroring, Parts
from services.rollout.record import MAX_NAMED, Missing, Progress, Rollout, Stage, Status
from services.rollout.sample_verdict import enough
from services.rollout.switch import Switch

_POLL_S = 0.2
_ACKNOWLEDGE_S = 30.0
# how long --auto waits for shadow and canary each to see enough
AUTO_LIMIT_S = 600.0


class SwitchPostponed(Unavailable):
    """Writes go on, or will in a moment."""

    reason = "SWITCH_POSTPONED"


class Stages:
    """Args:
    poked: told when something on the board has changed.
    """

    def __init__(self, parts: Parts, board: Board, mirroring: Mirroring, poked: Changes) -> None:
        self._parts = parts
        self._board = board
        self._mirroring = mirroring
        self._poked = poked
        self._switch = Switch(board, parts.agreement, parts.log, parts.index)
        # where the switch begins to read the log; "": the check comes first
        self._checked = ""
        self.gate_progress = Progress()

    async def run(self, record: Rollout) -> None:
        """The stage that the record is in, to its end.

        Raises:
            FailedPrecondition, InvalidArgument: the version is refused. Unavailable and the like: try again.
        """
        await self._STAGES[record.stage](self, record)

    async def recover(self) -> None:
        """Finishes a switch whose alias has moved; lets writes go on when it has not. Raises Unavailable."""
        board = self._board
        record = board.record
        switching = record is not None and record.stage is Stage.SWITCH and not record.status.ended
        if record and switching and board.collection.model_version == record.version:
            source = await self._parts.index.collections.describe(board.state.mirror)
            if source is None:
                raise FailedPrecondition(f"the collection {board.state.mirror} is gone", reason="MIRROR_GONE")
            await self._switch.finish(await self._mirroring.mirror_to(board.collection, source))
            return
        if board.state.frozen:
            await board.publish(frozen=False, hurry=False)
        if switching:
            await board.change(stage=Stage.CHECK)

    async def _verify(self, record: Rollout) -> None:
        manifest = await verification.verify_files(self._parts.models, record.version)
        if record.options.compatible:
            serving = await self._mirroring.manifest_of(self._board.collection.model_version)
            verification.check_compatible(manifest, serving)
        await self._go_on(Stage.LOAD)

    async def _load(self, record: Rollout) -> None:
        parts = self._parts
        await verification.load_version(parts.encoder, parts.models, await self._mirroring.manifest_of(record.version))
        await self._go_on(Stage.GATE)

    async def _gate(self, record: Rollout) -> None:
        parts, serving = self._parts, self._board.collection
        # a Triton that was started again holds what serves alone
        await parts.encoder.load(parts.models, {serving.model_version, record.version})

        def told(done: int, total: int) -> None:
            self.gate_progress = Progress(done, total)

        gate = await measure_gate(
            parts.index,
            parts.images,
            parts.decoder,
            parts.encoder,
            parts.pace,
            serving,
            (await self._mirroring.manifest_of(serving.model_version)).side,
            await self._mirroring.manifest_of(record.version),
            record.options,
            told,
        )
        await self._board.change(gate=gate)
        if not gate.passed:
            raise gate_error(gate)
        if record.options.validate_only:
            await self._mirroring.unload(record.version)
            await self._board.change(status=Status.SUCCEEDED, message="validated; nothing was changed")
            return
        await self._go_on(Stage.BACKFILL)

    async def _backfill(self, record: Rollout) -> None:
        follower = await self._mirroring.follow(record)
        await self._until(follower.copied(), follower)
        missing = sorted({key.partition("/")[0] for key in follower.mirror.missing})
        await self._board.change(missing=tuple(missing[:MAX_NAMED]))
        if missing and record.options.missing is Missing.STOP:
            raise FailedPrecondition(
                f"originals are missing of {len(missing)} product{'s' if len(missing) > 1 else ''}, among them "
                f"{', '.join(missing[:3])}: import them again, or leave these images out with --missing-originals skip",
                reason="ORIGINALS_MISSING",
            )
        await self._go_on(Stage.DRAIN)

    async def _drain(self, record: Rollout) -> None:
        follower = await self._mirroring.follow(record)
        await self._until(follower.caught_up(), follower)
        options = record.options
        if not options.auto and not options.shadow and not options.canary:
            await self._promoted("ready to switch")
        await self._go_on(Stage.SHADOW)

    async def _shadow(self, record: Rollout) -> None:
        if record.options.shadow:
            await self._compare(record, "shadow", shadow=record.options.shadow)
        await self._go_on(Stage.CANARY)

    async def _canary(self, record: Rollout) -> None:
        if record.options.canary:
            await self._compare(record, "canary", canary=record.options.canary)
        await self._go_on(Stage.CHECK)

    async def _compare(self, record: Rollout, kind: str, **share: float) -> None:
        """Live searches meet the new version, until somebody or --auto has seen enough."""
        follower = await self._mirroring.follow(record)
        await self._until(follower.caught_up(), follower)
        state = await self._board.publish(**share)
        await self._board.change(samples_log=state.log)
        await self._parts.agreement.reached(state, _ACKNOWLEDGE_S)
        if record.options.auto:
            await self._seen_enough(kind)
        else:
            await self._promoted(f"{kind} at {next(iter(share.values())):.0%}")

    async def _check(self, record: Rollout) -> None:
        follower = await self._mirroring.follow(record)
        await self._until(follower.caught_up(), follower)
        await self._mirroring.stop()
        self._checked = await self._switch.check(follower.mirror)
        await self._go_on(Stage.SWITCH)

    async def _switch_over(self, record: Rollout) -> None:
        if not self._checked:
            await self._board.change(stage=Stage.CHECK)
            return
        start, self._checked = self._checked, ""
        mirror = await self._mirroring.mirror(record.version)
        try:
            await to_the_end(self._switch.switch(mirror, start, record, record.options.retention_s))
        except LookalikeError as error:
            # on which side it ended is known to the index alone; the walk reads it before it goes on
            raise SwitchPostponed(f"the switch is tried again: {error.message}") from error

    _STAGES: ClassVar[dict[Stage, Callable[[Stages, Rollout], Coroutine[Any, Any, None]]]] = {
        Stage.VERIFY: _verify,
        Stage.LOAD: _load,
        Stage.GATE: _gate,
        Stage.BACKFILL: _backfill,
        Stage.DRAIN: _drain,
        Stage.SHADOW: _shadow,
        Stage.CANARY: _canary,
        Stage.CHECK: _check,
        Stage.SWITCH: _switch_over,
    }

    async def _go_on(self, stage: Stage) -> None:
        await self._board.change(stage=stage, status=Status.RUNNING, message="", promoted=False)

    async def _promoted(self, what: str) -> None:
        """Returns when an operator has promoted the rollout."""
        record = self._board.record
        if record and not record.promoted:
            await self._board.change(status=Status.WAITING, message=f"{what}: `lookalike rollout promote` goes on")
        while (record := self._board.record) and not record.promoted:
            await self._poked.wait(_POLL_S)

    async def _seen_enough(self, kind: str) -> None:
        """Returns when enough live searches were seen, or time is up. Raises FailedPrecondition (CANARY_FAILED)."""
        end = time.monotonic() + AUTO_LIMIT_S
        while time.monotonic() < end:
            # without Redis nothing was seen; it may be back before the time is up
            with contextlib.suppress(Unavailable):
                if enough(await self._parts.samples.all(self._board.state.log), kind):
                    return
            await self._poked.wait(1.0)

    async def _until(self, awaited: Awaitable[None], follower: Follower) -> None:
        """Waits for the follower, and tells what it is held up by."""
        task = asyncio.ensure_future(awaited)
        told = ""
        try:
            while not task.done():
                await asyncio.wait([task], timeout=_POLL_S)
                if follower.problem != told and not task.done():
                    told = follower.problem
                    status = Status.PAUSED if told else Status.RUNNING
                    with contextlib.suppress(LookalikeError):
                        await self._board.change(status=status, message=told)
            await task
        finally:
            task.cancel()
