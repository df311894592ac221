"""How a write gets past freezes, switches and lost logs: steps 1, 2 and 4 of docs/decisions/0008, each by itself."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from services.backends.index import Collection
from services.common.errors import Unavailable
from services.common.rollout_state import RolloutState
from services.gateway.settings import ServingSettings
from services.gateway.writes import Write, Writes

S, M = Collection.of(1, 4, ""), Collection.of(2, 4, "")
CALM = RolloutState(5, log="a", mirror=M.name, mirror_version=2, freeze=3, turn=1)
FROZEN = CALM.after(frozen=True, freeze=4)


class Gateway:
    """What a write meets: the state of now, a change log and the properties of collections.

    Args:
        later: states that come one after the other while somebody waits for a change.
    """

    def __init__(self, state: RolloutState, *later: RolloutState, collection: Collection = S) -> None:
        self.state, self.later, self.collection = state, list(later), collection
        self.entered: list[tuple[str, str, str]] = []
        self.gaps: list[tuple[str, str]] = []
        self.fails: set[str] = set()
        self.collections = self

    @property
    def view(self) -> Any:
        return SimpleNamespace(state=self.state, collection=self.collection)

    async def refresh(self) -> Any:
        return self.view

    async def changed(self, seq: int, timeout_s: float) -> None:
        if self.later:
            self.state = self.later.pop(0)
        else:
            await asyncio.sleep(timeout_s)

    async def append(self, log: str, product: str, collection: str) -> None:
        if "redis" in self.fails:
            raise Unavailable("Redis does not answer")
        self.entered.append((log, product, collection))

    async def keep_gap(self, name: str, log: str) -> None:
        if "milvus" in self.fails:
            raise Unavailable("Milvus does not answer")
        self.gaps.append((name, log))


def writes_of(gateway: Any, freeze_limit_s: float = 10.0) -> Writes:
    settings = ServingSettings.model_construct(freeze_limit_s=freeze_limit_s)
    return Writes(settings, gateway, gateway, gateway)


async def test_a_write_waits_for_the_end_of_a_freeze() -> None:
    gateway = Gateway(FROZEN, FROZEN.after(frozen=False))
    async with writes_of(gateway).begun("p", S) as write:
        assert write is not None
        assert (write.state.frozen, write.late) == (False, False)


async def test_a_write_that_meets_a_switch_begins_again() -> None:
    gateway = Gateway(CALM, collection=M)
    async with writes_of(gateway).begun("p", S) as write:
        assert write is None


async def test_a_freeze_that_does_not_end_makes_a_write_late_and_no_other_one_wait_anew() -> None:
    writes = writes_of(Gateway(FROZEN), freeze_limit_s=0.05)
    for _ in range(2):
        async with asyncio.timeout(5), writes.begun("p", S) as write:
            assert write is not None
            assert write.late


async def test_a_state_is_acknowledged_when_no_write_of_before_runs() -> None:
    gateway = Gateway(CALM)
    writes = writes_of(gateway)
    async with writes.begun("p", S):
        assert writes.quiet(CALM.seq)
        gateway.state = CALM.after()
        async with writes.begun("q", S):
            assert not writes.quiet(CALM.seq + 1)
    assert writes.quiet(CALM.seq + 1)


@pytest.mark.parametrize(
    ("began", "late", "now", "counts"),
    [
        pytest.param(CALM, False, CALM, True, id="nothing happened"),
        pytest.param(CALM, False, CALM.after(turn=2), False, id="a switch"),
        # the collection may be the same one again, where the write has been undone
        pytest.param(CALM, False, CALM.after(turn=3), False, id="a switch and one back"),
        pytest.param(FROZEN, True, FROZEN, True, id="late, in the same freeze"),
        pytest.param(FROZEN, True, FROZEN.after(freeze=5, frozen=False), False, id="late, and another freeze since"),
    ],
)
async def test_whether_a_write_counts(began: RolloutState, late: bool, now: RolloutState, counts: bool) -> None:
    writes = writes_of(Gateway(now))
    assert await writes.confirmed(Write("p", S, began, began.log, late)) is counts


async def test_a_write_that_ends_in_a_freeze_learns_what_came_of_it() -> None:
    write = Write("p", S, CALM, "a")
    assert await writes_of(Gateway(FROZEN, FROZEN.after(frozen=False))).confirmed(write)
    assert not await writes_of(Gateway(FROZEN, FROZEN.after(frozen=False, turn=2))).confirmed(write)
    # nobody ends it: the write begins again, late
    assert not await writes_of(Gateway(FROZEN), freeze_limit_s=0.05).confirmed(write)


async def test_a_log_that_was_begun_meanwhile_hears_of_the_write() -> None:
    gateway = Gateway(CALM.after(log="b"))
    assert await writes_of(gateway).confirmed(Write("p", S, CALM, "a"))
    assert gateway.entered == [("b", "p", S.name)]
    # nothing is entered where no log is
    gateway = Gateway(CALM.after(log=""))
    assert await writes_of(gateway).confirmed(Write("p", S, CALM, "a"))
    assert gateway.entered == []


async def test_without_redis_a_gap_is_left_once_for_each_log() -> None:
    gateway = Gateway(CALM)
    writes = writes_of(gateway)
    gateway.fails = {"redis"}
    for product in ("p", "q"):
        await writes.enter(Write(product, S, CALM, "a"))
    await writes.enter(Write("p", S, CALM.after(log="b"), "b"))
    assert gateway.gaps == [(S.name, "a"), (S.name, "b")]
    gateway.fails = {"redis", "milvus"}
    with pytest.raises(Unavailable):
        await writes.enter(Write("p", S, CALM.after(log="c"), "c"))
    # what could not be told is tried again
    gateway.fails = {"redis"}
    await writes.enter(Write("p", S, CALM.after(log="c"), "c"))
    assert gateway.gaps[-1] == (S.name, "c")
