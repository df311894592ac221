"""TrainingService and Operations: the real service in a process of its own, over gRPC."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from google.longrunning import operations_pb2, operations_pb2_grpc
from google.protobuf import any_pb2, duration_pb2
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_status import rpc_status
from lookalike.v1 import training_pb2, training_pb2_grpc

from services.common.tether import tethered
from services.trainer.launcher import Launcher
from services.trainer.runs import Run, State
from tests.unit.training import PATIENCE_S, STAND_IN, gone, recipe, recipe_text

CODES = grpc.StatusCode


class Service:
    """One run of `python -m services.trainer`, and a client of it."""

    def __init__(self, process: asyncio.subprocess.Process, address: str, channel: grpc.aio.Channel) -> None:
        self.process = process
        self.address = address
        self.channel = channel
        self.ended = False
        self.training = training_pb2_grpc.TrainingServiceStub(channel)
        self.operations = operations_pb2_grpc.OperationsStub(channel)

    def end(self, number: signal.Signals = signal.SIGTERM) -> None:
        """Once: the second signal would end it the hard way."""
        if not self.ended:
            self.ended = True
            self.process.send_signal(number)

    async def train(self, kind: str, seed: int = 1, **options: bool) -> operations_pb2.Operation:
        request = training_pb2.TrainModelRequest(recipe=recipe_text(kind, seed), **options)
        return await self.training.TrainModel(request, timeout=PATIENCE_S)

    async def get(self, name: str) -> operations_pb2.Operation:
        return await self.operations.GetOperation(operations_pb2.GetOperationRequest(name=name), timeout=PATIENCE_S)

    async def wait(self, name: str, timeout_s: float = PATIENCE_S, **wait: Any) -> operations_pb2.Operation:
        request = operations_pb2.WaitOperationRequest(name=name, **wait)
        return await self.operations.WaitOperation(request, timeout=timeout_s)

    async def cancel(self, name: str) -> None:
        await self.operations.CancelOperation(operations_pb2.CancelOperationRequest(name=name), timeout=PATIENCE_S)

    async def until_epoch(self, name: str, epoch: int = 1) -> training_pb2.TrainModelMetadata:
        async with asyncio.timeout(PATIENCE_S):
            while (found := metadata(await self.get(name))).epoch < epoch:
                await asyncio.sleep(0.02)
        return found

    async def list(self, **request: Any) -> training_pb2.ListTrainingRunsResponse:
        return await self.training.ListTrainingRuns(training_pb2.ListTrainingRunsRequest(**request), timeout=PATIENCE_S)


Start = Callable[[], AbstractAsyncContextManager[Service]]


@pytest.fixture
def start(tmp_path: Path) -> Start:
    """`async with start() as service`; leaving sends SIGTERM unless the service was ended before."""
    (tmp_path / "data").mkdir()

    @contextlib.asynccontextmanager
    async def started() -> AsyncIterator[Service]:
        settings = {
            "SERVER__PORT": "0",
            "SERVER__METRICS_PORT": "0",
            "SERVER__LAME_DUCK_S": "0",
            "MODEL_REPOSITORY": str(tmp_path / "models"),
            "TRAINER__RUNS": str(tmp_path / "runs"),
            "TRAINER__DATA": str(tmp_path / "data"),
            "TRAINER__PYTHON": sys.executable,
            "TRAINER__WORKER": json.dumps([str(STAND_IN)]),
        }
        process = await asyncio.create_subprocess_exec(
            *tethered(sys.executable, "-m", "services.trainer"),
            env=os.environ | {f"LOOKALIKE_{key}": value for key, value in settings.items()},
            stderr=asyncio.subprocess.PIPE,
        )
        assert process.stderr is not None
        log: list[str] = []
        async with asyncio.timeout(PATIENCE_S):
            while not log or json.loads(log[-1])["message"] != "listening":
                line = (await process.stderr.readline()).decode()
                assert line, "".join(log)
                log.append(line)
        address = json.loads(log[-1])["address"]
        draining = asyncio.create_task(process.stderr.read())
        channel = grpc.aio.insecure_channel(address)
        service = Service(process, address, channel)
        try:
            await channel.channel_ready()
            yield service
        finally:
            await channel.close()
            service.end()
            async with asyncio.timeout(PATIENCE_S):
                code = await process.wait()
            log.append((await draining).decode())
        assert code in (0, -signal.SIGKILL), "".join(log)
        assert "traceback" not in "".join(log)

    return started


def metadata(operation: operations_pb2.Operation) -> training_pb2.TrainModelMetadata:
    return unpacked(operation.metadata, training_pb2.TrainModelMetadata())


def response(operation: operations_pb2.Operation) -> training_pb2.TrainModelResponse:
    assert operation.WhichOneof("result") == "response", operation.error
    return unpacked(operation.response, training_pb2.TrainModelResponse())


def error(operation: operations_pb2.Operation) -> tuple[grpc.StatusCode, str, str]:
    """Code, reason and message."""
    assert operation.done
    assert operation.WhichOneof("result") == "error", operation
    return known(operation.error)


async def refused(call: Any) -> tuple[grpc.StatusCode, str, str]:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    status = rpc_status.from_call(caught.value)
    assert status is not None, caught.value
    return known(status)


def known(status: Any) -> tuple[grpc.StatusCode, str, str]:
    info = unpacked(status.details[0], error_details_pb2.ErrorInfo())
    assert info.domain == "lookalike"
    return next(code for code in CODES if code.value[0] == status.code), info.reason, status.message


def unpacked(packed: any_pb2.Any, into: Any) -> Any:
    assert packed.Unpack(into), packed
    return into


def child(tmp_path: Path, kind: str) -> int:
    return int((run_of(tmp_path, kind).folder / "pid").read_text())


def run_of(tmp_path: Path, kind: str, seed: int = 1) -> Run:
    text = recipe(kind, seed).model_copy()
    data = text.data.model_copy(update={"path": str(tmp_path / "data" / "pictures")})
    return Run.named(tmp_path / "runs", text.model_copy(update={"data": data}))


async def test_a_model_is_trained(start: Start, tmp_path: Path) -> None:
    async with start() as service:
        operation = await service.train("good")
        run = run_of(tmp_path, "good")
        assert (operation.name, operation.done) == (f"operations/{run.id}", False)
        done = await service.wait(operation.name)
        result = response(done)
        assert (result.model, result.run.name, result.run.epoch) == ("models/2", f"trainingRuns/{run.id}", 2)
        assert (dict(result.before), dict(result.after)) == (
            {"recall@1": 0.4, "ms": 24.5},
            {"recall@1": 0.6, "ms": 12.25},
        )
        assert result.run.state == training_pb2.TRAINING_RUN_STATE_SUCCEEDED
        assert result.run.create_time.ToDatetime() < result.run.update_time.ToDatetime()
        # it is answered as it is, and not repeated
        assert await service.train("good") == done == await service.get(operation.name)
        assert not (await service.train("good", again=True)).done
        assert response(await service.wait(operation.name)).run.create_time != result.run.create_time


async def test_progress_is_told_and_the_service_stays_responsive(start: Start) -> None:
    async with start() as service:
        operation = await service.train("hang")
        found = await service.until_epoch(operation.name)
        assert (found.stage, found.epoch, found.epochs) == (training_pb2.TRAINING_STAGE_TRAIN, 1, 2)
        assert (found.loss, found.images_per_second, found.eta.seconds) == (1.5, 20, 1)
        assert found.recall_at_1 == pytest.approx(0.3)
        assert found.update_time.ToDatetime() > found.create_time.ToDatetime()
        names = ("", "lookalike.v1.TrainingService", "google.longrunning.Operations")
        for name in names:
            health = await health_pb2_grpc.HealthStub(service.channel).Check(
                health_pb2.HealthCheckRequest(service=name)
            )
            assert health.status == health_pb2.HealthCheckResponse.SERVING
        # waiting ends in time, by what the caller wants or by its deadline
        assert not (await service.wait(operation.name, timeout=duration_pb2.Duration(nanos=10**7))).done
        assert not (await service.wait(operation.name, timeout_s=0.5)).done


async def test_one_run_at_a_time_and_cancel(start: Start, tmp_path: Path) -> None:
    async with start() as service:
        operation = await service.train("hang")
        await service.until_epoch(operation.name)
        for request in (service.train("good"), service.train("hang"), service.train("good", validate_only=True)):
            code, reason, message = await refused(request)
            assert (code, reason) == (CODES.FAILED_PRECONDITION, "DEVICE_BUSY")
            assert run_of(tmp_path, "hang").id in message
        waiting = asyncio.create_task(service.wait(operation.name))
        await service.cancel(operation.name)
        code, reason, _ = error(await waiting)
        assert (code, reason) == (CODES.CANCELLED, "TRAINING_CANCELLED")
        assert gone(child(tmp_path, "hang"))
        # again it has no effect
        await service.cancel(operation.name)
        assert error(await service.get(operation.name))[0] == CODES.CANCELLED
        assert (await service.list()).runs[0].state == training_pb2.TRAINING_RUN_STATE_CANCELLED
        # the same recipe goes on
        assert (await service.train("hang")).name == operation.name
        assert response(await service.wait(operation.name)).model == "models/2"


@pytest.mark.parametrize(
    ("kind", "expected", "said"),
    [
        ("crash", "TRAINING_PROCESS_DIED", "no such layer"),
        ("killed", "TRAINING_PROCESS_DIED", "memory ran out"),
        ("told", "DATA_BROKEN", "3 % of the files are broken"),
    ],
)
async def test_a_failure_is_that_of_its_operation_alone(start: Start, kind: str, expected: str, said: str) -> None:
    async with start() as service:
        operation = await service.train(kind)
        code, reason, message = error(await service.wait(operation.name))
        assert (code, reason) == (CODES.INTERNAL, expected)
        assert said in message
        (run,) = (await service.list()).runs
        assert (run.state, run.error) == (training_pb2.TRAINING_RUN_STATE_FAILED, message)
        good = await service.train("good")
        assert response(await service.wait(good.name)).model == "models/2"


@pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGKILL])
async def test_operations_outlive_the_service(start: Start, tmp_path: Path, end: signal.Signals) -> None:
    async with start() as service:
        good, crash = await service.train("good"), None
        await service.wait(good.name)
        crash = await service.train("crash")
        await service.wait(crash.name)
        hang = await service.train("hang")
        await service.until_epoch(hang.name)
        service.end(end)
        await service.process.wait()
    assert gone(child(tmp_path, "hang"))
    assert run_of(tmp_path, "hang").state().state is (State.STOPPED if end == signal.SIGTERM else State.RUNNING)
    async with start() as service:
        assert response(await service.get(good.name)).model == "models/2"
        assert error(await service.get(crash.name))[1] == "TRAINING_PROCESS_DIED"
        code, reason, message = error(await service.wait(hang.name))
        assert (code, reason) == (CODES.ABORTED, "TRAINING_STOPPED")
        assert "TrainModel with the same recipe goes on" in message
        assert [run.state for run in (await service.list()).runs] == [
            training_pb2.TRAINING_RUN_STATE_STOPPED,
            training_pb2.TRAINING_RUN_STATE_FAILED,
            training_pb2.TRAINING_RUN_STATE_SUCCEEDED,
        ]
        listed = await service.operations.ListOperations(operations_pb2.ListOperationsRequest(name="operations"))
        assert [operation.name for operation in listed.operations] == [hang.name, crash.name, good.name]
        await service.train("hang")
        assert response(await service.wait(hang.name)).run.epoch == 2


async def test_a_stop_of_the_service_ends_who_waits(start: Start) -> None:
    async with start() as service:
        operation = await service.train("hang")
        await service.until_epoch(operation.name)
        waiting = asyncio.create_task(service.wait(operation.name))
        await asyncio.sleep(0.2)
        service.end()
        assert error(await waiting)[1] == "TRAINING_STOPPED"


async def test_a_run_of_the_command_line_is_seen_and_left_alone(start: Start, tmp_path: Path) -> None:
    launcher = Launcher(tmp_path / "runs", tmp_path / "models", Path(sys.executable), worker=(str(STAND_IN),))
    async with start() as service:
        training = await launcher.start(recipe("hang"), lambda event: None)
        assert training is not None
        async with training:
            name = f"operations/{training.run.id}"
            await service.until_epoch(name)
            waiting = asyncio.create_task(service.wait(name))
            code, reason, message = await refused(service.cancel(name))
            assert (code, reason) == (CODES.FAILED_PRECONDITION, "RUN_ELSEWHERE")
            assert str(os.getpid()) in message
            assert (await refused(service.train("good")))[1] == "DEVICE_BUSY"
            await training.stop()
            assert error(await waiting)[1] == "TRAINING_STOPPED"


async def test_validation_changes_nothing(start: Start, tmp_path: Path) -> None:
    async with start() as service:
        operation = await service.train("good", validate_only=True)
        run = run_of(tmp_path, "good")
        assert (operation.name, operation.done) == ("", True)
        assert metadata(operation).run == response(operation).run.name == f"trainingRuns/{run.id}"
        assert not (tmp_path / "runs").exists()
        await service.wait((await service.train("good")).name)
        assert response(await service.train("good", validate_only=True)).run.model == "models/2"


async def test_runs_come_in_pages(start: Start, tmp_path: Path) -> None:
    made = [Run.of(tmp_path / "runs", recipe("good", seed)).id for seed in range(3)]
    async with start() as service:
        first = await service.list(page_size=2)
        second = await service.list(page_size=2, page_token=first.next_page_token)
        assert {run.name for run in (*first.runs, *second.runs)} == {f"trainingRuns/{run}" for run in made}
        assert (len(first.runs), second.next_page_token) == (2, "")
        assert (await refused(service.list(page_token="x")))[1] == "PAGE_TOKEN_INVALID"


async def test_what_is_wrong_is_told_with_its_reason(start: Start, tmp_path: Path) -> None:
    async with start() as service:
        for text in ("name = ", 'name = "x"\n[data]\npath = "/etc"', 'name = "x"\nsize = 3', "#" * 2**17):
            request = training_pb2.TrainModelRequest(recipe=text)
            code, reason, _ = await refused(service.training.TrainModel(request))
            assert (code, reason) == (CODES.INVALID_ARGUMENT, "RECIPE_INVALID")
        assert (await refused(service.get("x")))[:2] == (CODES.INVALID_ARGUMENT, "OPERATION_NAME_INVALID")
        for name in ("none", "", "../runs", "a/b", ".device-cpu.lock"):
            for call in (service.get, service.wait, service.cancel):
                assert (await refused(call(f"operations/{name}")))[:2] == (CODES.NOT_FOUND, "RUN_NOT_FOUND")
        listing = operations_pb2.ListOperationsRequest(filter="done = true")
        assert (await refused(service.operations.ListOperations(listing)))[0] == CODES.INVALID_ARGUMENT
        delete = operations_pb2.DeleteOperationRequest(name="operations/x")
        assert (await refused(service.operations.DeleteOperation(delete)))[0] == CODES.UNIMPLEMENTED


async def test_a_client_of_another_make_gets_along(start: Start) -> None:
    """buf reads the protos by reflection, google.longrunning with them, and unpacks what is in an operation."""
    async with start() as service:

        async def call(method: str, body: dict[str, Any]) -> dict[str, Any]:
            buf = await asyncio.create_subprocess_exec(
                str(Path(sys.prefix) / "bin" / "buf"),
                *("curl", "--protocol", "grpc", "--http2-prior-knowledge", "--data", json.dumps(body)),
                f"http://{service.address}/{method}",
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
            )
            out, err = await buf.communicate()
            assert buf.returncode == 0, err.decode()
            answer: dict[str, Any] = json.loads(out)
            return answer

        operation = await call("lookalike.v1.TrainingService/TrainModel", {"recipe": recipe_text("good")})
        done = await call("google.longrunning.Operations/WaitOperation", {"name": operation["name"]})
        assert done["response"]["model"] == "models/2"
        assert done["metadata"]["@type"].endswith("lookalike.v1.TrainModelMetadata")


async def test_wrong_settings_are_told() -> None:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "services.trainer"),
        env=os.environ | {"LOOKALIKE_TRAINER__DEVICE": "../cpu"},
        stderr=asyncio.subprocess.PIPE,
    )
    _, err = await process.communicate()
    assert process.returncode == 2
    assert "trainer.device" in err.decode()
