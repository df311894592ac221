"""The checks of deploy/: they pass on what is committed, and each one notices what it is there for."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType
from typing import Any

import grpc
import pytest
import yaml
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

ROOT = Path(__file__).resolve().parents[2]


def load(name: str) -> ModuleType:
    """A script of deploy/, which is no package."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "deploy" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


check_compose = load("check_compose")
check_stubs = load("check_stubs")
healthcheck = load("healthcheck")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A copy of what check_compose reads."""
    shutil.copy(ROOT / "docker-compose.yml", tmp_path)
    shutil.copytree(ROOT / "deploy", tmp_path / "deploy", ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path


def change(root: Path, edit: Callable[[dict[str, Any]], object]) -> list[str]:
    """The problems of the compose file after `edit`."""
    path = root / "docker-compose.yml"
    compose = yaml.safe_load(path.read_text())
    edit(compose)
    path.write_text(yaml.safe_dump(compose))
    found: list[str] = check_compose.problems(root)
    return found


def test_the_committed_set_up_is_consistent(root: Path) -> None:
    assert check_compose.problems(ROOT) == []
    assert change(root, lambda compose: None) == []


@pytest.mark.parametrize(
    ("edit", "problem"),
    [
        (lambda s: s["redis"].update(image="redis"), "redis: image redis is not pinned"),
        (lambda s: s["redis"].update(image="host:5000/redis"), "redis: image host:5000/redis is not pinned"),
        (lambda s: s["etcd"].update(image="etcd:latest"), "etcd: image etcd:latest is not pinned"),
        (lambda s: s["etcd"].pop("healthcheck"), "etcd: has no health check"),
        (lambda s: s["etcd"].pop("healthcheck"), "milvus: waits for etcd to be healthy, which has no health check"),
        (lambda s: s["models"].pop("restart"), "triton: waits for models to end, which is restarted"),
        (lambda s: s.pop("redis"), "gateway: depends on redis, which does not exist"),
        (lambda s: s.pop("redis"), "volume redis is not used"),
        (lambda s: s["redis"].update(volumes=["rdb:/data"]), "redis: volume rdb is not declared"),
        (lambda s: s["redis"].update(networks=["inner"]), "redis: network inner is not declared"),
        (lambda s: s["redis"].update(ports=["6379:6379"]), "redis: port 6379:6379 is open to other machines"),
        (lambda s: s["gateway"]["build"].update(target="gw"), "gateway: deploy/Dockerfile.gateway has no stage gw"),
        (lambda s: s["gateway"]["environment"].update(LOOKALIKE_SERVER__PROT="1"), "LOOKALIKE_SERVER__PROT is not a"),
        (lambda s: s["gateway"]["environment"].update(LOOKALIKE_SERVER__PORT="fifty"), "gateway: server.port: "),
        (lambda s: s["rollout"]["environment"].update(LOOKALIKE_SERVER__PORT="fifty"), "rollout: server.port: "),
        (
            # of the gateway, which is not to say of the rollout service
            lambda s: s["rollout"]["environment"].update(LOOKALIKE_CACHE__URL="redis://redis:6379/0"),
            "rollout: LOOKALIKE_CACHE__URL is not one of its settings",
        ),
        (lambda s: s["rollout"].update(ports=["50052:50052"]), "rollout: port 50052:50052 is open to other machines"),
        (
            lambda s: s.update(triton2=s.pop("triton")),
            "deploy/docker-compose.gpu.yml: docker-compose.yml has no service",
        ),
    ],
)
def test_what_is_wrong_is_named(root: Path, edit: Callable[[dict[str, Any]], object], problem: str) -> None:
    found = change(root, lambda compose: edit(compose["services"]))
    assert any(problem in line for line in found), found


def test_a_file_that_does_not_parse_is_named(root: Path) -> None:
    (root / "docker-compose.yml").write_text("services: [")
    assert check_compose.problems(root)[0].startswith("docker-compose.yml: ")


def test_a_dockerfile_with_an_unknown_variable_a_loose_base_image_or_root_is_named(root: Path) -> None:
    dockerfile = root / "deploy" / "Dockerfile.gateway"
    text = dockerfile.read_text()
    dockerfile.write_text(f"{text}ENV LOOKALIKE_ENCODER__ULR=triton:8001\n")
    assert check_compose.problems(root) == ["deploy/Dockerfile.gateway: LOOKALIKE_ENCODER__ULR is not a setting"]
    dockerfile.write_text(
        text.replace("USER lookalike\n", "").replace("FROM python:", "FROM python AS old\nFROM python:")
    )
    found = "\n".join(check_compose.problems(root))
    assert "base image python is not pinned by a tag" in found
    assert "runs as root" in found


def test_stubs_that_are_missing_left_over_or_old_are_named(tmp_path: Path) -> None:
    protos = shutil.copytree(ROOT / "protos", tmp_path / "protos")
    assert check_stubs.stale_stubs(protos) == []
    package = protos / "lookalike" / "v1"
    (package / "status_pb2.py").unlink()
    (package / "gone_pb2.py").touch()
    search = package / "search.proto"
    search.write_text(search.read_text().replace("int32 page_size", "int64 page_size"))
    assert check_stubs.stale_stubs(protos) == [
        "lookalike/v1/status_pb2.py is missing",
        "lookalike/v1/gone_pb2.py has no proto",
        "lookalike/v1/search_pb2.py is out of date",
    ]


@pytest.fixture
def health_server() -> Iterator[tuple[int, Any]]:
    """The port and the servicer of a server that has nothing but health."""
    server = grpc.server(ThreadPoolExecutor(1))
    servicer = health.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield port, servicer
    server.stop(None).wait()


def test_the_container_health_check_follows_the_server(health_server: tuple[int, Any]) -> None:
    port, servicer = health_server
    script = [sys.executable, str(ROOT / "deploy" / "healthcheck.py"), str(port)]
    servicer.set("", health_pb2.HealthCheckResponse.SERVING)
    assert subprocess.run(script, timeout=60, check=False).returncode == 0
    servicer.set("", health_pb2.HealthCheckResponse.NOT_SERVING)
    assert subprocess.run(script, timeout=60, check=False).returncode == 1


def test_the_container_health_check_fails_where_nobody_listens() -> None:
    assert not healthcheck.is_serving(1)
