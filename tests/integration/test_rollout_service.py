"""What an operator does with rollouts, on the real engines: start, look, promote, cancel, roll back, retire."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import numpy as np
import pytest
from google.longrunning import operations_pb2
from google.protobuf import duration_pb2
from lookalike.v1 import model_pb2

from services.common.manifest import MODEL_FILE
from services.local.stack import LocalStack
from tests.integration.encoders import DIMENSION, make_repository, publish_version, replace_served, tiles
from tests.integration.rollout_operator import WAITING, Operator, rollout_of, stage_of
from tests.integration.shop import OK, Shop, darker, details, picture, product, status_details

pytestmark = pytest.mark.timeout(240)

LOOKALIKE = Path(sys.prefix) / "bin" / "lookalike"
PRODUCTS = 30
GOOD, SLOW, WORSE, TRUNCATED, NOT_FINITE, MISSHAPEN = 2, 3, 4, 5, 6, 7
# no machine is that slow
NO_HURRY = duration_pb2.Duration(seconds=50)


PICTURES = [picture(seed, side=96) for seed in range(PRODUCTS)]
SECOND = [darker(data) for data in PICTURES]


def rotation() -> np.ndarray:
    return np.linalg.qr(np.random.default_rng(1).normal(size=(DIMENSION, DIMENSION)))[0]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    models = make_repository(tmp_path_factory.mktemp("service"))
    publish_version(models, 1, tiles())
    return models


@dataclass
class System:
    stack: LocalStack
    shop: Shop
    operator: Operator

    async def is_untouched(self, version: int) -> None:
        """Version 1 serves, and nothing is left of the other."""
        for address in self.stack.gateway_addresses:
            async with Shop(address) as shop:
                found = await shop.search(PICTURES[3], page_size=3)
                assert found.provenance.model == "models/1"
                assert found.results[0].product.name == "products/p3"
        assert (await self.operator.model(1)).state == model_pb2.MODEL_STATE_SERVING
        other = await self.operator.model(version)
        assert other.state in (model_pb2.MODEL_STATE_AVAILABLE, model_pb2.MODEL_STATE_DAMAGED)
        assert (other.collection, other.row_count, other.loaded) == ("", 0, False)


@pytest.fixture(scope="module")
async def system(make_stack: Callable[..., LocalStack], models: Path) -> AsyncIterator[System]:
    """Two gateways that serve version 1; the others are in the repository."""
    some = np.zeros((DIMENSION, DIMENSION))
    some[:, :3] = rotation()[:, :3]
    async with (
        make_stack(gateways=2, model_repository=models.parent) as stack,
        Shop(stack.gateway_address) as shop,
        Operator(stack) as operator,
    ):
        answers = await shop.upsert(
            product(f"p{n}", PICTURES[n], SECOND[n], title=str(n), category=f"c{n % 2}") for n in range(PRODUCTS)
        )
        assert all(answer.status.code == OK for answer in answers)
        publish_version(models, GOOD, tiles(rotation()))
        publish_version(models, SLOW, tiles(slow_layers=12))
        publish_version(models, WORSE, tiles(some))
        for version in (TRUNCATED, NOT_FINITE, MISSHAPEN):
            publish_version(models, version, tiles())
        file = models / str(TRUNCATED) / MODEL_FILE
        half = file.read_bytes()[:1000]
        file.unlink()
        file.write_bytes(half)
        replace_served(models, NOT_FINITE, lambda good: tiles(scale=float("nan")).SerializeToString())
        replace_served(models, MISSHAPEN, lambda good: tiles(np.eye(DIMENSION, 64)).SerializeToString())
        yield System(stack, shop, operator)


def reason_of(operation: operations_pb2.Operation) -> str:
    return str(status_details(operation.error)["ErrorInfo"].reason)


async def refused(call: Any) -> tuple[grpc.StatusCode, str, dict[str, str]]:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    info = details(caught.value)["ErrorInfo"]
    return caught.value.code(), info.reason, dict(info.metadata)


@pytest.mark.parametrize(
    ("version", "stage", "reason", "options"),
    [
        pytest.param(TRUNCATED, "verify", "MODEL_DAMAGED", {}, id="truncated"),
        pytest.param(NOT_FINITE, "verify", "MODEL_CONTRACT_BROKEN", {}, id="not finite"),
        pytest.param(MISSHAPEN, "verify", "DIMENSION_MISMATCH", {}, id="misshapen"),
        pytest.param(WORSE, "gate", "GATE_FAILED", {"latency_budget": NO_HURRY}, id="worse"),
        pytest.param(
            GOOD, "gate", "LATENCY_OVER_BUDGET", {"latency_budget": duration_pb2.Duration(nanos=1000)}, id="slow"
        ),
    ],
)
async def test_a_bad_version_is_refused_with_its_reason(
    system: System, version: int, stage: str, reason: str, options: dict[str, Any]
) -> None:
    done = await system.operator.ended(await system.operator.start(version, **options))
    rollout = rollout_of(done)
    assert (reason_of(done), stage_of(rollout), rollout.reason) == (reason, stage, reason)
    assert rollout.status == model_pb2.ROLLOUT_STATUS_FAILED
    assert rollout.message == done.error.message
    # the table that it was refused by
    assert bool(rollout.gate.rows) == (stage == "gate")
    await system.is_untouched(version)


async def test_validating_changes_nothing(system: System) -> None:
    operation = await system.operator.start(GOOD, validate_only=True, latency_budget=NO_HURRY)
    done = await system.operator.ended(operation)
    answer = model_pb2.RolloutModelResponse()
    assert done.response.Unpack(answer), done
    assert answer.rollout.gate.passed
    assert answer.rollout.gate.rows[0].queries > 0
    await system.is_untouched(GOOD)


async def test_missing_originals_are_the_operators_choice(system: System) -> None:
    image = (await system.shop.get("products/p5")).images[1]
    root = Path(system.stack.image_store_url.removeprefix("file://"))
    (original,) = root.glob(f"**/{image.sha256}")
    kept = original.read_bytes()
    original.unlink()
    try:
        done = await system.operator.ended(await system.operator.start(GOOD, latency_budget=NO_HURRY))
        assert (reason_of(done), stage_of(rollout_of(done))) == ("ORIGINALS_MISSING", "backfill")
        assert list(rollout_of(done).missing_originals) == ["p5"]
        assert (await system.shop.search(PICTURES[3])).provenance.model == "models/1"

        skip = model_pb2.MISSING_ORIGINALS_SKIP
        operation = await system.operator.start(GOOD, latency_budget=NO_HURRY, missing_originals=skip)
        rollout = await system.operator.waits_in("drain")
        assert list(rollout.missing_originals) == ["p5"]
        assert (await system.operator.model(GOOD)).row_count == 2 * PRODUCTS - 1
        await system.operator.cancel()
        assert reason_of(await system.operator.ended(operation)) == "ROLLOUT_CANCELLED"
    finally:
        original.write_bytes(kept)
    await system.is_untouched(GOOD)


@pytest.mark.parametrize("stage", ["verify", "gate", "backfill", "canary", "check"])
async def test_what_is_cancelled_leaves_nothing(system: System, stage: str) -> None:
    """As after the drain, above; tests/unit/test_rollout_deaths.py cancels at each call."""
    operator = system.operator
    # a slow one stays long enough in the first stages
    version = SLOW if stage in ("verify", "gate", "backfill") else GOOD
    canary = 0.5 if stage == "canary" else 0.0
    operation = await operator.start(version, latency_budget=NO_HURRY, canary=canary)
    if stage == "check":
        await operator.waits_in("drain")
        # the check waits for this one to acknowledge
        system.stack.signal("gateway2", signal.SIGSTOP)
    try:
        if stage == "check":
            await operator.promote()
        if stage != "verify":
            await operator.when(lambda now: stage_of(now) == stage and (stage != "canary" or now.status == WAITING))
        await operator.cancel()
    finally:
        system.stack.signal("gateway2", signal.SIGCONT)
    done = await operator.ended(operation)
    assert (done.error.code, reason_of(done)) == (grpc.StatusCode.CANCELLED.value[0], "ROLLOUT_CANCELLED")
    assert stage_of(rollout_of(done)) == stage
    await system.is_untouched(version)


async def test_there_and_back_again(system: System) -> None:
    operator, shop = system.operator, system.shop
    operation = await operator.start(GOOD, latency_budget=NO_HURRY, canary=0.5, shadow=1.0)
    rollout = rollout_of(operation)
    assert operation.name == rollout.name.replace("rollouts/", "operations/")
    assert (rollout.model, rollout.previous_model, rollout.request.canary) == ("models/2", "models/1", 0.5)
    # one at a time
    first = {"rollout": rollout.name}
    for call in (operator.start(SLOW), operator.rollback(), operator.retire(SLOW)):
        assert await refused(call) == (grpc.StatusCode.ABORTED, "ROLLOUT_RUNNING", first)

    await operator.waits_in("shadow")
    for n in range(8):
        assert (await shop.search(PICTURES[n], caller=f"caller-{n}")).provenance.model == "models/1"
    shadow = (await operator.when(lambda now: now.shadow.queries > 0)).shadow
    assert (shadow.failed, shadow.overlap_10) == (0, pytest.approx(1.0))
    assert (await operator.model(GOOD)).state == model_pb2.MODEL_STATE_ROLLING_OUT

    await operator.promote()
    await operator.waits_in("canary")
    answered = {n: (await shop.search(PICTURES[n], caller=f"caller-{n}")).provenance.model for n in range(12)}
    assert set(answered.values()) == {"models/1", "models/2"}
    for n, model in answered.items():
        # the same caller by the same version, whichever gateway it asks
        async with Shop(system.stack.gateway_addresses[1]) as other:
            assert (await other.search(PICTURES[n], caller=f"caller-{n}")).provenance.model == model
    canary = (await operator.when(lambda now: now.canary.queries > 0)).canary
    assert canary.failed == 0

    told = json.loads(await lookalike("rollout", "status", "--json", "--rollout-address", system.stack.rollout_address))
    assert (told["name"], told["stage"], told["status"]) == (
        rollout.name,
        "ROLLOUT_STAGE_CANARY",
        "ROLLOUT_STATUS_WAITING",
    )
    await operator.promote()
    assert await refused(operator.promote()) == (grpc.StatusCode.FAILED_PRECONDITION, "ROLLOUT_NOT_WAITING", {})
    done = await operator.ended(operation)
    answer = model_pb2.RolloutModelResponse()
    assert done.response.Unpack(answer), done
    assert (stage_of(answer.rollout), answer.rollout.status) == ("retention", model_pb2.ROLLOUT_STATUS_SUCCEEDED)
    assert answer.rollout.freeze.ToMicroseconds() > 0
    assert answer.rollout.retention_end.seconds > 0
    assert (await shop.search(PICTURES[3])).provenance.model == "models/2"
    assert (await operator.model(1)).state == model_pb2.MODEL_STATE_RETAINED
    assert await refused(operator.start(SLOW)) == (grpc.StatusCode.FAILED_PRECONDITION, "RETENTION_RUNNING", {})

    # what is written while version 2 serves is there after the rollback
    (written,) = await shop.upsert([product("new", picture(1000, side=96))])
    assert written.status.code == OK
    done = await operator.ended(await operator.rollback())
    assert (rollout_of(done).rollback, rollout_of(done).model) == (True, "models/1")
    found = await shop.search(picture(1000, side=96))
    assert (found.provenance.model, found.results[0].product.name) == ("models/1", "products/new")
    await shop.delete("products/new")

    retired = await operator.retire(GOOD)
    assert (retired.state, retired.collection) == (model_pb2.MODEL_STATE_AVAILABLE, "")
    assert stage_of(await operator.now()) == "retired"
    await system.is_untouched(GOOD)
    assert await refused(operator.rollback()) == (grpc.StatusCode.FAILED_PRECONDITION, "NOTHING_RETAINED", {})


async def lookalike(*arguments: str) -> str:
    process = await asyncio.create_subprocess_exec(
        LOOKALIKE, *arguments, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    out, err = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode == 0, err.decode()
    return out.decode()
