"""Triton on this machine: the real server, with our Python-based `onnxruntime` backend in place of NVIDIA's."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path

from services.local.engines import Engines, TritonEngine
from services.local.probes import http_ok
from services.local.processes import Program

# holds `onnxruntime/model.py`
BACKENDS = Path(__file__).parents[2] / "deploy" / "triton"
SHARED_MEMORY = Path("/dev/shm")


@dataclass(frozen=True, slots=True)
class TritonPorts:
    grpc: int
    http: int
    metrics: int


def program(engines: Engines, model_repository: Path, model: str, data: Path, log: Path, ports: TritonPorts) -> Program:
    """Loads `model` in every version it has, or none when one of them is damaged; more are served after a `load`.

    Ready is when that was tried.
    """
    engine = engines.triton()
    region = f"lookalike_{ports.grpc}_"
    options = {
        "model-repository": model_repository,
        "backend-directory": data / "backends",
        "backend-config": f"python,shm-region-prefix-name={region}",
        "model-control-mode": "explicit",
        "load-model": model,
        # this release is not current: it listens on this machine alone
        **{f"{door}-address": "127.0.0.1" for door in ("grpc", "http", "metrics")},
        "grpc-port": ports.grpc,
        "http-port": ports.http,
        "metrics-port": ports.metrics,
        "exit-timeout-secs": 5,
        # one damaged version must not keep the others from serving: see services/backends/triton_config.py
        "exit-on-error": "false",
    }
    return Program(
        name="triton",
        command=(
            str(engine.server),
            "--disable-auto-complete-config",
            *(f"--{key}={value}" for key, value in options.items()),
        ),
        log=log,
        probe=functools.partial(http_ok, ports.http, "/v2/health/live"),
        env={
            "LD_LIBRARY_PATH": engine.library_path,
            "PATH": f"{engine.python.parent}:/usr/bin:/bin",
            "PYTHONPATH": str(engine.site_packages),
            "PYTHONDONTWRITEBYTECODE": "1",
        },
        prepare=functools.partial(_prepare, engine, data / "backends", region),
    )


def _prepare(engine: TritonEngine, backends: Path, region: str) -> None:
    """Puts the backends together; removes the shared memory of a run that was killed."""
    backends.mkdir(parents=True, exist_ok=True)
    for link, target in (
        (backends / "python", engine.python_backend),
        (backends / "onnxruntime", BACKENDS / "onnxruntime"),
    ):
        link.unlink(missing_ok=True)
        link.symlink_to(target, target_is_directory=True)
    for left in SHARED_MEMORY.glob(f"{region}*"):
        left.unlink(missing_ok=True)
