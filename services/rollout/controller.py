"""What the servicers need of rollouts: `services.rollout.rollouts.Rollouts`, as they see it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

from services.backends.live_samples import Sample
from services.rollout.models import ModelInfo
from services.rollout.record import Options, Progress, Rollout, Stage


class Controller(Protocol):
    """What each method raises is written where it is implemented."""

    async def start(self, version: int, options: Options) -> Rollout: ...

    async def promote(self, rollout_id: str) -> Rollout: ...

    async def cancel(self, rollout_id: str) -> Rollout: ...

    async def rollback(self) -> Rollout: ...

    async def retire(self, version: int) -> None: ...

    async def get(self, rollout_id: str = "") -> Rollout: ...

    async def all(self) -> list[Rollout]: ...

    def progress(self, rollout_id: str) -> Progress | None: ...

    async def samples(self, rollout_id: str) -> list[Sample]: ...

    async def wait(self, rollout_id: str, timeout_s: float | None) -> Rollout: ...

    async def models(self) -> list[ModelInfo]: ...

    @property
    def retention_end(self) -> float: ...


@dataclass(frozen=True, slots=True)
class Standing:
    """A rollout as it stands now.

    Args:
        samples: what gateways saw of its version.
        retention_end: until when the version before is kept up to date, in seconds since 1970; 0: it is not.
    """

    record: Rollout
    progress: Progress = field(default_factory=Progress)
    samples: tuple[Sample, ...] = ()
    retention_end: float = 0.0


async def standing(rollouts: Controller, record: Rollout) -> Standing:
    """What is known of a rollout beside its record. Raises what `all` raises."""
    retention_end = 0.0
    if record.stage is Stage.RETENTION:
        # a retention ends where the next one begins
        newest = next((each.id for each in await rollouts.all() if each.stage is Stage.RETENTION), "")
        retention_end = rollouts.retention_end if record.id == newest else 0.0
    progress = rollouts.progress(record.id) or Progress()
    return Standing(record, progress, tuple(await rollouts.samples(record.id)), retention_end)
