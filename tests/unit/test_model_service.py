"""ModelService and Operations over gRPC, with a stand-in for what walks."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
import grpc.aio
import pytest
from google.longrunning import operations_pb2, operations_pb2_grpc
from google.protobuf import duration_pb2
from lookalike.v1 import model_pb2, model_pb2_grpc

from services.backends.live_samples import Sample
from services.rollout.models import ModelInfo, ModelState
from services.rollout.record import Gate, GateRow, Missing, Options, Progress, Rollout, Stage, Status
from tests.integration.shop import details, status_details
from tests.unit.rollouts import StandIn, served
from tests.unit.test_rollout_models import manifest

CODES = grpc.StatusCode
PATIENCE_S = 60


class Service:
    def __init__(self, rollouts: StandIn, channel: grpc.aio.Channel) -> None:
        self.rollouts = rollouts
        self.models = model_pb2_grpc.ModelServiceStub(channel)
        self._operations = operations_pb2_grpc.OperationsStub(channel)

    async def start(self, version: int = 2, **options: Any) -> operations_pb2.Operation:
        request = model_pb2.RolloutModelRequest(name=f"models/{version}", **options)
        return await self.models.RolloutModel(request, timeout=PATIENCE_S)

    async def call(self, method: str, timeout_s: float = PATIENCE_S, **request: Any) -> Any:
        """A method of Operations, with its request's fields."""
        message = getattr(operations_pb2, f"{method}Request")(**request)
        return await getattr(self._operations, method)(message, timeout=timeout_s)

    async def rollout(self, name: str = "") -> model_pb2.Rollout:
        return await self.models.GetRollout(model_pb2.GetRolloutRequest(name=name), timeout=PATIENCE_S)


@pytest.fixture
async def service() -> AsyncIterator[Service]:
    rollouts = StandIn()
    async with served(rollouts) as address, grpc.aio.insecure_channel(address) as channel:
        yield Service(rollouts, channel)


def metadata(operation: operations_pb2.Operation) -> model_pb2.Rollout:
    into = model_pb2.RolloutModelMetadata()
    assert operation.metadata.Unpack(into)
    return into.rollout


async def refused(call: Any) -> tuple[grpc.StatusCode, str, dict[str, str]]:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    info = details(caught.value)["ErrorInfo"]
    return caught.value.code(), info.reason, dict(info.metadata)


async def test_a_rollout_is_an_operation_until_the_version_serves(service: Service) -> None:
    operation = await service.start(canary=0.1, retention=duration_pb2.Duration(seconds=60))
    assert (operation.name, operation.done) == ("operations/r1", False)
    assert service.rollouts.asked == [(2, Options(canary=0.1, retention_s=60))]
    waiting = asyncio.create_task(service.call("WaitOperation", name=operation.name))
    service.rollouts.retention_end = 2e9
    await service.rollouts.becomes(stage=Stage.RETENTION, status=Status.SUCCEEDED, freeze_s=0.25)
    done = await waiting
    assert done.done
    answer = model_pb2.RolloutModelResponse()
    assert done.response.Unpack(answer)
    assert answer.rollout == metadata(done) == await service.rollout()
    assert (answer.rollout.model, answer.rollout.stage) == ("models/2", model_pb2.ROLLOUT_STAGE_RETENTION)
    assert answer.rollout.freeze.nanos == 250_000_000
    assert answer.rollout.retention_end.seconds == 2_000_000_000


async def test_a_retention_ends_where_the_next_begins(service: Service) -> None:
    await service.start()
    await service.rollouts.becomes(stage=Stage.RETENTION, status=Status.SUCCEEDED)
    await service.models.RollbackModel(model_pb2.RollbackModelRequest())
    service.rollouts.retention_end = 2e9
    # while it goes back, the one before is kept still
    assert (await service.rollout("rollouts/r1")).HasField("retention_end")
    await service.rollouts.becomes(stage=Stage.RETENTION, status=Status.SUCCEEDED)
    assert not (await service.rollout("rollouts/r1")).HasField("retention_end")
    found = await service.rollout("rollouts/r2")
    assert (found.rollback, found.model, found.retention_end.seconds) == (True, "models/1", 2_000_000_000)


async def test_a_second_one_is_aborted_with_the_name_of_the_first(service: Service) -> None:
    await service.start()
    for call in (service.start(3), service.models.RollbackModel(model_pb2.RollbackModelRequest())):
        assert await refused(call) == (CODES.ABORTED, "ROLLOUT_RUNNING", {"rollout": "rollouts/r1"})


