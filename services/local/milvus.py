"""Milvus on this machine: Milvus Lite as a server of ours, or the standalone binary of the real one."""

from __future__ import annotations

import contextlib
import functools
import re
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path

from services.local.engines import Engines
from services.local.installing import unpack_milvus
from services.local.ports import PortPicker
from services.local.probes import grpc_answers, http_ok
from services.local.processes import Program

# an RPC that both answer at once
VERSION_RPC = "/milvus.proto.milvus.MilvusService/GetVersion"

# where the standalone binary leaves files named by its port and process id, whatever MILVUS_RUN_DIR says
RUN_FOLDERS = (Path("/run/milvus"), Path("/tmp/milvus"))

# Changes of the template: a line's pattern, what stands there instead.
EDITS = (
    (r"^etcd:$", "etcd:\n  config:\n    path: {etcd_config}"),
    # seconds; after a kill a new process cannot start before the old one's lease has run out
    (r"^    ttl: 30\b", "    ttl: 10"),
    (r"^  level: info\b", "  level: warn"),
    # ms; a write is seen with the next tick, and it is acknowledged only then
    (r"^  timeTickInterval: 200\b", "  timeTickInterval: 50"),
    # seconds; it would wait half an hour for other nodes to take over what it has in memory, and there are none
    (r"^  gracefulStopTimeout: 1800\b", "  gracefulStopTimeout: 1"),
)

# Without a configuration of its own the etcd inside listens on its default ports, which only one process can have.
ETCD = """\
name: default
listen-client-urls: http://127.0.0.1:{client}
advertise-client-urls: http://127.0.0.1:{client}
listen-peer-urls: http://127.0.0.1:{peer}
initial-advertise-peer-urls: http://127.0.0.1:{peer}
initial-cluster: default=http://127.0.0.1:{peer}
"""


def lite_program(data: Path, log: Path, port: int) -> Program:
    """Milvus Lite with its writes serialised; see `services.local.milvus_lite`."""
    command = (sys.executable, "-m", "services.local.milvus_lite", "--data-dir", str(data), "--port", str(port))
    return Program(
        name="milvus",
        command=command,
        log=log,
        probe=functools.partial(grpc_answers, port, VERSION_RPC),
        prepare=functools.partial(data.mkdir, parents=True, exist_ok=True),
        # it reads its indexes before it listens
        start_timeout_s=120,
    )


def standalone_program(engines: Engines, data: Path, log: Path, port: int, ports: PortPicker) -> Program:
    """The real Milvus in one process, with its own etcd and message queue below `data`."""
    engine = engines.milvus()
    holes = {
        "etcd_data_dir": str(data / "data" / "etcd.data"),
        "etcd_log_path": str(data / "logs" / "etcd.log"),
        "etcd_log_level": "warn",
        "local_storage_dir": str(data / "data"),
        "rocksmq_data_dir": str(data / "data" / "rocksmq"),
        "system_log_path": str(data / "logs"),
        "proxy_port": str(port),
    }
    for hole in re.findall(r"\{\{\s*(\w+_port)\b", engine.template.read_text()):
        holes.setdefault(hole, str(ports.pick("milvus")))
    health_port, peer_port = ports.pick("milvus"), ports.pick("milvus")
    configs = data / "configs"

    def prepare() -> None:
        unpack_milvus(engine)
        for folder in (configs, data / "logs", data / "data", data / "run"):
            folder.mkdir(parents=True, exist_ok=True)
        (configs / "milvus.yaml").write_text(configure(engine.template.read_text(), holes, configs / "etcd.yaml"))
        shutil.copy(engine.template.with_name("glog.conf"), configs)
        (configs / "etcd.yaml").write_text(ETCD.format(client=holes["etcd_port"], peer=peer_port))

    return Program(
        name="milvus",
        command=(str(engine.server), "run", "standalone", "-alias", str(port)),
        log=log,
        probe=functools.partial(_standalone_ready, health_port, port),
        env={
            "DEPLOY_MODE": "STANDALONE",
            "LD_LIBRARY_PATH": str(engine.unpacked),
            "METRICS_PORT": str(health_port),
            "MILVUS_RUN_DIR": str(data / "run"),
        },
        directory=data,
        start_timeout_s=120,
        retry_s=120,
        stop_grace_s=20,
        prepare=prepare,
        tidy=functools.partial(_tidy, port),
    )


def _tidy(port: int, pid: int) -> None:
    for folder in RUN_FOLDERS:
        for name in (f"standalone-{port}.pid", f"server_id_{pid}"):
            with contextlib.suppress(OSError):
                (folder / name).unlink(missing_ok=True)


async def _standalone_ready(health_port: int, port: int) -> bool:
    return await http_ok(health_port, "/healthz") and await grpc_answers(port, VERSION_RPC)


def configure(template: str, holes: Mapping[str, str], etcd_config: Path) -> str:
    """The contents of milvus.yaml. Raises ValueError when the template is not the one that the edits are for."""
    for pattern, replacement in EDITS:
        edited = replacement.format(etcd_config=etcd_config)
        template, count = re.subn(pattern, functools.partial(_always, edited), template, flags=re.MULTILINE)
        if count != 1:
            raise ValueError(f"Milvus' configuration has {count} lines like {pattern}, not one")
    return fill(template, holes)


def _always(text: str, _: re.Match[str]) -> str:
    return text


def fill(template: str, holes: Mapping[str, str]) -> str:
    """Fills `{{ name }}`, `{{ name(type) }}` and `{{ name: default }}`; a hole without value takes its default.

    Raises KeyError for one that has neither.
    """

    def value(hole: re.Match[str]) -> str:
        name, default = hole[1], hole[2]
        return holes[name] if default is None else holes.get(name, default.strip())

    return re.sub(r"\{\{\s*(\w+)(?:\(\w+\))?\s*(?::([^}]*))?\}\}", value, template)
