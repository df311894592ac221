"""What is published is what is known: numbers rise, and commands meet the record as it is when they are stored."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from services.backends.index import Collection
from services.common.errors import FailedPrecondition, Unavailable
from services.rollout.board import Board
from services.rollout.record import Rollout, Stage, Status
from services.rollout.rollouts import _cancelling, _promoted, _running
from tests.unit.rollout_system import Index, Life, System


async def board_of(system: System, life: Life) -> Board:
    index: Any = Index(system, life)
    board = Board(index)
    await board.read()
    return board


@pytest.mark.parametrize("late", [False, True])
async def test_a_failed_publication_changes_nothing_and_its_numbers_are_used_up(late: bool) -> None:
    system = System.serving(1)
    # three calls read the board
    board = await board_of(system, Life(3, late=late, fails=True))
    with pytest.raises(Unavailable):
        await board.publish(mirror="products_m2", frozen=True, freeze=1)
    assert (board.state.mirror, board.state.frozen, board.state.freeze) == ("", False, 1)
    assert system.state.mirror == ("products_m2" if late else "")
    # whoever tries again is heard, by gateways that have seen the first one too
    assert (await board.publish(mirror="products_m2")).seq == 2
    assert system.state == board.state


async def test_a_failed_record_is_not_remembered_twice() -> None:
    system = System.serving(1)
    board = await board_of(system, Life(4, fails=True))
    await board.remember(Rollout("a", 2, 1))
    with pytest.raises(Unavailable):
        await board.remember(Rollout("b", 2, 1))
    await board.remember(Rollout("b", 2, 1))
    assert [each.id for each in board.history] == ["a"]


async def test_what_is_switching_when_the_cancellation_is_stored_is_not_cancelled() -> None:
    """The stage goes on between the command's coming and its turn."""
    system = System.serving(1)
    board = await board_of(system, Life())
    await board.remember(Rollout("a", 2, 1, stage=Stage.CHECK))
    going_on = asyncio.create_task(board.change(stage=Stage.SWITCH))
    await asyncio.sleep(0)
    with pytest.raises(FailedPrecondition, match="switching"):
        await board.amend(lambda record: _cancelling(_running(record, "a")))
    await going_on
    assert (system.record.stage, system.record.cancelling) == (Stage.SWITCH, False)


async def test_what_has_ended_meanwhile_is_not_promoted() -> None:
    system = System.serving(1)
    board = await board_of(system, Life())
    await board.remember(Rollout("a", 2, 1, stage=Stage.CANARY, status=Status.WAITING))
    ending = asyncio.create_task(board.change(status=Status.FAILED))
    await asyncio.sleep(0)
    with pytest.raises(FailedPrecondition, match="has ended"):
        await board.amend(lambda record: _promoted(_running(record, "a")))
    await ending
    assert not system.record.promoted


async def test_each_stage_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    system = System.serving(1)
    system.kept["products_m2"] = {}
    board = await board_of(system, Life())
    caplog.set_level("INFO", "lookalike.rollout")
    record = await board.remember(Rollout("2-x", 2, 1))
    await board.change(stage=Stage.LOAD)
    await board.change(missing=("p1",))
    await board.change(status=Status.PAUSED, message="Redis is away")
    await board.switch(Collection.of(2, 8, "p"), board.state, record.but(stage=Stage.SWITCH), "fence")
    await board.change(stage=Stage.RETENTION, status=Status.SUCCEEDED)
    told = [line.facts for line in caplog.records]  # type: ignore[attr-defined]
    assert [(facts["stage"], facts["status"]) for facts in told] == [
        ("verify", "running"),
        ("load", "running"),
        ("load", "paused"),
        ("switch", "running"),
        ("retention", "succeeded"),
    ]
    assert {(facts["rollout"], facts["version"]) for facts in told} == {("2-x", 2)}
    assert told[2]["why"] == "Redis is away"
