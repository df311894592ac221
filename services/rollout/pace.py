"""How fast a backfill may go: as fast as the machine can while nobody searches, and out of the way when somebody does.

The gateways tell how their searches fare. While there are some, one call to the encoder at a time is made, of few
pictures, with rests in between; the rests grow while the 99th percentile of the searches' latency is more than ALLOWED
times what it was without the backfill, or the median more than ALLOWED_MEDIAN times, and shrink while both are less:
additive increase, multiplicative decrease (Chiu and Jain, 1989). Among the few searches of the last seconds the 99th
percentile is the slowest one, which tells little; the median tells early.

How they fared without it a minute ago may be wrong by now: other work may have come to the machine. A backfill that has
fallen to its least share hardly matters to searches, so how they fare then is taken for how they fare without it.
"""

from __future__ import annotations

import asyncio
import statistics
import time
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import TracebackType

from services.backends.gateway_registry import Beat, GatewayRegistry
from services.common.cancellation import end
from services.common.changes import Changes
from services.common.errors import LookalikeError

ALLOWED, ALLOWED_MEDIAN = 1.3, 1.15
IDLE_BATCH, BUSY_BATCH = 8, 1
IDLE_CALLS = 3
_LOOK_S = 0.5
# share of the time in which the encoder may work for the backfill while there are searches
_LEAST, _MOST = 0.02, 1.0
_DOWN, _UP = 0.7, 0.03
_LONGEST_REST_S = 1.0
# how long, and how often at least, the backfill rests to see how searches fare without it
_REST_S, _REST_EVERY_S = 4.0, 60.0
# what beats tell of
_WINDOW_S = 3.0
# of the quiet readings the baseline is the median
_READINGS = 5


class Pace:
    """Use as `async with`: entering begins to look at the gateways' beats."""

    def __init__(self, registry: GatewayRegistry) -> None:
        self._registry = registry
        self._busy = False
        self._share = _LEAST
        self._calls = 0
        self._freed = Changes()
        # median and 99th percentile, in milliseconds
        self._quiet: deque[tuple[float, float]] = deque(maxlen=_READINGS)
        self._resting_until = 0.0
        self._rested_at = -float("inf")
        # when the backfill last took more than the least share
        self._pressed_at = -float("inf")
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Pace:
        self._task = asyncio.create_task(self._watch())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        await end(self._task)

    @property
    def batch(self) -> int:
        """How many pictures one call to the encoder may hold."""
        return BUSY_BATCH if self._busy else IDLE_BATCH

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """Around one call to the encoder: waits before it, and for its rest behind it."""
        while self._calls >= (1 if self._busy else IDLE_CALLS) or time.monotonic() < self._resting_until:
            await self._freed.wait(0.2)
        self._calls += 1
        start = time.monotonic()
        try:
            yield
            if self._busy and self._share < _MOST:
                rest_s = (time.monotonic() - start) * (1 / self._share - 1)
                # a call that waited long in a queue took no more of the encoder than others
                await asyncio.sleep(min(rest_s, _LONGEST_REST_S))
        finally:
            self._calls -= 1
            self._freed.tell()

    async def _watch(self) -> None:
        while True:
            try:
                self.look(await self._registry.alive())
            except LookalikeError:
                # nobody tells: as if somebody searched
                self._busy = True
            await asyncio.sleep(_LOOK_S)

    def look(self, beats: list[Beat]) -> None:
        """Takes the latest beats into account."""
        now = time.monotonic()
        searched = [beat for beat in beats if beat.searches_per_s]
        p50_ms = max((beat.p50_ms for beat in searched), default=0.0)
        p99_ms = max((beat.p99_ms for beat in searched), default=0.0)
        was_busy, self._busy = self._busy, p99_ms > 0
        if not self._busy:
            self._quiet.clear()
            self._resting_until = 0.0
            return
        if not was_busy or now - self._rested_at > _REST_EVERY_S:
            self._resting_until = now + _REST_S
            self._rested_at = self._pressed_at = now
            self._share = max(_LEAST, self._share / 2) if was_busy else _LEAST
        resting = now < self._resting_until
        if not resting and self._share > _LEAST:
            self._pressed_at = now
        elif now - self._pressed_at >= _WINDOW_S:
            self._quiet.append((p50_ms, p99_ms))
        if not resting and self._quiet:
            quiet_p50_ms, quiet_p99_ms = map(statistics.median, zip(*self._quiet, strict=True))
            fits = p50_ms <= ALLOWED_MEDIAN * quiet_p50_ms and p99_ms <= ALLOWED * quiet_p99_ms
            self._share = min(_MOST, self._share + _UP) if fits else max(_LEAST, self._share * _DOWN)
