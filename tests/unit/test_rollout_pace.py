"""How a backfill makes way: what it does about the latencies that gateways tell."""

from __future__ import annotations

from typing import Any

import pytest

from services.backends.gateway_registry import Beat
from services.rollout import pace
from services.rollout.pace import BUSY_BATCH, IDLE_BATCH, Pace


@pytest.fixture
def paced(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A pace whose clock goes half a second at each look; `look(p50_ms, p99_ms)`, (0, 0): nobody searches."""
    now = 1000.0
    monkeypatch.setattr(pace.time, "monotonic", lambda: now)
    registry: Any = None
    made: Any = Pace(registry)
    look = made.look

    def looked(p50_ms: float, p99_ms: float, times: int = 1) -> float:
        nonlocal now
        for _ in range(times):
            now += 0.5
            look([Beat("g", "a", 0, "", 5.0 if p99_ms else 0.0, p50_ms, p99_ms), Beat("h", "b", 0)])
        return float(made.share)

    made.look = looked
    return made


def test_it_goes_as_fast_as_it_can_while_nobody_searches(paced: Any) -> None:
    assert (paced.look(0, 0, 5), paced.batch) == (1.0, IDLE_BATCH)
    paced.look(40, 100)
    assert paced.batch == BUSY_BATCH
    assert paced.share < 0.1
    assert (paced.look(0, 0), paced.batch) == (1.0, IDLE_BATCH)


def test_it_takes_more_while_searches_are_as_they_were(paced: Any) -> None:
    paced.look(40, 100, 12)
    before = paced.share
    assert paced.look(44, 125, 20) > before + 0.5


@pytest.mark.parametrize(("p50_ms", "p99_ms"), [(40, 140), (48, 100)])
def test_it_takes_less_when_the_slowest_or_the_usual_ones_take_longer(paced: Any, p50_ms: int, p99_ms: int) -> None:
    paced.look(40, 100, 30)
    before = paced.share
    assert paced.look(p50_ms, p99_ms, 5) < before / 4
