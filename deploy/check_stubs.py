"""Checks that the committed Python code of the protos is what the protos generate now.

Generates into a temporary folder with the same compiler as `make protos` and compares. Exit code 1 when a file
differs, is missing, or belongs to a proto that is gone.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from grpc_tools import protoc

ROOT = Path(__file__).resolve().parent.parent
PROTOS = ROOT / "protos"
PACKAGE = Path("lookalike/v1")


def generate(protos: Path, out: Path) -> None:
    """Writes `*_pb2.py`, `*_pb2.pyi` and `*_pb2_grpc.py` of every proto of the package below `out`.

    Raises RuntimeError when the compiler refuses a proto; it has printed why.
    """
    files = sorted(str(path.relative_to(protos)) for path in (protos / PACKAGE).glob("*.proto"))
    # the first argument stands for the program's name; only `python -m grpc_tools.protoc` adds google/protobuf
    well_known = Path(protoc.__file__).parent / "_proto"
    outputs = [f"--{kind}_out={out}" for kind in ("python", "pyi", "grpc_python")]
    if protoc.main(["protoc", f"-I{protos}", f"-I{protos / 'vendor'}", f"-I{well_known}", *outputs, *files]) != 0:
        raise RuntimeError("the protos do not compile")


def stale_stubs(protos: Path = PROTOS) -> list[str]:
    """One line for each generated file that is not what it should be; empty when all are fresh."""
    with tempfile.TemporaryDirectory() as folder:
        generate(protos, Path(folder))
        fresh = {path.name: path.read_bytes() for path in (Path(folder) / PACKAGE).glob("*_pb2*")}
    committed = {path.name: path.read_bytes() for path in (protos / PACKAGE).glob("*_pb2*.py*")}
    problems = [f"{PACKAGE / name} is missing" for name in sorted(fresh.keys() - committed.keys())]
    problems += [f"{PACKAGE / name} has no proto" for name in sorted(committed.keys() - fresh.keys())]
    shared = sorted(fresh.keys() & committed.keys())
    return problems + [f"{PACKAGE / name} is out of date" for name in shared if fresh[name] != committed[name]]


def main() -> int:
    problems = stale_stubs()
    for problem in problems:
        print(problem, file=sys.stderr)
    if problems:
        print("run make protos", file=sys.stderr)
        return 1
    print("the generated code is fresh")
    return 0


if __name__ == "__main__":
    sys.exit(main())
