"""Fixtures: the real engines, started once a session, and whole stacks for tests that maltreat them.

Encoder version 1 is built once and kept inside the environment, so that a second run of the tests starts at once.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import signal
import sys
from collections.abc import AsyncIterator, Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from services.cli.models import init_models
from services.common.manifest import MANIFEST_FILE, MODEL_NAME
from services.export.adding import add, manifest_beside
from services.local import milvus, ports, redis, triton
from services.local.engines import Engines
from services.local.installing import install
from services.local.ports import PortPicker
from services.local.stack import LocalStack
from services.local.supervisor import Supervisor

# these need the training environment: see `make test-training`
collect_ignore = [] if find_spec("torch") else ["trainer"]

ROOT = Path(__file__).parents[1]
KEPT_ENCODER = ROOT / "recipes" / "grocery-encoder.onnx"
SHARED = Path(os.environ.get("LOOKALIKE_SHARED", ROOT.parent / "shared"))

# tests run in several processes, which share nothing but what is built once; each has ports of its own, or two of them
# could find the same one free
_WORKER = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
_PORTS = len(ports.FREE_PORTS) // int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
ports.FREE_PORTS = ports.FREE_PORTS[_WORKER * _PORTS : (_WORKER + 1) * _PORTS]


# whoever is started in the background ignores Ctrl-C, and what it starts would, too
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def engines() -> Engines:
    found = Engines.default()
    install(found)
    return found


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder beside the repository that holds photographs and the service to be compared with."""
    if not SHARED.is_dir():
        pytest.skip(f"needs {SHARED} (or LOOKALIKE_SHARED)")
    return SHARED


@pytest.fixture(scope="session")
def grocery(shared: Path) -> Path:
    return shared / "data" / "grocery"


@pytest.fixture(scope="session")
def model_repository() -> Path:
    """With encoder version 1, as `lookalike models init` builds it."""
    services = ROOT / "services"
    sources = sorted([*(services / "export").glob("*.py"), services / "evaluation" / "inference.py"])
    config = ROOT / "model_repository" / MODEL_NAME / "config.pbtxt"
    sources += [services / "common" / "images.py", config]
    key = hashlib.sha256(b"".join(path.read_bytes() for path in sources)).hexdigest()[:16]
    repository = Path(sys.prefix) / "test-models" / key
    (repository / MODEL_NAME).mkdir(parents=True, exist_ok=True)
    with repository.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (repository / MODEL_NAME / "1" / MANIFEST_FILE).exists():
            shutil.copy(config, repository / MODEL_NAME / "config.pbtxt")
            photographs = SHARED / "data" / "grocery"
            init_models(repository, photographs if photographs.is_dir() else None)
    return repository


@pytest.fixture(scope="session")
def kept_repository(model_repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With version 1, and the encoder that is kept in recipes/ as version 2."""
    repository = tmp_path_factory.mktemp("kept") / "models"
    shutil.copytree(model_repository, repository)
    add(repository / MODEL_NAME, KEPT_ENCODER, manifest_beside(KEPT_ENCODER))
    return repository


@pytest.fixture(scope="session")
async def triton_url(
    engines: Engines, model_repository: Path, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[str]:
    """gRPC address of a Triton that serves `model_repository`."""
    data, picker = tmp_path_factory.mktemp("triton"), PortPicker()
    ports = triton.TritonPorts(*(picker.pick("Triton") for _ in range(3)))
    program = triton.program(engines, model_repository, MODEL_NAME, data, data / "log", ports)
    async with Supervisor(program):
        yield f"127.0.0.1:{ports.grpc}"


@pytest.fixture(scope="session")
async def redis_url(engines: Engines, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[str]:
    data, port = tmp_path_factory.mktemp("redis"), PortPicker().pick("Redis")
    async with Supervisor(redis.program(engines, data, data / "log", port)):
        yield f"redis://127.0.0.1:{port}/0"


@pytest.fixture(scope="session", params=["lite", "standalone"])
async def milvus_uri(
    request: pytest.FixtureRequest, engines: Engines, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[str]:
    """Each test that takes it runs against Milvus Lite and against the real standalone binary."""
    data, picker = tmp_path_factory.mktemp(request.param), PortPicker()
    port = picker.pick("Milvus")
    if request.param == "lite":
        program = milvus.lite_program(data / "data", data / "log", port)
    else:
        program = milvus.standalone_program(engines, data / "data", data / "log", port, picker)
    async with Supervisor(program):
        yield f"http://127.0.0.1:{port}"


@pytest.fixture(scope="session")
def make_stack(
    engines: Engines, model_repository: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., LocalStack]:
    """Makes stacks of one's own: `async with make_stack(milvus="standalone", gateways=2) as stack`."""

    def make(**options: Any) -> LocalStack:
        options = {"model_repository": model_repository, "engines": engines, **options}
        return LocalStack(tmp_path_factory.mktemp("stack"), **options)

    return make


@pytest.fixture(scope="session")
async def stack(make_stack: Callable[..., LocalStack]) -> AsyncIterator[LocalStack]:
    """A whole system on Milvus Lite that well-behaved tests share."""
    async with make_stack() as stack:
        yield stack


@pytest.fixture(scope="session")
async def stack_standalone(make_stack: Callable[..., LocalStack]) -> AsyncIterator[LocalStack]:
    """The same on the real standalone Milvus."""
    async with make_stack(milvus="standalone") as stack:
        yield stack


@pytest.fixture(scope="session", params=["stack", "stack_standalone"])
def either_stack(request: pytest.FixtureRequest) -> LocalStack:
    """On Milvus Lite, and on the real standalone engine: both must answer the same."""
    found: LocalStack = request.getfixturevalue(request.param)
    return found
