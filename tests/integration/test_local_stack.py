"""`lookalike up` as an operator uses it: starts, says where, ends everything, keeps the data; refuses clearly."""

from __future__ import annotations

import asyncio
import random
import signal
import socket
import subprocess
import sys
from pathlib import Path

import grpc.aio
import psutil
import pytest
from pymilvus import AsyncMilvusClient, DataType, MilvusClient

from services.local import milvus
from services.local.ports import PortPicker
from services.local.probes import grpc_serving
from services.local.supervisor import Supervisor
from tests.integration.shop import OK, Shop, ids, picture, product

pytestmark = pytest.mark.timeout(240)


def start(data: Path, repository: Path, *options: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "services.cli", "up", "--data", str(data), "--model-repository", str(repository)]
    # another one may run on this machine; an option that comes later wins
    return subprocess.Popen(
        [*command, "--rollout-port", "0", *options], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


async def serving(process: subprocess.Popen[str], *addresses: str) -> list[psutil.Process]:
    """Waits until these serve; all the processes it has started."""
    async with asyncio.timeout(120):
        for address in addresses:
            while not await grpc_serving(address):
                assert process.poll() is None, process.communicate()
                await asyncio.sleep(0.2)
    return psutil.Process(process.pid).children(recursive=True)


def ended(process: subprocess.Popen[str], number: signal.Signals) -> tuple[str, str]:
    process.send_signal(number)
    try:
        return process.communicate(timeout=60)
    finally:
        process.kill()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
async def test_up_ends_every_child_and_finds_its_data_again(
    engines, model_repository: Path, tmp_path: Path, number: signal.Signals
) -> None:
    picker = PortPicker()
    ports = {option: str(picker.pick(option)) for option in ("--port", "--metrics-port", "--rollout-port")}
    options = [text for option in ports.items() for text in option]
    # the rollout service is the last to start
    address, last = f"127.0.0.1:{ports['--port']}", f"127.0.0.1:{ports['--rollout-port']}"
    process = start(tmp_path, model_repository, *options)
    children = await serving(process, address, last)
    assert len(children) >= 6
    async with Shop(address) as shop:
        assert (await shop.upsert([product("p1", picture(1))]))[0].status.code == OK
        second = start(tmp_path, model_repository, "--port", str(picker.pick("gateway")))
        _, complaint = second.communicate(timeout=60)
        assert second.returncode == 1
        assert "in use by another" in complaint
    out, _ = ended(process, number)
    _, alive = psutil.wait_procs(children, timeout=15)
    assert not alive
    if number != signal.SIGKILL:
        assert process.returncode == 0
        assert address in out
        assert last in out
    again = start(tmp_path, model_repository, *options)
    await serving(again, address, last)
    async with Shop(address) as shop:
        assert ids(await shop.search(picture(1))) == ["p1"]
    ended(again, signal.SIGTERM)
    assert again.returncode == 0


def test_a_port_in_use_is_named(engines, model_repository: Path, tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        process = start(tmp_path, model_repository, "--port", port)
        _, complaint = process.communicate(timeout=60)
    assert process.returncode == 1
    assert port in complaint
    assert "in use" in complaint


def test_a_missing_engine_is_named(model_repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOOKALIKE_ENGINES", str(tmp_path / "none"))
    process = start(tmp_path, model_repository, "--port", "0", "--metrics-port", "0")
    _, complaint = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "lookalike engines install" in complaint


async def test_milvus_lite_behind_our_launcher_loses_no_acknowledged_row(tmp_path: Path) -> None:
    """Six writers at once and a SIGKILL: the engine by itself loses almost everything then."""
    port = PortPicker().pick("Milvus")
    program = milvus.lite_program(tmp_path / "data", tmp_path / "log", port)
    acknowledged: set[str] = set()
    async with Supervisor(program) as supervisor:
        client = AsyncMilvusClient(f"http://127.0.0.1:{port}", dedicated=True)
        schema = client.create_schema(auto_id=False)
        schema.add_field("id", DataType.VARCHAR, max_length=64, is_primary=True)
        schema.add_field("vector", DataType.FLOAT_VECTOR, dim=8)
        await client.create_collection("rows", schema=schema)

        async def write(writer: int) -> None:
            for number in range(10_000):
                rows = [
                    {"id": f"{writer}-{number}-{i}", "vector": [random.random() for _ in range(8)]} for i in range(5)
                ]
                try:
                    async with asyncio.timeout(5):
                        await client.upsert("rows", rows)
                except Exception:
                    return
                acknowledged.update(row["id"] for row in rows)

        writers = [asyncio.create_task(write(writer)) for writer in range(6)]
        await asyncio.sleep(4)
        await supervisor.kill()
        await asyncio.gather(*writers)
        await client.close()
        await supervisor.ready(60)
        found = await asyncio.to_thread(_stored, port, sorted(acknowledged))
    assert len(acknowledged) > 300
    assert found == acknowledged


def _stored(port: int, wanted: list[str]) -> set[str]:
    """Which of these rows a client that knows nothing of the crash finds."""
    client = MilvusClient(f"http://127.0.0.1:{port}", dedicated=True)
    index = client.prepare_index_params()
    index.add_index("vector", index_type="FLAT", metric_type="COSINE")
    client.create_index("rows", index)
    client.load_collection("rows")
    pages = (wanted[first : first + 1000] for first in range(0, len(wanted), 1000))
    found = {row["id"] for ids in pages for row in client.query("rows", ids=ids, output_fields=["id"])}
    client.close()
    return found


async def test_a_part_that_is_killed_comes_back_by_itself(make_stack) -> None:
    async with make_stack() as stack, Shop(stack.gateway_address) as shop:
        assert (await shop.upsert([product("p1", picture(1))]))[0].status.code == OK
        for part in ("redis", "milvus", "triton", "gateway", "rollout"):
            before = stack.pid(part)
            await stack.kill(part)
            await stack.ready(part, 60)
            assert stack.pid(part) not in (None, before)
        async with asyncio.timeout(30):
            while True:
                try:
                    assert ids(await shop.search(picture(1))) == ["p1"]
                    break
                except grpc.aio.AioRpcError:
                    await asyncio.sleep(0.2)
