"""A stand-in for what walks: it has the states that a test puts in, and notes what is asked of it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

from services.backends.live_samples import Sample
from services.common.errors import FailedPrecondition, NotFound
from services.common.server import Server
from services.common.settings import ServerSettings
from services.common.telemetry import Metrics
from services.rollout.errors import RolloutRunning
from services.rollout.models import ModelInfo
from services.rollout.record import Options, Progress, Rollout, Stage, Status
from services.rollout.services import NAMES, add_services


class StandIn:
    """See `services.rollout.controller.Controller`. The records are in `records`, the newest first."""

    def __init__(self) -> None:
        self.records: list[Rollout] = []
        self.told = asyncio.Condition()
        self.asked: list[Any] = []
        self.made: list[ModelInfo] = []
        self.seen: list[Sample] = []
        self.now: Progress | None = None
        self.retention_end = 0.0

    async def becomes(self, **changes: Any) -> Rollout:
        """The newest one changes."""
        async with self.told:
            self.records[0] = self.records[0].but(**changes)
            self.told.notify_all()
        return self.records[0]

    async def start(self, version: int, options: Options) -> Rollout:
        self.asked.append((version, options))
        return self._begin(Rollout(f"r{len(self.records) + 1}", version, 1, options))

    async def rollback(self) -> Rollout:
        return self._begin(Rollout(f"r{len(self.records) + 1}", 1, 2, rollback=True, stage=Stage.CHECK))

    def _begin(self, record: Rollout) -> Rollout:
        if self.records and not self.records[0].status.ended:
            name = f"rollouts/{self.records[0].id}"
            raise RolloutRunning(f"{name} is running: one rollout at a time", metadata={"rollout": name})
        self.records.insert(0, record.but(created=1e9 + len(self.records), updated=1e9 + len(self.records)))
        return self.records[0]

    async def promote(self, rollout_id: str) -> Rollout:
        if (await self.get(rollout_id)).status is not Status.WAITING:
            raise FailedPrecondition(f"rollouts/{rollout_id} does not wait", reason="ROLLOUT_NOT_WAITING")
        return await self.becomes(promoted=True, status=Status.RUNNING, message="")

    async def cancel(self, rollout_id: str) -> Rollout:
        record = await self.get(rollout_id)
        if record.status.ended:
            raise FailedPrecondition(f"rollouts/{rollout_id} has ended", reason="ROLLOUT_ENDED")
        if record.stage is Stage.SWITCH:
            raise FailedPrecondition(f"rollouts/{rollout_id} is switching", reason="ROLLOUT_SWITCHING")
        return await self.becomes(status=Status.CANCELLED)

    async def retire(self, version: int) -> None:
        self.asked.append(version)
        self.made = [info for info in self.made if info.version != version]

    async def get(self, rollout_id: str = "") -> Rollout:
        for record in self.records:
            if not rollout_id or record.id == rollout_id:
                return record
        raise NotFound(f"there is no rollouts/{rollout_id}", reason="ROLLOUT_NOT_FOUND")

    async def all(self) -> list[Rollout]:
        return self.records

    def progress(self, rollout_id: str) -> Progress | None:
        return self.now if self.records and self.records[0].id == rollout_id else None

    async def samples(self, rollout_id: str) -> list[Sample]:
        return self.seen if self.records[0].id == rollout_id else []

    async def wait(self, rollout_id: str, timeout_s: float | None) -> Rollout:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s), self.told:
                while not (await self.get(rollout_id)).status.ended:
                    await self.told.wait()
        return await self.get(rollout_id)

    async def models(self) -> list[ModelInfo]:
        return self.made


@contextlib.asynccontextmanager
async def served(rollouts: StandIn, port: int = 0) -> AsyncIterator[str]:
    """A real server of it; its address."""
    server = Server(ServerSettings(port=port, metrics_port=0, lame_duck_s=0, drain_s=1), Metrics(), NAMES)
    add_services(rollouts, server)
    async with server:
        await server.ready()
        yield f"127.0.0.1:{server.port}"
