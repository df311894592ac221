"""A system without engines that a rollout service walks in, and dies in at any call. No products are in it.

Milvus' properties and alias, Triton's versions and the gateways' view are what outlives a service. A collection that a
gateway may still search must not be dropped: that is asserted at each drop.
"""

from __future__ import annotations

import asyncio
import copy
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from services.backends.change_log import Entry
from services.backends.index import Collection
from services.common.errors import Unavailable
from services.common.rollout_state import RolloutState
from services.rollout import follower, mirroring, stages, walk
from services.rollout.board import Board
from services.rollout.mirroring import Mirroring, Parts
from services.rollout.record import Rollout
from services.rollout.walk import Walk

DIMENSION = 4


class Died(BaseException):
    """What every call of a service that has died ends with."""


@dataclass
class System:
    """Args:
    kept: properties of each collection, by its name. alias: of the serving one.
    seen: names of collections that a gateway may search, by the state it has acknowledged.
    loaded: versions that Triton serves.
    """

    kept: dict[str, dict[str, str]] = field(default_factory=dict)
    alias: str = ""
    seen: set[str] = field(default_factory=set)
    loaded: set[int] = field(default_factory=set)
    logs: set[str] = field(default_factory=set)

    @classmethod
    def serving(cls, version: int) -> System:
        name = Collection.of(version, DIMENSION, "").name
        return cls({name: {}}, name, {name}, {version})

    def copy(self) -> System:
        return copy.deepcopy(self)

    @property
    def state(self) -> RolloutState:
        return RolloutState.from_json(self.kept[self.alias].get("state", ""))

    @property
    def record(self) -> Rollout:
        record = Rollout.from_json(self.kept[self.alias]["record"])
        assert record is not None
        return record


class Life:
    """Of one service: it ends with its n-th call.

    Args:
        calls: how many it lives; None: for ever.
        late: whether the call that it dies of is carried out.
        fails: instead of dying it is told that this call failed, and lives on.
    """

    def __init__(self, calls: int | None = None, *, late: bool = False, fails: bool = False) -> None:
        self._left = calls
        self._late = late
        self._fails = fails
        self.dead = asyncio.Event()

    async def call(self, work: Callable[[], Any]) -> Any:
        # others have their turn at each call, as with a real one
        await asyncio.sleep(0)
        if self.dead.is_set():
            raise Died
        if self._left is not None:
            self._left -= 1
            if self._left == -1:
                if self._late:
                    work()
                if self._fails:
                    raise Unavailable("this call failed")
                self.dead.set()
                raise Died
        return work()

    @property
    def outlived(self) -> bool:
        """Whether there were fewer calls than it had."""
        return self._left is not None and self._left >= 0


class Collections:
    def __init__(self, system: System, life: Life) -> None:
        self._system = system
        self._call = life.call

    async def resolve(self) -> Collection | None:
        return await self.describe(self._system.alias)

    async def describe(self, name: str) -> Collection | None:
        def work() -> Collection | None:
            kept = self._system.kept.get(name)
            version = int(name.rpartition("m")[2])
            return None if kept is None else replace(Collection.of(version, DIMENSION, ""), state=kept.get("state", ""))

        found: Collection | None = await self._call(work)
        return found

    async def create_collection(self, version: int, dimension: int, preprocessing: str) -> Collection:
        made = Collection.of(version, dimension, preprocessing)
        await self._call(lambda: self._system.kept.setdefault(made.name, {}))
        return made

    async def set_alias(self, name: str) -> None:
        await self._call(lambda: setattr(self._system, "alias", name))

    async def drop(self, name: str) -> None:
        def work() -> None:
            assert name != self._system.alias
            assert name not in self._system.seen, f"a gateway may search {name}"
            self._system.kept.pop(name, None)

        await self._call(work)

    async def keep(self, name: str, properties: Mapping[str, str]) -> None:
        def work() -> None:
            self._system.kept[name].update(properties)
            state = self._system.state
            # gateways act by a new state at once, and by the old one until they have acknowledged
            self._system.seen |= {self._system.alias, state.mirror} - {""}

        await self._call(work)

    async def kept(self, name: str, prop: str) -> str:
        return str(await self._call(lambda: self._system.kept.get(name, {}).get(prop, "")))


