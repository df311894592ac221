"""Learning rates over a run."""

from __future__ import annotations

import math

import pytest

from services.trainer.learning.fit import side_of
from services.trainer.learning.schedule import rate_share


def test_it_warms_up_and_falls_as_half_a_cosine() -> None:
    shares = [rate_share(step, 100, 0.1) for step in range(100)]
    assert shares[:10] == pytest.approx([(step + 1) / 11 for step in range(10)])
    assert shares[10] == 1.0
    assert shares[55] == pytest.approx(0.5)
    assert shares[10:] == sorted(shares[10:], reverse=True)
    assert 0 < shares[-1] < 0.001
    assert shares[32] == pytest.approx(0.5 * (1 + math.cos(math.pi * 22 / 90)))


@pytest.mark.parametrize(("steps", "warmup"), [(1, 0.0), (1, 0.9), (2, 0.5), (7, 0.99)])
def test_every_step_of_a_short_run_has_a_rate(steps: int, warmup: float) -> None:
    assert all(0 < rate_share(step, steps, warmup) <= 1 for step in range(steps))


def test_without_warm_up_it_begins_at_the_full_rate() -> None:
    assert rate_share(0, 50, 0.0) == 1.0


def test_sides_share_the_epochs() -> None:
    assert [side_of(epoch, 6, (96, 128, 160), 160) for epoch in range(6)] == [96, 96, 128, 128, 160, 160]
    assert [side_of(epoch, 5, (96, 128), 160) for epoch in range(5)] == [96, 96, 96, 128, 128]
    assert [side_of(epoch, 2, (), 160) for epoch in range(2)] == [160, 160]
    # fewer epochs than sides: the first ones are left out by none but the last
    assert [side_of(epoch, 1, (96, 128), 160) for epoch in range(1)] == [96]
