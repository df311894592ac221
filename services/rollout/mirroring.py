"""Which collection follows the serving one: made, kept following, given up again."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass
from pathlib import Path

from services.backends.change_log import ChangeLog
from services.backends.encoder import Encoder
from services.backends.gateway_registry import GATEWAY_TTL_S
from services.backends.image_store import ImageStore
from services.backends.index import Collection, Index
from services.backends.live_samples import LiveSamples
from services.common.errors import FailedPrecondition, Unavailable
from services.common.images import PREPROCESSING, ImageDecoder
from services.common.manifest import Manifest
from services.rollout.agreement import Agreement
from services.rollout.board import Board
from services.rollout.follower import Follower
from services.rollout.mirror import Mirror
from services.rollout.pace import Pace
from services.rollout.record import Progress, Rollout

_ACKNOWLEDGE_S = 30.0


@dataclass(frozen=True, slots=True)
class Parts:
    """What a rollout works with. `models`: folder of the encoder versions."""

    models: Path
    index: Index
    encoder: Encoder
    images: ImageStore
    decoder: ImageDecoder
    log: ChangeLog
    samples: LiveSamples
    agreement: Agreement
    pace: Pace


class Mirroring:
    """At most one collection follows at a time."""

    def __init__(self, parts: Parts, board: Board) -> None:
        self._parts = parts
        self._board = board
        self._follower: Follower | None = None

    @property
    def progress(self) -> Progress:
        return self._follower.progress if self._follower else Progress()

    async def follow(self, record: Rollout) -> Follower:
        """The follower of a rollout's version, started if it does not run."""
        if self._follower is None or self._follower.mirror.target.model_version != record.version:
            await self.stop()
            query_version = record.version if record.options.compatible and not record.rollback else 0
            self._follower = await self._started(await self.mirror(record.version), query_version)
        return self._follower

    async def follow_retained(self, previous: Collection) -> None:
        """The version before follows the one that serves now."""
        if self._follower is None:
            self._follower = await self._started(await self.mirror_to(previous), 0)

    async def stop(self) -> None:
        """Nothing is copied any more, and the state says what it said."""
        if self._follower:
            await self._follower.stop()
            self._follower = None

    async def retire(self, version: int) -> None:
        """Stops following with a version, and removes its collection. Raises Unavailable; it may be done again."""
        await self.stop()
        await self._remove(version)
        await self.unload(version)

    async def end(self) -> None:
        """No collection follows any more; what is in it stays. Raises Unavailable."""
        log = self._board.state.log
        await self._publish_without()
        await self._unused(log)

    async def _remove(self, version: int) -> None:
        """Removes a version's collection once no gateway can be searching it.

        The state says which one is leaving: a process that dies on the way is replaced by one that goes on with it.
        """
        collections, board = self._parts.index.collections, self._board
        name = Collection.of(version, 0, "").name
        if name == board.collection.name:
            raise FailedPrecondition(f"version {version} serves", reason="MODEL_SERVING")
        log = board.state.log if board.state.mirror == name else ""
        if board.state.leaving != version:
            if await collections.describe(name) is None:
                return
            if board.state.mirror in ("", name):
                # even when it does not seem to be named: nobody knows of a publication that failed
                await self._publish_without(leaving=version)
            else:
                await board.publish(leaving=version)
        await self._unused(log)
        await collections.drop(name)
        await board.publish(leaving=0)

    async def _publish_without(self, leaving: int = 0) -> None:
        """That no collection follows."""
        await self._board.publish(
            log="",
            mirror="",
            mirror_version=0,
            query_version=0,
            frozen=False,
            hurry=False,
            canary=0.0,
            shadow=0.0,
            retention_end=0.0,
            leaving=leaving,
        )

    async def _unused(self, log: str) -> None:
        """Returns when no search uses what the state does not name.

        That takes a moment more than the gateways' agreement: searches that began before must end, and a Redis that was
        emptied does not know gateways that still trust what they hold.
        """
        await self._parts.agreement.reached(self._board.state, _ACKNOWLEDGE_S)
        await asyncio.sleep(GATEWAY_TTL_S)
        if log:
            with contextlib.suppress(Unavailable):
                await self._parts.log.close(log)

    async def unload(self, version: int) -> None:
        """Triton lets go of a version that does not serve. Raises Unavailable."""
        loaded = await self._parts.encoder.loaded_versions()
        if version in loaded and version != self._board.collection.model_version:
            await self._parts.encoder.keep_only(self._parts.models, loaded - {version})

    async def mirror(self, version: int) -> Mirror:
        """Into the collection of a version, which is made if there is none."""
        manifest = await self.manifest_of(version)
        collections = self._parts.index.collections
        name = Collection.of(version, 0, "").name
        file = manifest.served_variant.sha256
        follows = self._board.state.mirror == name
        if not follows and await collections.describe(name) and await collections.kept(name, "model") != file:
            # of another file of the same number: its vectors are of another space
            await self._remove(version)
        target = await collections.create_collection(version, manifest.dimension, PREPROCESSING)
        await collections.keep(name, {"model": file})
        return await self.mirror_to(target)

    async def mirror_to(self, target: Collection, source: Collection | None = None) -> Mirror:
        """Args:
        source: the serving collection when None.
        """
        parts = self._parts
        side = (await self.manifest_of(target.model_version)).side
        source = source or self._board.collection
        return Mirror(parts.index, parts.images, parts.decoder, parts.encoder, parts.pace, source, target, side)

    async def manifest_of(self, version: int) -> Manifest:
        return await asyncio.to_thread(Manifest.read, self._parts.models / str(version))

    async def _started(self, mirror: Mirror, query_version: int) -> Follower:
        parts = self._parts
        follower = Follower(self._board, mirror, parts.agreement, parts.log, parts.index, query_version=query_version)
        return await follower.__aenter__()
