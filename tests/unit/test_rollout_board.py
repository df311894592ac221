"""What the rollout service tells its log of a rollout."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from services.backends.index import Collection
from services.rollout.board import Board
from services.rollout.record import Rollout, Stage, Status


class Collections:
    async def resolve(self) -> Collection:
        return Collection.of(1, 8, "p")

    async def kept(self, name: str, prop: str) -> str:
        return ""

    async def keep(self, name: str, properties: dict[str, str]) -> None: ...

    async def set_alias(self, name: str) -> None: ...


async def test_each_stage_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    index: Any = SimpleNamespace(collections=Collections())
    board = Board(index)
    await board.read()
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
