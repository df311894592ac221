"""The whole system on one machine: the engines, one or more gateways, the rollout service, each kept running."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import signal
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO

from services.common.manifest import MODEL_NAME
from services.local import milvus, redis, triton
from services.local.engines import Engines
from services.local.errors import DataInUse
from services.local.ports import PortPicker, Ports
from services.local.processes import Program
from services.local.service import ServicePorts, program, reachable
from services.local.supervisor import Supervisor

LITE, STANDALONE = "lite", "standalone"


@dataclass(frozen=True, slots=True)
class PartAddress:
    """Where a part listens, and where its log is (None when it is not ours)."""

    name: str
    address: str
    log: Path | None


class LocalStack:
    """Use as `async with`: entering returns when searches are answered, leaving ends every process.

    Args:
        data_dir: holds all that outlives the stack; one stack at a time.
        milvus: "lite", "standalone", or the URL of a Milvus that runs elsewhere.
        gateways: how many; the second and further ones listen on free ports.
        gateway_env: further settings of the gateways. rollout_env: of the rollout service.

    Raises:
        DataInUse, PortInUse, EngineMissing, StartFailed; nothing is left running then.
    """

    def __init__(
        self,
        data_dir: Path,
        model_repository: Path,
        milvus: str = LITE,
        ports: Ports | None = None,
        *,
        host: str = "127.0.0.1",
        gateways: int = 1,
        gateway_env: Mapping[str, str] | None = None,
        rollout_env: Mapping[str, str] | None = None,
        engines: Engines | None = None,
    ) -> None:
        self._data = data_dir.absolute()
        self._repository = model_repository.absolute()
        self._milvus = milvus
        self._ports = ports or Ports()
        self._host = host
        self._gateways = gateways
        self._gateway_env = dict(gateway_env or {})
        self._rollout_env = dict(rollout_env or {})
        self._engines = engines or Engines.default()
        self._lock: IO[str] | None = None
        self._parts: dict[str, Supervisor] = {}
        self.addresses: list[PartAddress] = []
        self.gateway_addresses: list[str] = []
        self.rollout_address = ""
        self.triton_url = ""
        self.milvus_uri = ""
        self.redis_url = ""

    @property
    def gateway_address(self) -> str:
        """Of the first gateway."""
        return self.gateway_addresses[0]

    @property
    def image_store_url(self) -> str:
        """Where the originals of all pictures are."""
        return (self._data / "images").as_uri()

    async def __aenter__(self) -> LocalStack:
        self._lock = _locked(self._data)
        try:
            engines, gateways, rollout = self._programs()
            self._parts = {program.name: Supervisor(program) for program in (*engines, *gateways, rollout)}
            # gateways wait for the engines by themselves, but would log that they do; the rollout service for gateways
            await self._start(engines)
            await self._start(gateways)
            await self._start([rollout])
        except BaseException:
            await self._stop_all()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stop_all()

    def pid(self, name: str) -> int | None:
        """Process id of a part ("gateway", "gateway2", "rollout", "triton", "milvus", "redis"); None while down."""
        return self._parts[name].pid

    def signal(self, name: str, number: signal.Signals) -> None:
        """To a part with all that it started, for example SIGSTOP."""
        pid = self.pid(name)
        if pid is not None:
            os.killpg(pid, number)

    async def kill(self, name: str) -> None:
        """SIGKILL; the part comes back by itself, and `ready` waits for that."""
        await self._parts[name].kill()

    async def ready(self, name: str, timeout_s: float | None = None) -> None:
        await self._parts[name].ready(timeout_s)

    async def stop(self, name: str) -> None:
        """Ends a part politely; it stays down until `start`."""
        await self._parts[name].stop()

    async def start(self, name: str) -> None:
        await self._parts[name].start()

    async def restart(self, name: str) -> None:
        await self._parts[name].restart()

    def _programs(self) -> tuple[list[Program], list[Program], Program]:
        picker, wanted, logs = PortPicker(), self._ports, self._data / "logs"
        gateway_ports = [
            ServicePorts(
                self._host,
                picker.pick("the gateway", wanted.gateway, self._host),
                picker.pick("metrics", wanted.metrics, self._host),
            )
        ]
        # operators alone ask it
        rollout_ports = ServicePorts(
            "127.0.0.1", picker.pick("the rollout service", wanted.rollout), picker.pick("metrics")
        )
        triton_ports = triton.TritonPorts(
            grpc=picker.pick("Triton", wanted.triton), http=picker.pick("Triton"), metrics=picker.pick("Triton")
        )
        redis_port = picker.pick("Redis", wanted.redis)
        self.triton_url = f"127.0.0.1:{triton_ports.grpc}"
        self.redis_url = f"redis://127.0.0.1:{redis_port}/0"
        engines = [
            triton.program(
                self._engines, self._repository, MODEL_NAME, self._data / "triton", logs / "triton.log", triton_ports
            ),
            redis.program(self._engines, self._data / "redis", logs / "redis.log", redis_port),
        ]
        if self._milvus in (LITE, STANDALONE):
            milvus_port = picker.pick("Milvus", wanted.milvus)
            self.milvus_uri = f"http://127.0.0.1:{milvus_port}"
            # the engines' files differ: each keeps to a folder of its own
            folder, log = self._data / f"milvus-{self._milvus}", logs / "milvus.log"
            engines.append(
                milvus.lite_program(folder, log, milvus_port)
                if self._milvus == LITE
                else milvus.standalone_program(self._engines, folder, log, milvus_port, picker)
            )
        else:
            self.milvus_uri = self._milvus
        for _ in range(1, self._gateways):
            ports = (picker.pick("a gateway", 0, self._host), picker.pick("metrics", 0, self._host))
            gateway_ports.append(ServicePorts(self._host, *ports))
        self.gateway_addresses = [ports.address for ports in gateway_ports]
        self.rollout_address = rollout_ports.address
        gateway_env = {"LOOKALIKE_CACHE__URL": self.redis_url} | self._gateway_env
        gateways = [
            self._service("gateway", f"gateway{number + 1}" if number else "gateway", logs, ports, gateway_env)
            for number, ports in enumerate(gateway_ports)
        ]
        rollout = self._service("rollout", "rollout", logs, rollout_ports, self._rollout_env)
        self.addresses = [
            *(
                PartAddress(program.name, address, program.log)
                for program, address in zip(gateways, self.gateway_addresses, strict=True)
            ),
            PartAddress("metrics", f"http://{reachable(self._host)}:{gateway_ports[0].metrics}/metrics", None),
            PartAddress("rollout", self.rollout_address, rollout.log),
            PartAddress("triton", self.triton_url, logs / "triton.log"),
            PartAddress("milvus", self.milvus_uri, logs / "milvus.log" if len(engines) == 3 else None),
            PartAddress("redis", self.redis_url, logs / "redis.log"),
        ]
        return engines, gateways, rollout

    def _service(self, service: str, name: str, logs: Path, ports: ServicePorts, env: Mapping[str, str]) -> Program:
        settings = {
            "MODEL_REPOSITORY": str(self._repository),
            "ENCODER__URL": self.triton_url,
            "INDEX__URI": self.milvus_uri,
            "COORDINATION__URL": self.redis_url,
            "IMAGE_STORE__URL": self.image_store_url,
        }
        return program(service, name, logs / f"{name}.log", ports, settings, env)

    async def _start(self, programs: list[Program]) -> None:
        """All at the same time. Raises the first failure when each has started or failed."""
        started = (self._parts[program.name].start() for program in programs)
        for result in await asyncio.gather(*started, return_exceptions=True):
            if isinstance(result, BaseException):
                raise result

    async def _stop_all(self) -> None:
        ours = [part for name, part in self._parts.items() if name.startswith(("gateway", "rollout"))]
        engines = [part for part in self._parts.values() if part not in ours]
        # ours first: what they still answer needs the engines
        for parts in (ours, engines):
            await asyncio.gather(*(part.stop() for part in parts), return_exceptions=True)
        if self._lock:
            with contextlib.suppress(OSError):
                self._lock.close()
            self._lock = None


def _locked(data: Path) -> IO[str]:
    """The open file whose lock keeps a second stack away; the system lifts it when the process ends."""
    data.mkdir(parents=True, exist_ok=True)
    file = (data / "lock").open("a+")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        file.close()
        raise DataInUse(f"{data} is in use by another `lookalike up`; stop it or choose another --data") from None
    return file
