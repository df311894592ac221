"""Our own services as programs of the stack."""

from __future__ import annotations

import functools
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from services.local.probes import grpc_serving
from services.local.processes import Program


@dataclass(frozen=True, slots=True)
class ServicePorts:
    """Where a service listens."""

    host: str
    grpc: int
    metrics: int

    @property
    def address(self) -> str:
        """Under which it is reached from this machine."""
        return f"{reachable(self.host)}:{self.grpc}"


def program(
    service: str, name: str, log: Path, ports: ServicePorts, settings: Mapping[str, str], env: Mapping[str, str]
) -> Program:
    """Args:
    service: a package of `services`. name: of the part.
    settings: without our prefix. env: further ones, or in their place, with it.
    """
    listening = {
        "SERVER__HOST": ports.host,
        "SERVER__PORT": str(ports.grpc),
        "SERVER__METRICS_PORT": str(ports.metrics),
    }
    return Program(
        name=name,
        command=(sys.executable, "-m", f"services.{service}"),
        log=log,
        probe=functools.partial(grpc_serving, ports.address),
        env={f"LOOKALIKE_{key}": value for key, value in {**listening, **settings}.items()} | dict(env),
        start_timeout_s=120,
        stop_grace_s=15,
    )


def reachable(host: str) -> str:
    """An address of this machine under which a server that listens on `host` is reached."""
    return "127.0.0.1" if host in ("0.0.0.0", "") else f"[{host}]" if ":" in host else host
