"""How searches fare right now, so that a backfill can yield to them."""

from __future__ import annotations

import time
from collections import deque

from services.backends.gateway_registry import SEARCH_WINDOW_S

_MAX = 4096


class SearchStats:
    """The searches of the last seconds."""

    def __init__(self) -> None:
        self._ended: deque[tuple[float, float]] = deque(maxlen=_MAX)

    def ended(self, latency_s: float) -> None:
        self._ended.append((time.monotonic(), latency_s))

    def now(self) -> tuple[float, float, float]:
        """Searches a second, and the median and 99th percentile of their latency in milliseconds."""
        start = time.monotonic() - SEARCH_WINDOW_S
        while self._ended and self._ended[0][0] < start:
            self._ended.popleft()
        latencies = sorted(latency for _, latency in self._ended)
        if not latencies:
            return 0.0, 0.0, 0.0
        return len(latencies) / SEARCH_WINDOW_S, _at(latencies, 0.5) * 1e3, _at(latencies, 0.99) * 1e3


def _at(ordered: list[float], share: float) -> float:
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]