class Agreement:
    def __init__(self, system: System, life: Life) -> None:
        self._system = system
        self._call = life.call

    async def reached(self, state: RolloutState, limit_s: float) -> None:
        def work() -> None:
            if self._system.state.seq < state.seq:
                raise Unavailable(f"{state.seq} was never published")
            self._system.seen = {self._system.alias, self._system.state.mirror} - {""}

        await self._call(work)

    async def log_is_whole(self, collection: Collection, state: RolloutState) -> None:
        await self._call(lambda: None)


class Log:
    def __init__(self, system: System, life: Life) -> None:
        self._system = system
        self._call = life.call

    async def open(self, log: str) -> None:
        await self._call(lambda: self._system.logs.add(log))

    async def close(self, log: str) -> None:
        await self._call(lambda: self._system.logs.discard(log))

    async def read(self, log: str, after: str, count: int, *, until: str = "") -> list[Entry]:
        await self._call(lambda: None)
        return []

    async def last(self, log: str) -> str:
        return str(await self._call(lambda: "0-0"))


class Encoder:
    def __init__(self, system: System, life: Life) -> None:
        self._system = system
        self._call = life.call

    async def loaded_versions(self) -> set[int]:
        return set(await self._call(lambda: self._system.loaded))

    async def load(self, models: Path, versions: set[int]) -> None:
        await self._call(lambda: self._system.loaded.update(versions))

    async def keep_only(self, models: Path, versions: set[int]) -> None:
        await self._call(lambda: self._system.loaded.intersection_update(versions))


class Index:
    def __init__(self, system: System, life: Life) -> None:
        self.collections = Collections(system, life)

    async def count(self, collection: Collection) -> int:
        return 0

    async def fingerprints(self, collection: Collection, after: str, limit: int) -> list[Any]:
        return []

    async def product_rows(self, collection: Collection, ids: list[str], *, vectors: bool) -> dict[str, Any]:
        return {}


@pytest.fixture
def in_no_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """What waits for time to pass does not, and every version has files."""
    for module in (follower, mirroring):
        monkeypatch.setattr(module, "GATEWAY_TTL_S", 0.0)
    for module, name in ((follower, "_POLL_S"), (stages, "_POLL_S"), (follower, "_RETRY_S"), (walk, "_RETRY_S")):
        monkeypatch.setattr(module, name, 0.001)
    monkeypatch.setattr(walk, "_AGAIN_S", 0.001)

    async def manifest_of(self: Mirroring, version: int) -> Any:
        return SimpleNamespace(dimension=DIMENSION, side=8, served_variant=SimpleNamespace(sha256=f"file {version}"))

    monkeypatch.setattr(Mirroring, "manifest_of", manifest_of)


def parts_of(system: System, life: Life) -> Parts:
    """What a service works with; what needs pictures is left out."""
    parts: dict[str, Any] = {
        "models": Path(),
        "index": Index(system, life),
        "encoder": Encoder(system, life),
        "log": Log(system, life),
        "agreement": Agreement(system, life),
    }
    return Parts(**parts, **dict.fromkeys(("images", "decoder", "samples", "pace")))


async def live(system: System, life: Life, until: Callable[[System], bool], command: Any = None) -> None:
    """A service walks until the system is as wanted, or it is dead.

    Args:
        command: called with the walk once it goes.
    """
    parts = parts_of(system, life)
    board = Board(parts.index)
    walking = Walk(parts, board)

    async def work() -> None:
        await walking.read()
        running = asyncio.create_task(walking.run())
        commanding = asyncio.create_task(command(walking)) if command else None
        try:
            while not until(system):
                await asyncio.sleep(0.001)
                if running.done():
                    running.result()
                if commanding and commanding.done():
                    commanding.result()
        finally:
            for task in (running, commanding):
                if task:
                    task.cancel()
                    await asyncio.gather(task, return_exceptions=True)

    async with asyncio.timeout(10):
        tasks = [asyncio.create_task(work()), asyncio.create_task(life.dead.wait())]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            results = await asyncio.gather(*tasks, return_exceptions=True)
    if not life.dead.is_set() and isinstance(results[0], BaseException):
        raise results[0]


async def deaths(system: System) -> AsyncIterator[tuple[System, Life]]:
    """The system again and again, each time with a service that dies, or whose call fails, one call later than before.

    Ends after the one that lived to its end.
    """
    for fails in (False, True):
        for late in (False, True):
            for calls in range(1000):
                life = Life(calls, late=late, fails=fails)
                yield system.copy(), life
                if life.outlived:
                    break
