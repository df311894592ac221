"""Which version answers whom, in a gateway that does not hear of Redis."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from services.backends.index import Collection
from services.common.images import PREPROCESSING
from services.common.rollout_state import RolloutState
from services.gateway import serving as module
from services.gateway.serving import Serving
from services.gateway.settings import ServingSettings


class Index:
    """One that serves version 1, and the collection of version 2 that follows."""

    def __init__(self, state: RolloutState) -> None:
        self.collections = self
        self.state = state

    async def resolve(self) -> Collection:
        return Collection("products_m1", 1, 4, PREPROCESSING, state=self.state.to_json())

    async def describe(self, name: str) -> Collection:
        return Collection("products_m2", 2, 4, PREPROCESSING)

    async def ensure_loaded(self, name: str) -> None:
        pass


@pytest.fixture
def index(monkeypatch: pytest.MonkeyPatch) -> Index:
    async def check_golden(encoder: Any, manifest: Any) -> float:
        return 1.0

    manifest = SimpleNamespace(preprocessing=PREPROCESSING, dimension=4, side=8)
    monkeypatch.setattr(module, "check_golden", check_golden)
    monkeypatch.setattr(module.Manifest, "read", lambda folder: manifest)
    state = RolloutState(3, log="a", mirror="products_m2", mirror_version=2, canary=0.5)
    return Index(state)


async def started(index: Any) -> Serving:
    class Encoder:
        async def load(self, models: Path, versions: set[int]) -> None:
            pass

    encoder: Any = Encoder()
    serving = Serving(ServingSettings(), Path(), index, encoder)
    await serving.prepare()
    return serving


CALLERS = [f"caller-{n}" for n in range(200)]


async def sides(serving: Serving) -> dict[str, str]:
    """Without `trust`: each search reads the alias anew, as it does without Redis."""
    return {caller: (await serving.pair(caller)).collection.name for caller in CALLERS}


async def test_a_caller_stays_on_its_side_when_the_change_log_is_begun_anew(index: Index) -> None:
    serving = await started(index)
    before = await sides(serving)
    share = sum(name == "products_m2" for name in before.values()) / len(CALLERS)
    assert 0.4 < share < 0.6
    index.state = index.state.after(log="b")
    assert await sides(serving) == before
    # in the next rollout others are chosen
    index.state = index.state.after(turn=2)
    assert await sides(serving) != before


async def test_a_collection_is_let_go_of_when_no_search_is_in_it(index: Index) -> None:
    serving = await started(index)
    caller = next(caller for caller, name in (await sides(serving)).items() if name == "products_m2")
    with serving.searching((await serving.pair(caller)).collection):
        assert serving.lets_go()
        index.state = index.state.after(mirror="", mirror_version=0, canary=0.0)
        await serving.refresh()
        assert not serving.lets_go()
        with serving.searching((await serving.pair(caller)).collection):
            assert not serving.lets_go()
    assert serving.lets_go()


async def test_a_gateway_that_is_started_again_answers_callers_as_before(index: Index) -> None:
    """No search comes before the mirror's version is verified."""
    before = await sides(await started(index))
    serving = await started(index)
    assert await sides(serving) == before
    assert serving.versions() == {1, 2}