@pytest.mark.parametrize(
    ("changes", "code", "reason", "said"),
    [
        ({"status": Status.CANCELLED}, CODES.CANCELLED, "ROLLOUT_CANCELLED", "rollouts/r1 was cancelled"),
        (
            {"status": Status.FAILED, "reason": "GATE_FAILED", "message": "recall@1 fell", "stage": Stage.GATE},
            CODES.FAILED_PRECONDITION,
            "GATE_FAILED",
            "recall@1 fell",
        ),
        ({"status": Status.FAILED, "message": "why"}, CODES.FAILED_PRECONDITION, "ROLLOUT_FAILED", "why"),
    ],
)
async def test_how_it_ended_is_the_operations_error(
    service: Service, changes: dict[str, Any], code: grpc.StatusCode, reason: str, said: str
) -> None:
    operation = await service.start()
    await service.rollouts.becomes(**changes)
    found = await service.call("GetOperation", name=operation.name)
    assert found.WhichOneof("result") == "error"
    info = status_details(found.error)["ErrorInfo"]
    assert (found.error.code, info.reason, found.error.message) == (code.value[0], reason, said)
    assert info.metadata["rollout"] == metadata(found).name == "rollouts/r1"


async def test_a_record_is_told_whole(service: Service) -> None:
    row = GateRow("", 100, (0.5, 0.75), (0.6, 0.8), (0.7, 0.9), compatible=0.65)
    poor = GateRow("shoes", 20, (0.9, 0.1), (0.9, 0.2), (0.9, 0.3), failed=True)
    service.rollouts.records = [
        Rollout(
            "r9",
            2,
            1,
            Options(shadow=0.5, canary=0.25, missing=Missing.SKIP),
            stage=Stage.CANARY,
            status=Status.WAITING,
            message="canary at 25%",
            gate=Gate(True, "drawn", (row, poor), (10, 12), 250, compatible=True),
            missing=("a", "b"),
            created=1e9,
            updated=1e9 + 0.5,
            stage_s={"verify": 1.5},
        )
    ]
    service.rollouts.now = Progress(7, 10, 3.5, 2.5, 4)
    service.rollouts.seen = [
        Sample("shadow", 20, 0.9, 0.8, 0.6),
        Sample("canary", 30),
        Sample("serving", 10),
        Sample("canary", 0, failed=True),
    ]
    found = await service.rollout()
    assert (found.name, found.model, found.previous_model) == ("rollouts/r9", "models/2", "models/1")
    assert (found.stage, found.status) == (model_pb2.ROLLOUT_STAGE_CANARY, model_pb2.ROLLOUT_STATUS_WAITING)
    assert (found.message, list(found.missing_originals)) == ("canary at 25%", ["a", "b"])
    assert (found.done, found.total, found.rows_per_second, found.eta.nanos, found.backlog) == (
        7,
        10,
        3.5,
        5 * 10**8,
        4,
    )
    assert (found.create_time.seconds, found.update_time.nanos) == (10**9, 5 * 10**8)
    assert dict(found.stage_seconds) == {"verify": 1.5}
    assert (found.request.canary, found.request.missing_originals) == (0.25, model_pb2.MISSING_ORIGINALS_SKIP)
    assert (found.request.latency_budget.nanos, found.request.retention.seconds) == (250_000_000, 86_400)
    first, second = found.gate.rows
    assert (first.recall_1_before, first.recall_1_after, first.recall_1_compatible) == (0.5, 0.75, 0.65)
    assert (first.recall_5_before, first.recall_5_after, first.ndcg_10_before, first.ndcg_10_after) == (
        0.6,
        0.8,
        0.7,
        0.9,
    )
    assert (second.category, second.queries, second.failed) == ("shoes", 20, True)
    assert not second.HasField("recall_1_compatible")
    assert (found.gate.latency_before_ms, found.gate.latency_after_ms, found.gate.compatible) == (10, 12, True)
    assert (found.shadow.queries, found.shadow.overlap_10, found.shadow.latency_p50_ms) == (1, 0.6, 20)
    assert (found.shadow.similarity_before[2], found.shadow.similarity_after[2]) == (0.8, 0.9)
    assert (found.canary.queries, found.canary.failed, found.canary.latency_p50_ms) == (2, 1, 30)
    assert found.canary.serving_latency_p95_ms == 10
    for field in ("freeze", "retention_end"):
        assert not found.HasField(field)


async def test_one_that_waits_is_promoted_and_one_that_runs_is_cancelled(service: Service) -> None:
    operation = await service.start()
    promote = model_pb2.PromoteRolloutRequest(name="rollouts/r1")
    code, reason, _ = await refused(service.models.PromoteRollout(promote))
    assert (code, reason) == (CODES.FAILED_PRECONDITION, "ROLLOUT_NOT_WAITING")
    await service.rollouts.becomes(status=Status.WAITING)
    assert (await service.models.PromoteRollout(promote)).status == model_pb2.ROLLOUT_STATUS_RUNNING
    cancelled = await service.models.CancelRollout(model_pb2.CancelRolloutRequest(name="rollouts/r1"))
    assert cancelled.status == model_pb2.ROLLOUT_STATUS_CANCELLED
    assert (await service.call("GetOperation", name=operation.name)).error.code == CODES.CANCELLED.value[0]


