"""How fast a backfill may go: as fast as the machine can while nobody searches, and out of the way when somebody does.

The gateways tell how their searches fare. While there are some, one call to the encoder at a time is made, of few
pictures, with rests in between; the rests grow while the 99th percentile of the searches' latency is more than ALLOWED
times what it was without the backfill, or the median more than ALLOWED_MEDIAN times, and shrink while both are less:
additive increase, multiplicative decrease (Chiu and Jain, 1989). Among the few searches of the last seconds the 99th
percentile is the slowest one, and that is slow by chance now and then: the median tells early, and the 99th percentile
counts when it stays.

How they fare without it is what beats tell when it has rested for a while, or has not begun, or has fallen to its least
share, which hardly matters to searches. When none of that was so within the last minute, it rests on purpose: other
work may have come to the machine, or gone.
"""

from __future__ import annotations

import asyncio
import statistics
import time
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import TracebackType

from services.backends.gateway_registry import SEARCH_WINDOW_S, Beat, GatewayRegistry
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
# how long a rest on purpose is
_REST_S = 4.0
# quiet readings of which the median counts: at most so many, and none that is older, in seconds
_READINGS, _YOUNG_S = 20, 60.0
# readings of which the median is the 99th percentile that stays: one slow search is in half of them at most
_STAYS = round(2 * SEARCH_WINDOW_S / _LOOK_S) + 1


class Pace:
    """Use as `async with`: entering begins to look at the gateways' beats."""

    def __init__(self, registry: GatewayRegistry) -> None:
        self._registry = registry
        self._busy = False
        self._share = _LEAST
        self._calls = 0
        self._freed = Changes()
        # when they were taken; median and 99th percentile in milliseconds
        self._quiet: deque[tuple[float, float, float]] = deque(maxlen=_READINGS)
        self._p99s_ms: deque[float] = deque(maxlen=_STAYS)
        self._resting_until = 0.0
        # when it last called the encoder, and when it last did with more than the least share
        self._called_at = self._pressed_at = -float("inf")
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
            self._called_at = time.monotonic()
            if not self._busy or self._share > _LEAST:
                self._pressed_at = self._called_at
            if self._busy and self._share < _MOST:
                rest_s = (self._called_at - start) * (1 / self._share - 1)
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
        self._busy = p99_ms > 0
        if not self._busy:
            self._quiet.clear()
            self._p99s_ms.clear()
            self._resting_until, self._share = 0.0, _LEAST
            return
        self._p99s_ms.append(p99_ms)
        while self._quiet and now - self._quiet[0][0] > _YOUNG_S:
            self._quiet.popleft()
        if now - self._pressed_at >= SEARCH_WINDOW_S:
            self._quiet.append((now, p50_ms, p99_ms))
        elif not self._quiet and now >= self._resting_until:
            self._resting_until = now + _REST_S
            self._share = max(_LEAST, self._share / 2)
        if now - self._called_at > SEARCH_WINDOW_S + _REST_S:
            # whoever begins begins gently
            self._share = _LEAST
        elif self._quiet and now >= self._resting_until:
            _, quiet_p50_ms, quiet_p99_ms = map(statistics.median, zip(*self._quiet, strict=True))
            stays_ms = statistics.median(self._p99s_ms)
            fits = p50_ms <= ALLOWED_MEDIAN * quiet_p50_ms and stays_ms <= ALLOWED * quiet_p99_ms
            self._share = min(_MOST, self._share + _UP) if fits else max(_LEAST, self._share * _DOWN)
