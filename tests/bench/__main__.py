"""`make bench`: Lookalike, with FP32 and as served, against the service that an afternoon builds, in one run.

Gallery: the Grocery Store Dataset's 2,640 training photographs, one product each, as the peer has them. Queries: its
validation photographs; each request is one that no cache has seen, but for the line "repeats". The three services
take turns in every round, so that what else the machine does hits them alike; medians over the rounds are reported.

    python -m tests.bench --rounds 3 --requests 240 --json bench.json
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import onnx
import psutil
from rich.console import Console
from rich.table import Table

from services.cli.models import init_models
from services.common.manifest import MODEL_NAME, Manifest
from services.export.publish import Candidate, Origin, publish
from services.local.ports import PortPicker
from services.local.stack import LocalStack
from tests.integration.shop import OK, Shop, product

ROOT = Path(__file__).parents[2]
SHARED = Path(os.environ.get("LOOKALIKE_SHARED", ROOT.parent / "shared"))
OPEN_LOOP_SHARE = 0.8
REPEATED = 32

Measured = dict[str, float]


@dataclass
class Service:
    """One of those compared. `load` makes the command that puts load on it from the common options."""

    name: str
    load: Callable[..., list[str]]
    images_per_s: float = 0.0
    rounds: dict[str, list[Measured]] = field(default_factory=dict)
    memory_mb: dict[str, float] = field(default_factory=dict)

    def median(self, kind: str, figure: str) -> float:
        return statistics.median(measured[figure] for measured in self.rounds[kind])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--requests", type=int, default=240, help="of one measurement")
    parser.add_argument("--milvus", default="lite", help="lite or standalone, for Lookalike; the peer has its own lite")
    parser.add_argument("--json", type=Path, help="write all figures here")
    args = parser.parse_args()
    grocery = SHARED / "data" / "grocery"
    if not grocery.is_dir():
        sys.exit(f"needs the photographs and the peer in {SHARED} (or LOOKALIKE_SHARED)")
    asyncio.run(bench(args, grocery))


async def bench(args: argparse.Namespace, grocery: Path) -> None:
    repository = ROOT / "model_repository"
    init_models(repository, grocery)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        fp32_repository = with_fp32_served(repository, folder / "fp32")
        fp32_file = repository / MODEL_NAME / "1" / "model_fp32.onnx"
        served = Manifest.read(repository / MODEL_NAME / "1").served
        with Peer(fp32_file, grocery, folder) as peer:
            async with (
                LocalStack(folder / "stack-fp32", fp32_repository, args.milvus) as fp32,
                LocalStack(folder / "stack-served", repository, args.milvus) as as_served,
            ):
                services = [peer.service]
                for label, stack in (("Lookalike FP32", fp32), (f"Lookalike as served ({served.upper()})", as_served)):
                    service = Service(label, grpc_load(stack.gateway_address, grocery))
                    service.images_per_s = await import_photographs(stack.gateway_address, grocery)
                    services.append(service)
                # what the imports left to do (flushes, indexes) is not part of the searches
                await asyncio.sleep(10)
                measure(services, args.rounds, args.requests)
                peer.service.memory_mb = {"peer": resident_mb(peer.pid)}
                for service, stack in zip(services[1:], (fp32, as_served), strict=True):
                    service.memory_mb = {
                        part: resident_mb(stack.pid(part)) for part in ("gateway", "triton", "milvus", "redis")
                    }
    report(services, args)


def with_fp32_served(repository: Path, folder: Path) -> Path:
    """A model repository whose version 1 is the FP32 file of this one."""
    version = repository / MODEL_NAME / "1"
    manifest = Manifest.read(version)
    (folder / MODEL_NAME).mkdir(parents=True)
    config = (repository / MODEL_NAME / "config.pbtxt").read_text()
    (folder / MODEL_NAME / "config.pbtxt").write_text(config)
    candidate = Candidate("fp32", onnx.load(version / "model_fp32.onnx"))
    origin = Origin(manifest.preprocessing, manifest.backbone, "", "")
    publish(folder / MODEL_NAME, 1, (candidate,), "fp32", origin)
    return folder


class Peer:
    """The service to be compared with, as a process of its own; entering returns when it has indexed and answers."""

    def __init__(self, model: Path, grocery: Path, folder: Path) -> None:
        self._port = PortPicker().pick("the peer")
        self._log = folder / "peer.log"
        self._command = [
            *(sys.executable, str(SHARED / "bench" / "peer.py"), "--model", str(model), "--port", str(self._port)),
            *("--images", str(grocery / "train"), "--db", str(folder / "peer.db")),
        ]
        url = f"http://127.0.0.1:{self._port}/search"
        self.service = Service("peer", lambda **options: http_load(url, grocery / "val", **options))

    def __enter__(self) -> Peer:
        with self._log.open("w") as log:
            self._process = subprocess.Popen(self._command, stdout=log, stderr=subprocess.STDOUT)
        deadline = time.monotonic() + 600
        while "indexed" not in self._log.read_text():
            if self._process.poll() is not None or time.monotonic() > deadline:
                sys.exit(f"the peer did not start:\n{self._log.read_text()}")
            time.sleep(0.5)
        self.service.images_per_s = float(self._log.read_text().split(",")[1].split()[0])
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.wait(30)

    @property
    def pid(self) -> int:
        return self._process.pid


def http_load(url: str, images: Path, *, requests: int, concurrency: int = 0, rate: float = 0.0) -> list[str]:
    script = SHARED / "bench" / "http_load.py"
    return [
        *(sys.executable, str(script), "--images", str(images), "--url", url, "--requests", str(requests)),
        *(("--rate", f"{rate:.2f}") if rate else ("--concurrency", str(concurrency))),
    ]


def grpc_load(address: str, grocery: Path) -> Callable[..., list[str]]:
    def command(*, requests: int, concurrency: int = 0, rate: float = 0.0, repeats: int = 0) -> list[str]:
        return [
            *(sys.executable, "-m", "tests.bench.grpc_load", "--images", str(grocery / "val")),
            *("--address", address, "--requests", str(requests), "--repeats", str(repeats)),
            *(("--rate", f"{rate:.2f}") if rate else ("--concurrency", str(concurrency))),
        ]

    return command


async def import_photographs(address: str, grocery: Path) -> float:
    """Images a second, over one UpsertProducts stream; every photograph a product."""
    files = sorted((grocery / "train").rglob("*.jpg"))
    async with Shop(address) as shop:
        start = time.perf_counter()
        answers = []
        for first in range(0, len(files), 500):
            part = [product(f"g{first + n}", file.read_bytes()) for n, file in enumerate(files[first : first + 500])]
            answers += await shop.upsert(part)
        took_s = time.perf_counter() - start
    if any(answer.status.code != OK for answer in answers):
        sys.exit("the import failed")
    return len(files) / took_s


def measure(services: list[Service], rounds: int, requests: int) -> None:
    def run(service: Service, kind: str, **options: Any) -> None:
        done = subprocess.run(service.load(**options), capture_output=True, text=True, check=True, cwd=ROOT)
        measured = json.loads(done.stdout)
        if measured["errors"]:
            sys.exit(f"{service.name}, {kind}: {measured['errors']} requests failed")
        service.rounds.setdefault(kind, []).append(measured)
        print(f"{service.name:32} {kind:12} {measured}", file=sys.stderr, flush=True)

    peer, *ours = services
    for _ in range(rounds):
        for service in services:
            run(service, "1 client", requests=requests // 3, concurrency=1)
        for service in services:
            run(service, "8 clients", requests=requests, concurrency=8)
        rate = OPEN_LOOP_SHARE * max(measured["qps"] for measured in peer.rounds["8 clients"])
        for service in services:
            run(service, "open loop", requests=requests, rate=rate)
        for service in ours:
            run(service, "repeats", requests=20 * requests, concurrency=8, repeats=REPEATED)


def resident_mb(pid: int | None) -> float:
    """Of a process and all that it started."""
    process = psutil.Process(pid)
    return sum(p.memory_info().rss for p in (process, *process.children(recursive=True))) / 1e6


def report(services: list[Service], args: argparse.Namespace) -> None:
    console = Console(width=140)
    peer = services[0]
    shown = Table(
        "", *(service.name for service in services), title=f"medians of {args.rounds} rounds, Milvus {args.milvus}"
    )
    for kind in ("1 client", "8 clients", "open loop", "repeats"):
        for figure in ("qps", "p50_ms", "p95_ms", "p99_ms"):
            cells = []
            base = peer.median("8 clients" if kind == "repeats" else kind, figure)
            for service in services:
                if kind not in service.rounds:
                    cells.append("")
                    continue
                value = service.median(kind, figure)
                cells.append(f"{value:.1f}" + (f"  ({value / base:.2f} x)" if service is not peer else ""))
            shown.add_row(f"{kind}, {figure}", *cells)
    shown.add_row(
        "import, images/s",
        *(
            f"{s.images_per_s:.1f}" + (f"  ({s.images_per_s / peer.images_per_s:.2f} x)" if s is not peer else "")
            for s in services
        ),
    )
    shown.add_row(
        "resident, MB",
        *(", ".join(f"{part} {mb:.0f}" for part, mb in service.memory_mb.items()) for service in services),
    )
    console.print(shown)
    if args.json:
        figures = {
            service.name: {
                "import_images_per_s": service.images_per_s,
                "rounds": service.rounds,
                "memory_mb": service.memory_mb,
            }
            for service in services
        }
        args.json.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
