"""The walk of a rollout through its stages, from wherever its record says that it is (docs/decisions/0008).

Whatever a stage does can be done again: a process that dies is replaced by one that begins with the same stage.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from services.backends.change_log import ChangeLog
from services.backends.encoder import Encoder
from services.backends.gateway_registry import GATEWAY_TTL_S
from services.backends.image_store import ImageStore
from services.backends.index import Collection, Index
from services.backends.live_samples import LiveSamples
from services.common.errors import DeadlineExceeded, FailedPrecondition, LookalikeError, Overloaded, Unavailable
from services.common.images import PREPROCESSING, ImageDecoder
from services.common.manifest import Manifest
from services.common.to_the_end import to_the_end
from services.rollout import verification
from services.rollout.agreement import Agreement, LogLost
from services.rollout.board import Board
from services.rollout.follower import Follower
from services.rollout.gate import gate_error, measure_gate
from services.rollout.mirror import Mirror
from services.rollout.pace import Pace
from services.rollout.record import MAX_NAMED, Missing, Progress, Rollout, Stage, Status
from services.rollout.switch import Switch

T = TypeVar("T")

_log = logging.getLogger("lookalike.rollout")
_RETRY_S = 1.0
_POLL_S = 0.1
_ACKNOWLEDGE_S = 30.0
# between two tries of a switch that was postponed
_AGAIN_S = 3.0
# what --auto wants to see of shadow and canary each, and how long it waits for that
AUTO_SEARCHES = 50
AUTO_LIMIT_S = 600.0
# of canary searches, how many more may fail than of the others, with --auto
AUTO_FAILED_SHARE = 0.01
_TEMPORARY = (Unavailable, Overloaded, DeadlineExceeded)


@dataclass(frozen=True, slots=True)
class Parts:
    """What a walk works with. `models`: folder of the encoder versions."""

    models: Path
    index: Index
    encoder: Encoder
    images: ImageStore
    decoder: ImageDecoder
    log: ChangeLog
    samples: LiveSamples
    agreement: Agreement
    pace: Pace


class Walk:
    """The one actor of this process. `run` goes on until it is cancelled; `poke` makes it look at the board again."""

    def __init__(self, parts: Parts, board: Board) -> None:
        self._parts = parts
        self._board = board
        self._switch = Switch(board, parts.agreement, parts.log, parts.index)
        self._follower: Follower | None = None
        self._manifest: Manifest | None = None
        # where the switch begins to read the log; "": the check comes first
        self._checked = ""
        self._poked = asyncio.Event()
        self._stage: asyncio.Task[None] | None = None
        self._gate_progress = Progress()
        self._retiring: asyncio.Future[None] | None = None

    @property
    def progress(self) -> Progress:
        if self._board.record and self._board.record.stage is Stage.GATE:
            return self._gate_progress
        return self._follower.progress if self._follower else Progress()

    def poke(self) -> None:
        """Something on the board has changed: whatever waits looks again."""
        self._poked.set()

    def cancel_stage(self) -> None:
        """Ends what the stage does now, unless it switches."""
        record = self._board.record
        if self._stage and record and record.stage is not Stage.SWITCH:
            self._stage.cancel()
        self.poke()

    async def read(self) -> None:
        """Before `run`: finds out what is to be done, however long that takes."""
        await self._try(self._board.read)
        await self._try(self._recover)

    async def run(self) -> None:
        """Goes on with what the board says, for ever."""
        try:
            while True:
                record = self._board.record
                if record and not record.status.ended:
                    await self._one_stage(record)
                elif self._board.state.mirror:
                    await self._retain()
                else:
                    await self._idle()
        finally:
            await self._unfollow()

    # -- the stages ------------------------------------------------------------------------------------------------

    async def _one_stage(self, record: Rollout) -> None:
        began = time.monotonic()
        try:
            if record.cancelling:
                await self._try(lambda: self._end(record, Status.CANCELLED, "cancelled by an operator", "CANCELLED"))
                return
            if record.status is Status.PAUSED:
                await self._board.change(status=Status.RUNNING, message="")
            self._stage = asyncio.create_task(self._STAGES[record.stage](self, record))
            await self._stage
        except asyncio.CancelledError:
            current = asyncio.current_task()
            if current is not None and current.cancelling():
                if self._stage:
                    self._stage.cancel()
                    await asyncio.gather(self._stage, return_exceptions=True)
                raise
            # an operator has cancelled: the next turn sees it
        except _TEMPORARY as error:
            _log.warning("paused", extra={"facts": {"stage": record.stage.value, "error": error.message}})
            with contextlib.suppress(LookalikeError):
                await self._board.change(status=Status.PAUSED, message=error.message)
            await asyncio.sleep(_RETRY_S)
            await self._try(self._recover)
        except LookalikeError as error:
            await self._failed(record, error.message, error.reason)
        except Exception as error:
            _log.exception("a stage failed")
            message = f"internal error: {type(error).__name__}; the log of the rollout service has more"
            await self._failed(record, message, "INTERNAL")
        finally:
            self._stage = None
            now = self._board.record
            if now and now.id == record.id:
                spent = now.stage_s.get(record.stage, 0.0) + time.monotonic() - began
                # stored with the next change: no stage is worth a write of its own
                self._board.record = now.but(stage_s=now.stage_s | {record.stage.value: round(spent, 2)})

    async def _failed(self, record: Rollout, message: str, reason: str) -> None:
        await self._try(lambda: self._end(record, Status.FAILED, message, reason))

    async def _verify(self, record: Rollout) -> None:
        self._manifest = manifest = await verification.verify_files(self._parts.models, record.version)
        serving = self._board.collection.model_version
        if record.options.compatible and manifest.compatible_with != serving:
            raise FailedPrecondition(
                f"encoder version {record.version} was not trained to be compatible with version {serving}: "
                f"its manifest names {manifest.compatible_with or 'none'}",
                reason="NOT_COMPATIBLE",
            )
        await self._go_on(Stage.LOAD)

    async def _load(self, record: Rollout) -> None:
        parts = self._parts
        await verification.load_version(parts.encoder, parts.models, await self._manifest_of(record.version))
        await self._go_on(Stage.GATE)

    async def _gate(self, record: Rollout) -> None:
        parts, serving = self._parts, self._board.collection

        def told(done: int, total: int) -> None:
            self._gate_progress = Progress(done, total)

        gate = await measure_gate(
            parts.index,
            parts.images,
            parts.decoder,
            parts.encoder,
            serving,
            (await self._manifest_of(serving.model_version)).side,
            await self._manifest_of(record.version),
            record.options,
            told,
        )
        await self._board.change(gate=gate)
        if not gate.passed:
            raise gate_error(gate)
        if record.options.validate_only:
            await self._end(record, Status.SUCCEEDED, "validated; nothing was changed", "")
            return
        await self._go_on(Stage.BACKFILL)

    async def _backfill(self, record: Rollout) -> None:
        follower = await self._follow(record)
        await self._until(follower.copied(), follower)
        missing = sorted({key.partition("/")[0] for key in follower.mirror.missing})
        await self._board.change(missing=tuple(missing[:MAX_NAMED]))
        if missing and record.options.missing is Missing.STOP:
            raise FailedPrecondition(
                f"{len(missing)} products have images whose original is missing, {', '.join(missing[:3])} among them: "
                "put them back, or leave these images out with --missing-originals skip",
                reason="ORIGINALS_MISSING",
            )
        await self._go_on(Stage.DRAIN)

    async def _drain(self, record: Rollout) -> None:
        follower = await self._follow(record)
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
        follower = await self._follow(record)
        await self._until(follower.caught_up(), follower)
        state = await self._board.publish(**share)
        await self._board.change(samples_log=state.log)
        await self._parts.agreement.reached(state, _ACKNOWLEDGE_S)
        if record.options.auto:
            await self._enough(kind)
        else:
            await self._promoted(f"{kind} at {next(iter(share.values())):.0%}")

    async def _check(self, record: Rollout) -> None:
        follower = await self._follow(record)
        await self._until(follower.caught_up(), follower)
        await self._unfollow()
        self._checked = await self._switch.check(follower.mirror)
        await self._go_on(Stage.SWITCH)

    async def _switch_over(self, record: Rollout) -> None:
        if not self._checked:
            await self._board.change(stage=Stage.CHECK)
            return
        start, self._checked = self._checked, ""
        mirror = await self._mirror(record)
        try:
            await to_the_end(self._switch.switch(mirror, start, record, record.options.retention_s))
        except LookalikeError as error:
            await self._try(self._board.read)
            if self._board.collection.model_version == record.version:
                await self._switch.finish(mirror)
                return
            _log.warning("the switch is tried again", extra={"facts": {"error": error.message}})
            await self._try(self._recover)
            message = f"the switch is tried again: {error.message}"
            await self._board.change(stage=Stage.CHECK, status=Status.PAUSED, message=message)
            await asyncio.sleep(_AGAIN_S)

    _STAGES: ClassVar[dict[Stage, Callable[[Walk, Rollout], Coroutine[Any, Any, None]]]] = {
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

    # -- around them -----------------------------------------------------------------------------------------------

    async def _retain(self) -> None:
        """The version before follows, until its time is over or something happens."""
        state = self._board.state
        previous = await self._try(lambda: self._parts.index.collections.describe(state.mirror))
        left_s = state.retention_end - time.time()
        if previous is None or left_s <= 0:
            await self._try(lambda: self.retire(state.mirror_version))
            record = self._board.record
            if record and record.stage is Stage.RETENTION:
                await self._try(lambda: self._board.change(stage=Stage.RETIRED))
            return
        if self._follower is None:
            mirror = await self._try(lambda: self._mirror_to(previous))
            self._follower = await Follower(
                self._board, mirror, self._parts.agreement, self._parts.log, self._parts.index
            ).__aenter__()
        await self._idle(min(left_s, 3600.0))

    async def retire(self, version: int) -> None:
        """Stops following with a version, and removes its collection. Raises Unavailable."""
        await self._unfollow()
        collection = Collection.of(version, 0, "")
        state = self._board.state
        if state.mirror == collection.name:
            await self._stop_mirroring()
            # searches that began there have ended by then
            await asyncio.sleep(GATEWAY_TTL_S)
            with contextlib.suppress(Unavailable):
                await self._parts.log.close(state.log)
        await self._parts.index.collections.drop(collection.name)
        await self._unload(version)

    async def _stop_mirroring(self) -> None:
        state = await self._board.publish(
            log="",
            mirror="",
            mirror_version=0,
            query_version=0,
            frozen=False,
            hurry=False,
            canary=0.0,
            shadow=0.0,
            retention_end=0.0,
        )
        await self._parts.agreement.reached(state, _ACKNOWLEDGE_S)

    async def _end(self, record: Rollout, status: Status, message: str, reason: str) -> None:
        """Ends a rollout before its switch. What a retention keeps stays as it was before."""
        await self._unfollow()
        self._checked = ""
        state = self._board.state
        target = Collection.of(record.version, 0, "").name
        if state.mirror == target and state.retention_end:
            await self._board.publish(query_version=0, frozen=False, hurry=False, canary=0.0, shadow=0.0)
        elif status is Status.CANCELLED:
            await self.retire(record.version)
        else:
            if state.mirror == target:
                await self._stop_mirroring()
            # what was filled is left: the next try compares it instead of filling it again
            await self._unload(record.version)
        await self._board.change(status=status, message=message, reason=reason)

    async def _unload(self, version: int) -> None:
        loaded = await self._parts.encoder.loaded_versions()
        if version in loaded and version != self._board.collection.model_version:
            await self._parts.encoder.keep_only(self._parts.models, loaded - {version})

    async def _recover(self) -> None:
        """Finishes a switch whose alias has moved; lets writes go on when it has not."""
        board = self._board
        record = board.record
        if record is None or record.stage is not Stage.SWITCH or record.status.ended:
            if board.state.frozen:
                await board.publish(frozen=False, hurry=False)
            return
        if board.collection.model_version != record.version:
            if board.state.frozen:
                await board.publish(frozen=False, hurry=False)
            await board.change(stage=Stage.CHECK)
            return
        source = await self._parts.index.collections.describe(board.state.mirror)
        if source is None:
            raise Unavailable(f"the collection {board.state.mirror} is gone", reason="INDEX_UNAVAILABLE")
        await self._switch.finish(await self._mirror_to(board.collection, source))

    async def _follow(self, record: Rollout) -> Follower:
        """The follower of this rollout, started if it does not run."""
        if self._follower is None or self._follower.mirror.target.model_version != record.version:
            await self._unfollow()
            parts = self._parts
            query_version = record.version if record.options.compatible and not record.rollback else 0
            self._follower = await Follower(
                self._board,
                await self._mirror(record),
                parts.agreement,
                parts.log,
                parts.index,
                query_version=query_version,
            ).__aenter__()
        return self._follower

    async def _unfollow(self) -> None:
        if self._follower:
            await self._follower.stop()
            self._follower = None

    async def _mirror(self, record: Rollout) -> Mirror:
        """Into the collection of the record's version, which is made if there is none."""
        manifest = await self._manifest_of(record.version)
        collections = self._parts.index.collections
        name = Collection.of(manifest.version, 0, "").name
        file = manifest.served_variant.sha256
        follows = self._board.state.mirror == name
        if not follows and await collections.describe(name) and await collections.kept(name, "model") != file:
            # of another file of the same number: its vectors are of another space
            await collections.drop(name)
        target = await collections.create_collection(manifest.version, manifest.dimension, PREPROCESSING)
        await collections.keep(target.name, {"model": file})
        return await self._mirror_to(target)

    async def _mirror_to(self, target: Collection, source: Collection | None = None) -> Mirror:
        parts = self._parts
        side = (await self._manifest_of(target.model_version)).side
        source = source or self._board.collection
        return Mirror(parts.index, parts.images, parts.decoder, parts.encoder, parts.pace, source, target, side)

    async def _manifest_of(self, version: int) -> Manifest:
        if self._manifest is None or self._manifest.version != version:
            return await asyncio.to_thread(Manifest.read, self._parts.models / str(version))
        return self._manifest

    async def _go_on(self, stage: Stage) -> None:
        await self._board.change(stage=stage, status=Status.RUNNING, message="", promoted=False)

    async def _promoted(self, what: str) -> None:
        """Returns when an operator has promoted the rollout."""
        record = self._board.record
        if record and not record.promoted:
            await self._board.change(status=Status.WAITING, message=f"{what}: `lookalike rollout promote` goes on")
        while (record := self._board.record) and not record.promoted:
            await self._pause(_POLL_S)

    async def _enough(self, kind: str) -> None:
        """Returns when enough live searches were seen, or time is up. Raises FailedPrecondition (CANARY_FAILED)."""
        end = time.monotonic() + AUTO_LIMIT_S
        while time.monotonic() < end:
            samples = await self._parts.samples.all(self._board.state.log)
            seen = [sample for sample in samples if sample.kind == kind]
            if len(seen) >= AUTO_SEARCHES:
                others = [sample for sample in samples if sample.kind == "serving"] if kind == "canary" else []
                failed = sum(sample.failed for sample in seen) / len(seen)
                usual = sum(sample.failed for sample in others) / max(1, len(others))
                if failed > usual + AUTO_FAILED_SHARE:
                    raise FailedPrecondition(
                        f"{failed:.1%} of {len(seen)} {kind} searches failed, {usual:.1%} of the others",
                        reason="CANARY_FAILED",
                    )
                return
            await self._pause(1.0)

    async def _until(self, awaited: Awaitable[None], follower: Follower) -> None:
        """Waits for the follower, and tells what it is held up by."""
        task = asyncio.ensure_future(awaited)
        told = ""
        try:
            while not task.done():
                await asyncio.wait([task], timeout=_POLL_S * 2)
                if follower.problem != told and not task.done():
                    told = follower.problem
                    status = Status.PAUSED if told else Status.RUNNING
                    with contextlib.suppress(LookalikeError):
                        await self._board.change(status=status, message=told)
            await task
        finally:
            task.cancel()

    async def _idle(self, limit_s: float | None = None) -> None:
        await self._pause(limit_s)

    async def _pause(self, limit_s: float | None) -> None:
        """Until it is poked, or for so long."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(limit_s):
                await self._poked.wait()
        self._poked.clear()

    async def _try(self, work: Callable[[], Awaitable[T]]) -> T:
        """Again and again, for as long as a part does not answer."""
        told = ""
        while True:
            try:
                return await work()
            except LogLost:
                # the registry is not known to be complete; by now everybody has read the state anew
                continue
            except (*_TEMPORARY, FailedPrecondition) as error:
                if error.message != told:
                    _log.warning("waiting", extra={"facts": {"reason": error.reason, "error": error.message}})
                    told = error.message
                await asyncio.sleep(_RETRY_S)
