"""Stands before Triton: lets it start with TensorRT plans only on the GPU and the TensorRT that they were built for.

    engine_check.py /engines --models /models -- tritonserver --model-repository=/models ...

Without plans in /engines, the command runs as it is. With plans that fit, it runs with /engines as its model
repository. With one that does not, it does not run: exit code 1 and a line for each thing that differs. TensorRT would
refuse such plans itself, but with less to go by, and a plan of an older file of a version not at all.

Only the standard library is used: this runs in NVIDIA's container as it comes.
"""

from __future__ import annotations

import argparse
import ctypes
import ctypes.util
import hashlib
import json
import os
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

MODEL = "image_encoder"
ENGINE_FILE = "engine.json"
# Triton's name for it
PLAN_FILE = "model.plan"
REPOSITORY_OPTION = "--model-repository"


class EngineError(Exception):
    """Meant for people: one sentence."""


@dataclass(frozen=True, slots=True)
class Host:
    """What a plan is built for.

    Args:
        gpu: as nvidia-smi calls it, "NVIDIA L4".
        compute_capability: "8.9".
        tensorrt: "11.4.0".
    """

    gpu: str
    compute_capability: str
    tensorrt: str


@dataclass(frozen=True, slots=True)
class Engine:
    """`engine.json` beside a plan.

    Args:
        version: of the encoder.
        precision: "fp16" or "int8".
        source: name of the ONNX file in the version's folder that it was built from, and its sha256.
        batches: smallest, preferred and largest N.
        created: ISO 8601, UTC.
    """

    version: int
    precision: str
    source: str
    source_sha256: str
    plan_sha256: str
    host: Host
    batches: tuple[int, int, int]
    created: str

    def write(self, folder: Path) -> None:
        (folder / ENGINE_FILE).write_text(json.dumps(asdict(self), indent=1, sort_keys=True) + "\n")

    @classmethod
    def read(cls, folder: Path) -> Engine:
        """Raises EngineError when there is none or it is not well formed."""
        path = folder / ENGINE_FILE
        try:
            raw = json.loads(path.read_text())
            return cls(**(raw | {"host": Host(**raw["host"]), "batches": tuple(raw["batches"])}))
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise EngineError(f"{path} can't be read: {error!r}") from None


def this_host(tensorrt: str = "") -> Host:
    """The GPU and the TensorRT of this machine; `tensorrt`: its version, where it is known.

    Raises EngineError when there is no GPU, when there are different ones, or when there is no TensorRT.
    """
    query = ["nvidia-smi", "--query-gpu=name,compute_cap", "--format=csv,noheader"]
    try:
        done = subprocess.run(query, capture_output=True, text=True, timeout=60, check=True)
    except (OSError, subprocess.SubprocessError) as error:
        raise EngineError(f"no NVIDIA GPU is visible here ({error}); start the container with --gpus all") from None
    return Host(*gpu_of(done.stdout), short_version(tensorrt) if tensorrt else _library_version())


def gpu_of(answer: str) -> tuple[str, str]:
    """Name and compute capability from what nvidia-smi says; several GPUs must be alike, each runs the same plan."""
    found = {tuple(part.strip() for part in line.rsplit(",", 1)) for line in answer.splitlines() if line.strip()}
    if not found:
        raise EngineError("nvidia-smi names no GPU")
    if len(found) > 1:
        names = " and ".join(sorted(gpu[0] for gpu in found))
        raise EngineError(f"the GPUs differ: {names}; show the container one kind of them (--gpus device=0)")
    name, capability = found.pop()
    return name, capability


def short_version(text: str) -> str:
    """The three numbers that a plan depends on: "11.4.0.106" is "11.4.0"."""
    return ".".join(text.split(".")[:3])


def version_of(number: int) -> str:
    """From what getInferLibVersion answers: 110400 is 11.4.0. Before TensorRT 10 there was another rule."""
    if number < 100000:
        raise EngineError(f"TensorRT 10 or newer is needed; the library says {number}")
    return f"{number // 10000}.{number // 100 % 100}.{number % 100}"


def _library_version() -> str:
    name = ctypes.util.find_library("nvinfer")
    try:
        if name is None:
            raise OSError("libnvinfer is not installed")
        return version_of(ctypes.CDLL(name).getInferLibVersion())
    except (OSError, AttributeError) as error:
        raise EngineError(f"there is no TensorRT here: {error}") from None


def versions_in(engines: Path) -> list[Path]:
    """Folders of the versions that have a plan."""
    return sorted((f for f in (engines / MODEL).glob("[0-9]*") if f.name.isdigit()), key=lambda f: int(f.name))


def problems(folder: Path, host: Host, models: Path | None = None) -> list[str]:
    """Why the plan in a version's folder can't serve on `host`, a line each; empty when it can.

    Args:
        models: model repository with the files that plans are built from; None: not compared.
    """
    try:
        engine = Engine.read(folder)
    except EngineError as error:
        return [str(error)]
    found = []
    for what, built, here in (
        ("GPU", engine.host.gpu, host.gpu),
        ("compute capability", engine.host.compute_capability, host.compute_capability),
        ("TensorRT", engine.host.tensorrt, host.tensorrt),
    ):
        if built != here:
            found.append(f"built for {what} {built}, here it is {here}")
    if engine.version != int(folder.name):
        found.append(f"built from version {engine.version}")
    if not _is(folder / PLAN_FILE, engine.plan_sha256):
        found.append(f"{PLAN_FILE} is missing or not what {ENGINE_FILE} says")
    if models is not None and not _is(models / MODEL / folder.name / engine.source, engine.source_sha256):
        found.append(f"{engine.source} in {models} is not the file it was built from")
    return [f"{folder}: {problem}" for problem in found]


def _is(path: Path, sha256: str) -> bool:
    if not path.is_file():
        return False
    with path.open("rb") as file:
        digest = hashlib.sha256()
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest() == sha256


def with_repository(command: list[str], repository: Path) -> list[str]:
    """The command of a Triton with another model repository."""
    if not any(part.startswith(f"{REPOSITORY_OPTION}=") for part in command):
        raise EngineError(f"{' '.join(command)} has no {REPOSITORY_OPTION}=")
    option = f"{REPOSITORY_OPTION}={repository}"
    return [option if part.startswith(f"{REPOSITORY_OPTION}=") else part for part in command]


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        usage="engine_check.py ENGINES [--models MODELS] [-- COMMAND --model-repository=MODELS ...]",
        description="Check TensorRT plans; run a command when they fit.",
    )
    parser.add_argument("engines", type=Path, help="model repository with the plans")
    parser.add_argument("--models", type=Path, help="model repository with the ONNX files they were built from")
    given = sys.argv[1:] if arguments is None else arguments
    end = given.index("--") if "--" in given else len(given)
    options, command = parser.parse_args(given[:end]), given[end + 1 :]
    folders = versions_in(options.engines)
    try:
        if folders:
            host = this_host()
            found = [problem for folder in folders for problem in problems(folder, host, options.models)]
            if found:
                raise EngineError("\n".join([*found, "Build it again: deploy/triton/build_engine.py build VERSION"]))
            if command:
                command = with_repository(command, options.engines)
    except EngineError as error:
        print(error, file=sys.stderr)
        return 1
    if not command:
        print(f"{len(folders)} plans fit" if folders else f"there are no plans in {options.engines}")
        return 0
    os.execvp(command[0], command)


if __name__ == "__main__":
    sys.exit(main())
