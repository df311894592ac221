"""The rollout service dies at each call in turn, or the call fails: whoever comes after it finishes what was begun."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest

from services.common.errors import Unavailable
from services.common.rollout_state import RolloutState
from services.rollout.board import Board
from services.rollout.mirroring import Mirroring
from services.rollout.record import Options, Rollout, Stage, Status
from services.rollout.walk import Walk
from tests.unit.rollout_system import Life, System, deaths, in_no_time, live, parts_of

__all__ = ["in_no_time"]

pytestmark = [pytest.mark.usefixtures("in_no_time"), pytest.mark.timeout(60)]


def begun(**changes: Any) -> System:
    """Version 1 serves, and 2 is in its backfill."""
    system = System.serving(1)
    system.loaded.add(2)
    options = Options(canary=0.5, shadow=0.5)
    store(system, Rollout("r", 2, 1, options, stage=Stage.BACKFILL).but(**changes))
    return system


def store(system: System, record: Rollout) -> None:
    system.kept[system.alias]["record"] = record.to_json()


def waits_in(stage: Stage) -> Callable[[System], bool]:
    return lambda system: system.record.stage is stage and system.record.status is Status.WAITING


def ended(system: System) -> bool:
    return system.record.status.ended


async def test_a_rollout_gets_to_its_end() -> None:
    number = 0
    async for system, life in deaths(begun(options=Options(auto=True))):
        await live(system, life, ended)
        await live(system, Life(), ended)
        number += 1
        state, record = system.state, system.record
        assert (record.stage, record.status) == (Stage.RETENTION, Status.SUCCEEDED)
        assert (system.alias, state.mirror, state.frozen, state.turn) == ("products_m2", "products_m1", False, 1)
        assert set(system.kept) == {"products_m1", "products_m2"}
    assert number > 100


@pytest.mark.parametrize("stage", [Stage.BACKFILL, Stage.SHADOW, Stage.CANARY])
async def test_what_is_cancelled_leaves_nothing(stage: Stage) -> None:
    system = begun()
    if stage is not Stage.BACKFILL:
        await live(system, Life(), waits_in(Stage.SHADOW))
    if stage is Stage.CANARY:
        store(system, system.record.but(promoted=True))
        await live(system, Life(), waits_in(Stage.CANARY))
        assert system.state.canary == 0.5
    store(system, system.record.but(cancelling=True))
    async for again, life in deaths(system):
        await live(again, life, ended)
        await live(again, Life(), lambda found: ended(found) and not found.state.leaving)
        assert again.record.status is Status.CANCELLED
        assert set(again.kept) == {"products_m1"}
        assert again.loaded == {1}
        assert again.state == RolloutState(seq=again.state.seq)
        assert again.alias == "products_m1"


def retained(retention_end: float) -> System:
    """Version 2 serves, and 1 is kept for a rollback."""
    system = System.serving(2)
    system.kept["products_m1"] = {}
    system.loaded |= {1}
    system.seen |= {"products_m1"}
    state = RolloutState(
        7, log="log", mirror="products_m1", mirror_version=1, turn=1, freeze=2, retention_end=retention_end
    )
    system.kept[system.alias]["state"] = state.to_json()
    store(system, Rollout("r", 2, 1, stage=Stage.RETENTION, status=Status.SUCCEEDED))
    return system


def retired(system: System) -> bool:
    return system.state.leaving == 0 and set(system.kept) == {"products_m2"} and system.loaded == {2}


async def test_the_end_of_a_retention_leaves_nothing() -> None:
    async for system, life in deaths(retained(time.time() - 1)):
        await live(system, life, retired)
        await live(system, Life(), lambda system: not system.state.mirror and not system.state.leaving)
        assert set(system.kept) == {"products_m2"}


async def test_what_an_operator_retires_is_kept_whole_or_gone() -> None:
    async def retire(walk: Walk) -> None:
        while True:
            try:
                return await walk.retire(1)
            except Unavailable as error:
                if error.reason == "NOT_ACTIVE":
                    return

    async for system, life in deaths(retained(time.time() + 3600)):
        await live(system, life, retired, retire)
        await live(system, Life(), lambda found: not found.state.leaving)
        assert ("products_m1" in system.kept) == (system.state.mirror == "products_m1")


async def test_a_publication_that_failed_may_have_been_heard() -> None:
    """So what it named is removed as if gateways searched it."""
    system = System.serving(1)
    system.kept["products_m2"] = {}
    # three calls read the board, and the fourth publishes
    parts = parts_of(system, Life(3, late=True, fails=True))
    board = Board(parts.index)
    await board.read()
    with pytest.raises(Unavailable):
        await board.publish(mirror="products_m2", mirror_version=2)
    assert (board.state.mirror, system.state.mirror) == ("", "products_m2")
    await Mirroring(parts, board).retire(2)
    assert set(system.kept) == {"products_m1"}


async def test_a_refused_version_is_searched_by_nobody_before_it_is_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is unloaded only when every gateway has acknowledged a state without it."""
    system = begun()
    await live(system, Life(), waits_in(Stage.SHADOW))
    store(system, system.record.but(cancelling=True))
    unloaded: list[set[str]] = []

    async def keep_only(self: Any, models: Any, versions: set[int]) -> None:
        unloaded.append(set(self._system.seen))

    monkeypatch.setattr("tests.unit.rollout_system.Encoder.keep_only", keep_only)
    await live(system, Life(), ended)
    assert unloaded == [{"products_m1"}]
