"""Redis on this machine: a cache in bounded memory that keeps its contents over restarts."""

from __future__ import annotations

import functools
from pathlib import Path

from services.local.engines import Engines
from services.local.probes import redis_answers
from services.local.processes import Program

MAX_MEMORY = "256mb"


def program(engines: Engines, data: Path, log: Path, port: int) -> Program:
    """`data` holds its append-only file."""
    options = {
        "bind": "127.0.0.1",
        "port": str(port),
        "dir": str(data),
        "appendonly": "yes",
        "maxmemory": MAX_MEMORY,
        "maxmemory-policy": "volatile-lfu",
        "daemonize": "no",
    }
    return Program(
        name="redis",
        command=(str(engines.redis()), *(word for key, value in options.items() for word in (f"--{key}", value))),
        log=log,
        probe=functools.partial(redis_answers, port),
        prepare=functools.partial(data.mkdir, parents=True, exist_ok=True),
    )
