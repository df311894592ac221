"""The gateway's side of a rollout: it beats, reads the state, does what it takes to act by it, and acknowledges it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
import uuid
from types import TracebackType

from services.backends.gateway_registry import GATEWAY_TRUST_S, Beat, GatewayRegistry
from services.common.cancellation import end
from services.common.errors import LookalikeError, Unavailable
from services.gateway.search_stats import SearchStats
from services.gateway.serving import Serving
from services.gateway.settings import ServingSettings
from services.gateway.writes import Writes

_log = logging.getLogger("lookalike.watch")
_BEAT_S = 0.4


class Watch:
    """Use as `async with`: entering starts to watch, leaving says goodbye.

    Args:
        address: of this gateway, for people.
    """

    def __init__(
        self,
        settings: ServingSettings,
        serving: Serving,
        writes: Writes,
        registry: GatewayRegistry,
        stats: SearchStats,
        address: str,
    ) -> None:
        self._settings = settings
        self._serving = serving
        self._writes = writes
        self._registry = registry
        self._stats = stats
        self._address = address
        self._id = uuid.uuid4().hex
        self._acknowledged = -1
        self._problem = ""
        self._beaten_at = -float("inf")
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Watch:
        self._task = asyncio.create_task(self._run())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        await end(self._task)
        # from now on nobody waits for this gateway
        self._serving.trust(-float("inf"))
        with contextlib.suppress(LookalikeError):
            await self._registry.leave(self._id)

    async def _run(self) -> None:
        failing = ""
        while True:
            try:
                await self._once()
                failing = ""
            except LookalikeError as error:
                self._problem = error.message
                if error.message != failing and error.reason != "NOT_READY":
                    _log.warning("the serving pair is not certain", extra={"facts": {"error": error.message}})
                failing = error.message
            except Exception:
                # a watch that ended would leave its gateway with an old state for good
                _log.exception("the watch failed")
            await asyncio.sleep(self._pause_s())

    async def _once(self) -> None:
        """A reading that begins after Redis has confirmed a beat may be used while that beat is young."""
        began = time.monotonic()
        known = None
        if began - self._beaten_at >= _BEAT_S / 2:
            try:
                await self._beat()
            except Unavailable as error:
                known = error
        view = await self._serving.refresh()
        if known is None:
            self._serving.trust(self._beaten_at + GATEWAY_TRUST_S)
        if view.state.seq != self._acknowledged and await self._can_acknowledge(view.state.seq):
            self._acknowledged = view.state.seq
            await self._beat()
        if known is not None:
            raise known

    async def _can_acknowledge(self, seq: int) -> bool:
        try:
            await self._serving.verify_mirror()
            problem = ""
        except LookalikeError as error:
            problem = error.message
        if problem != self._problem:
            self._problem = problem
            await self._beat()
        # verifying may have taken a while
        settled = self._serving.view.state.seq == seq and self._writes.quiet(seq) and self._serving.lets_go()
        return not problem and settled

    async def _beat(self) -> None:
        began = time.monotonic()
        per_s, p50_ms, p99_ms = self._stats.now()
        await self._registry.beat(
            Beat(self._id, self._address, self._acknowledged, self._problem, round(per_s, 2), p50_ms, p99_ms)
        )
        self._beaten_at = began

    def _pause_s(self) -> float:
        try:
            state = self._serving.view.state
        except Unavailable:
            return self._settings.refresh_s
        behind = state.seq != self._acknowledged and not self._problem
        return self._settings.hurry_s if state.hurry or state.frozen or behind else self._settings.refresh_s