async def test_an_operation_is_cancelled_once_and_not_while_it_switches(service: Service) -> None:
    operation = await service.start()
    await service.rollouts.becomes(stage=Stage.SWITCH)
    code, reason, _ = await refused(service.call("CancelOperation", name=operation.name))
    assert (code, reason) == (CODES.FAILED_PRECONDITION, "ROLLOUT_SWITCHING")
    await service.rollouts.becomes(stage=Stage.BACKFILL)
    # again it has no effect
    for _ in range(2):
        await service.call("CancelOperation", name=operation.name)
    assert service.rollouts.records[0].status is Status.CANCELLED


async def test_waiting_ends_in_time(service: Service) -> None:
    operation = await service.start()
    brief = duration_pb2.Duration(nanos=10**7)
    assert not (await service.call("WaitOperation", name=operation.name, timeout=brief)).done
    assert not (await service.call("WaitOperation", 0.5, name=operation.name)).done


async def test_operations_come_in_pages(service: Service) -> None:
    for version in (2, 3, 4):
        await service.start(version)
        await service.rollouts.becomes(status=Status.CANCELLED)
    first = await service.call("ListOperations", name="operations", page_size=2)
    second = await service.call("ListOperations", page_size=2, page_token=first.next_page_token)
    assert [each.name for each in (*first.operations, *second.operations)] == [f"operations/r{n}" for n in (3, 2, 1)]
    assert (len(first.operations), second.next_page_token) == (2, "")
    code, reason, _ = await refused(service.call("DeleteOperation", name="operations/r1"))
    assert (code, reason) == (CODES.UNIMPLEMENTED, "NOT_SUPPORTED")


@pytest.mark.parametrize("name", ["operations/", "operations/none", "operations/r1 "])
async def test_what_is_not_there_is_not_found(service: Service, name: str) -> None:
    await service.start()
    for method in ("GetOperation", "WaitOperation", "CancelOperation"):
        assert (await refused(service.call(method, name=name)))[:2] == (CODES.NOT_FOUND, "ROLLOUT_NOT_FOUND")


async def test_without_a_rollout_there_is_none(service: Service) -> None:
    assert (await refused(service.rollout()))[:2] == (CODES.NOT_FOUND, "ROLLOUT_NOT_FOUND")


async def test_names_are_checked(service: Service) -> None:
    stub = service.models
    wrong: list[tuple[Any, str]] = [
        (stub.RolloutModel(model_pb2.RolloutModelRequest(name="2")), "MODEL_NAME_INVALID"),
        (stub.GetModel(model_pb2.GetModelRequest()), "MODEL_NAME_INVALID"),
        (stub.RetireModel(model_pb2.RetireModelRequest(name="models/x")), "MODEL_NAME_INVALID"),
        (stub.PromoteRollout(model_pb2.PromoteRolloutRequest()), "ROLLOUT_NAME_INVALID"),
        (stub.CancelRollout(model_pb2.CancelRolloutRequest(name="r1")), "ROLLOUT_NAME_INVALID"),
        (service.rollout("r1"), "ROLLOUT_NAME_INVALID"),
        (service.call("GetOperation", name="r1"), "OPERATION_NAME_INVALID"),
        (service.call("ListOperations", name="rollouts"), "OPERATION_NAME_INVALID"),
        (stub.RolloutModel(model_pb2.RolloutModelRequest(name="models/2", canary=2)), "INVALID_ARGUMENT"),
    ]
    for call, reason in wrong:
        assert (await refused(call))[:2] == (CODES.INVALID_ARGUMENT, reason)
    assert service.rollouts.asked == []


async def test_models_are_listed_shown_and_retired(service: Service) -> None:
    service.rollouts.made = [
        *(ModelInfo(version, ModelState.AVAILABLE) for version in (11, 10)),
        ModelInfo(2, ModelState.SERVING, "", manifest(2), "products_m2", 7, True),
        ModelInfo(1, ModelState.DAMAGED, "gone"),
    ]
    pages, token = [], ""
    while not pages or token:
        page = await service.models.ListModels(model_pb2.ListModelsRequest(page_size=3, page_token=token))
        pages.append([model.name for model in page.models])
        token = page.next_page_token
    assert pages == [["models/11", "models/10", "models/2"], ["models/1"]]
    found = await service.models.GetModel(model_pb2.GetModelRequest(name="models/2"))
    assert found == model_pb2.Model(
        name="models/2",
        state=model_pb2.MODEL_STATE_SERVING,
        backbone="net",
        precision="int8",
        side=224,
        dimension=256,
        preprocessing="p1",
        metrics={"recall@1": 0.75},
        evaluated_on="shop",
        training_run="run-1",
        created="2026-11-25T18:00:00+00:00",
        collection="products_m2",
        row_count=7,
        loaded=True,
    )
    damaged = await service.models.GetModel(model_pb2.GetModelRequest(name="models/1"))
    assert (damaged.state, damaged.problem) == (model_pb2.MODEL_STATE_DAMAGED, "gone")
    assert (await refused(service.models.GetModel(model_pb2.GetModelRequest(name="models/5"))))[1] == "MODEL_NOT_FOUND"
    # nothing is left of it, and still it was done
    retired = await service.models.RetireModel(model_pb2.RetireModelRequest(name="models/1"))
    assert (retired.name, service.rollouts.asked) == ("models/1", [1])
