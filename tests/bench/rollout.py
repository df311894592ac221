"""`make bench-rollout`: what callers see of a rollout, how fast it goes, and how long a switch holds up writes.

Two gateways on the real engines; version 1 serves, version 2 is the encoder kept in recipes/. The catalogue is written
into the index directly, and into the new collection too but for the last --backfill products: a comparison goes over
all of them, and what is embedded is enough to measure by. Searches come at half of the rate that the system can answer
(measured first), as a Poisson process over both gateways, each with a picture that no cache has seen; a writer changes
a product three times a second. The backfill runs under that load first, then without it; the encoder's own throughput
is measured before and after that by calling Triton with the same batches of ready pixels. Then shadow, canary, the
switch, and --switches back and forth. What is compared with, no rollout at all, is measured at both ends, once Milvus
has indexed what was written before.

Milvus indexes what was loaded in a minute or two, in bursts that hold up searches for a second or three, with a rollout
and without. So besides the p99 of a whole stage there is the "usual" one: the median of those of its stretches of 5 s.
The second table tells how many cores each part was busy with. "Others" are processes of other people: with many of
them, read the medians alone.

    python -m tests.bench.rollout --products 20000 --json rollout.json
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import json
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import psutil
from google.protobuf import duration_pb2
from lookalike.v1 import model_pb2
from rich.console import Console
from rich.table import Table

from services.backends.encoder import Encoder, EncoderSettings, Priority
from services.backends.image_store import ImageStore, ImageStoreSettings
from services.backends.index import Collection, Index, IndexSettings, Row
from services.cli.models import init_models
from services.common.errors import LookalikeError
from services.common.images import PREPROCESSING, decode_image
from services.common.manifest import MODEL_NAME, Manifest
from services.common.products import Product, ProductImage
from services.export.adding import add, manifest_beside
from services.local.stack import LocalStack
from services.rollout.pace import IDLE_BATCH, IDLE_CALLS
from services.rollout.record import Stage
from tests.bench.open_load import Load, Sample, between, percentile_ms, product_id
from tests.conftest import KEPT_ENCODER, ROOT
from tests.integration.rollout_operator import Operator, stage_of
from tests.integration.shop import Shop, picture

LOAD_SHARE = 0.5
SIDE = 320
WITHOUT = "no rollout"
# programs of the stack, by the part that they are
PARTS = {"gateway": "gateways", "gateway2": "gateways"} | {
    name: name for name in ("triton", "milvus", "rollout", "redis")
}
# for a stage; a backfill that makes way takes long
_LIMIT_S = 3600
# rows of one call of the index
_CHUNK = 1000
_CLASSES, _OF_A_CLASS = 6, 10
# Milvus is taken for idle when it takes less than this for so long
_IDLE_CORES, _LOOK_S = 0.2, 3.0
_SETTLE_S = 180.0
_STRETCH_S = 5.0


@dataclass(frozen=True, slots=True)
class Mark:
    """A stage begins: when (monotonic), and how long cores were busy by then, in seconds, with each part and others."""

    name: str
    at: float
    busy_s: dict[str, float]


@dataclass
class Figures:
    """Latencies by stage in ms, the rest in seconds and per second."""

    capacity_qps: float = 0.0
    rate_qps: float = 0.0
    searches: dict[str, dict[str, float]] = field(default_factory=dict)
    writes: dict[str, dict[str, float]] = field(default_factory=dict)
    failed_searches: int = 0
    failed_writes: int = 0
    errors: dict[str, int] = field(default_factory=dict)
    batch_images_per_s: list[float] = field(default_factory=list)
    backfill_idle_rows_per_s: float = 0.0
    backfill_loaded_rows_per_s: float = 0.0
    freeze_s: list[float] = field(default_factory=list)
    switched_s: list[float] = field(default_factory=list)
    stage_s: dict[str, float] = field(default_factory=dict)
    # by stage and part
    cores: dict[str, dict[str, float]] = field(default_factory=dict)
    # of an image of the idle backfill, by process
    cpu_ms: dict[str, float] = field(default_factory=dict)

    @property
    def idle_share(self) -> float:
        return self.backfill_idle_rows_per_s / statistics.mean(self.batch_images_per_s)

    @property
    def p99_ratio(self) -> float:
        return self.searches["backfill"]["usual_p99_ms"] / self.searches[WITHOUT]["usual_p99_ms"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--products", type=int, default=20_000)
    parser.add_argument("--pictures", type=int, default=300, help="that the products share")
    parser.add_argument("--backfill", type=int, default=4000, help="products that the new collection lacks")
    parser.add_argument(
        "--seconds", type=float, default=20.0, help="of one measurement; the backfill's is 3 times that"
    )
    parser.add_argument("--switches", type=int, default=3, help="back and forth, after the first one")
    parser.add_argument("--milvus", default="lite", help="lite or standalone")
    parser.add_argument("--json", type=Path, help="write all figures here")
    args = parser.parse_args()
    args.backfill = min(args.backfill, args.products)
    figures = asyncio.run(bench(args))
    report(figures, args)
    if args.json:
        shown = vars(figures) | {"idle_share": figures.idle_share, "p99_ratio": figures.p99_ratio}
        args.json.write_text(json.dumps(shown, indent=1) + "\n")


async def bench(args: argparse.Namespace) -> Figures:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        init_models(ROOT / "model_repository", None)
        repository = folder / "models"
        shutil.copytree(ROOT / "model_repository", repository)
        for later in (repository / MODEL_NAME).iterdir():
            if later.name.isdigit() and later.name != "1":
                shutil.rmtree(later)
        async with LocalStack(folder / "stack", repository, args.milvus, gateways=2) as stack:
            add(repository / MODEL_NAME, KEPT_ENCODER, manifest_beside(KEPT_ENCODER))
            async with Bench(args, stack, repository / MODEL_NAME, folder) as run:
                return await run.all()


class Bench:
    """Use as `async with`; `all` measures one thing after the other."""

    def __init__(self, args: argparse.Namespace, stack: LocalStack, models: Path, folder: Path) -> None:
        self._args = args
        self._stack = stack
        self._models = models
        self._golden = folder / "golden"
        self._exit = contextlib.AsyncExitStack()
        self._figures = Figures()
        self._marks: list[Mark] = []

    async def __aenter__(self) -> Bench:
        enter, stack = self._exit.enter_async_context, self._stack
        self._index = await enter(Index(IndexSettings(uri=stack.milvus_uri, timeout_s=60)))
        self._encoder = await enter(Encoder(EncoderSettings(url=stack.triton_url, timeout_s=60)))
        self._images = await enter(ImageStore(ImageStoreSettings(url=stack.image_store_url)))
        self._shops = [await enter(Shop(address)) for address in stack.gateway_addresses]
        self._operator = await enter(Operator(stack))
        self._pictures = [picture(seed, side=SIDE) for seed in range(self._args.pictures)]
        self._load = Load(self._shops, self._pictures, self._args.products)
        return self

    async def __aexit__(self, *error: object) -> None:
        await self._load.stop()
        await self._exit.aclose()

    async def all(self) -> Figures:
        args, figures, load = self._args, self._figures, self._load
        target = await self._fill()
        await self._settled()
        figures.batch_images_per_s.append(await self._batch_throughput())
        figures.capacity_qps = await load.capacity(args.seconds)
        figures.rate_qps = LOAD_SHARE * figures.capacity_qps
        _tell(f"{figures.capacity_qps:.1f} searches/s at most, {figures.batch_images_per_s[0]:.1f} images/s")
        load.start(figures.rate_qps)
        self._mark(WITHOUT)
        await asyncio.sleep(2 * args.seconds)
        self._mark("")
        await self._start()
        async with self._watched():
            await self._backfill(target)
            self._mark("")
            figures.batch_images_per_s.append(await self._batch_throughput())
            load.start(figures.rate_qps)
            for stage in ("shadow", "canary"):
                await self._operator.waits_in(stage, _LIMIT_S)
                self._mark(stage)
                await asyncio.sleep(args.seconds)
                await self._operator.promote()
            await self._switched(2)
            await asyncio.sleep(args.seconds)
        taken = (await self._operator.now()).stage_seconds
        figures.stage_s = {stage.value: taken[stage] for stage in Stage if stage in taken}
        self._mark("rollback and forth")
        for number in range(args.switches):
            await self._operator.rollback()
            await self._switched(1 if number % 2 == 0 else 2)
            await asyncio.sleep(3)
        self._mark("")
        await self._operator.retire(2 if args.switches % 2 else 1)
        await load.stop()
        await self._settled()
        load.start(figures.rate_qps)
        self._mark(WITHOUT)
        await asyncio.sleep(2 * args.seconds)
        self._mark("")
        await load.stop()
        self._summarise()
        return figures

    # -- parts -----------------------------------------------------------------------------------------------------

    async def _fill(self) -> Collection:
        """Writes the catalogue; the collection of version 2, which lacks the last products."""
        manifests = {version: Manifest.read(self._models / str(version)) for version in (1, 2)}
        await self._encoder.load(self._models, {1, 2})
        hashes = [await self._images.put(data) for data in self._pictures]
        serving = await self._index.collections.resolve()
        assert serving is not None
        target = await self._index.collections.create_collection(2, manifests[2].dimension, PREPROCESSING)
        await self._index.collections.keep(target.name, {"model": manifests[2].served_variant.sha256})
        for collection, version, count in ((serving, 1, self._args.products), (target, 2, self._lacks_from)):
            pixels = np.stack([decode_image(data, manifests[version].side) for data in self._pictures])
            self._pixels = pixels
            parts = [await self._encoder.embed(pixels[at : at + 8], version) for at in range(0, len(pixels), 8)]
            vectors = np.concatenate(parts)
            rows = [
                Row(
                    Product(product_id(n), title="0", category=f"c{n % 20}", price=float(n), update_time_us=1),
                    ProductImage("i", hashes[n % len(hashes)]),
                    0,
                    vectors[n % len(hashes)],
                )
                for n in range(count)
            ]
            for at in range(0, count, _CHUNK):
                await self._index.upsert(collection, rows[at : at + _CHUNK])
            _tell(f"{collection.name}: {count} products")
        rng = np.random.default_rng(3)
        for number in range(_CLASSES):
            kind = self._golden / f"kind-{number}"
            kind.mkdir(parents=True)
            for each in range(_OF_A_CLASS):
                # the same tiles, through another JPEG
                (kind / f"{each}.jpg").write_bytes(picture(10_000 + number, side=96, quality=int(rng.integers(30, 95))))
        return target

    @property
    def _lacks_from(self) -> int:
        return int(self._args.products - self._args.backfill)

    async def _start(self) -> None:
        await self._operator.start(
            2,
            shadow=0.1,
            canary=0.1,
            golden_set=str(self._golden),
            # that the gate works is tested elsewhere
            tolerance=1.0,
            category_tolerance=1.0,
            latency_budget=duration_pb2.Duration(seconds=10),
        )

    async def _batch_throughput(self) -> float:
        """Images a second of version 2, asked as a backfill asks, with pixels that are ready."""
        end, done = time.monotonic() + 0.75 * self._args.seconds, 0
        start = time.monotonic()

        async def work(first: int) -> None:
            nonlocal done
            while time.monotonic() < end:
                batch = np.take(self._pixels, range(first, first + IDLE_BATCH), axis=0, mode="wrap")
                await self._encoder.embed(batch, 2, priority=Priority.BACKFILL)
                done += len(batch)

        await asyncio.gather(*(work(number) for number in range(IDLE_CALLS)))
        return done / (time.monotonic() - start)

    async def _backfill(self, target: Collection) -> None:
        """Under load for a while, and half of it at most; then idle to its end."""
        figures, args = self._figures, self._args
        await self._operator.when(lambda rollout: stage_of(rollout) == "backfill", _LIMIT_S)
        # what is there already is compared first
        lacked = self._lacks_from
        while await self._rows(target) <= lacked:
            await asyncio.sleep(0.2)
        start, first = time.monotonic(), await self._rows(target)
        self._mark("backfill")
        count = first
        while time.monotonic() < start + 3 * args.seconds and count < lacked + args.backfill / 2:
            await asyncio.sleep(0.5)
            count = await self._rows(target)
        figures.backfill_loaded_rows_per_s = (count - first) / (time.monotonic() - start)
        self._mark("")
        await self._load.stop()
        # the gateways tell of the last three seconds
        await asyncio.sleep(4.5)
        start, first = time.monotonic(), await self._rows(target)
        end, last = start, first
        before = self._busy_s()
        # its end is not its pace: the last groups are fewer than can be at work
        while last < args.products - 150:
            await asyncio.sleep(0.5)
            end, last = time.monotonic(), await self._rows(target)
        after, rows = self._busy_s(), max(1, last - first)
        for part in ("triton", "milvus", "rollout"):
            figures.cpu_ms[part] = round(1e3 * (after[part] - before[part]) / rows, 2)
        figures.backfill_idle_rows_per_s = (last - first) / max(1e-9, end - start)
        _tell(
            f"backfill: {figures.backfill_loaded_rows_per_s:.1f} rows/s under load, "
            f"{figures.backfill_idle_rows_per_s:.1f} idle ({last - first} rows)"
        )
        await self._operator.waits_in("shadow", _LIMIT_S)

    async def _rows(self, collection: Collection) -> int:
        while True:
            # a busy machine may be late
            with contextlib.suppress(LookalikeError):
                return await self._index.count(collection)

    async def _switched(self, version: int) -> None:
        """Returns when both gateways answer with a version, `switched_s` after this call at most."""
        start = time.monotonic()
        await asyncio.gather(*(self._answers_with(shop, version) for shop in self._shops))
        self._figures.switched_s.append(time.monotonic() - start)
        while (rollout := await self._operator.now()).status != model_pb2.ROLLOUT_STATUS_SUCCEEDED:
            _refuse_failed(rollout)
            await asyncio.sleep(0.05)
        self._figures.freeze_s.append(rollout.freeze.ToTimedelta().total_seconds())
        _tell(f"version {version}: {self._figures.switched_s[-1]:.2f} s, freeze {self._figures.freeze_s[-1]:.3f} s")

    async def _answers_with(self, shop: Shop, version: int) -> None:
        """Until a caller that is in no canary has been answered by it; the answers come from caches mostly."""
        while True:
            answer = await shop.search(self._pictures[0], caller="watcher", page_size=1)
            if answer.provenance.model == f"models/{version}":
                return
            await asyncio.sleep(0.02)

    @contextlib.asynccontextmanager
    async def _watched(self) -> AsyncIterator[None]:
        """Marks the stages that this bench does not wait for."""

        async def watch() -> None:
            seen = ""
            while True:
                rollout = await self._operator.now()
                _refuse_failed(rollout)
                if stage_of(rollout) != seen:
                    seen = stage_of(rollout)
                    if seen not in ("backfill", "drain", "shadow", "canary"):
                        self._mark({"retention": "after"}.get(seen, seen))
                await asyncio.sleep(0.05)

        task = asyncio.create_task(watch())
        try:
            yield
        finally:
            task.cancel()
            results = await asyncio.gather(task, return_exceptions=True)
        if isinstance(results[0], Exception):
            raise results[0]

    async def _settled(self) -> None:
        """Milvus has indexed and compacted what was written, or takes longer for that than we wait."""
        end, spent_s = time.monotonic() + _SETTLE_S, float("inf")
        before_s = _cpu_s(self._stack.pid("milvus"))
        while spent_s > _IDLE_CORES * _LOOK_S and time.monotonic() < end:
            await asyncio.sleep(_LOOK_S)
            now_s = _cpu_s(self._stack.pid("milvus"))
            spent_s, before_s = now_s - before_s, now_s

    def _busy_s(self) -> dict[str, float]:
        """Seconds that cores were busy: with each part, with the load of this process, with others."""
        times = psutil.cpu_times()
        busy = dict.fromkeys(PARTS.values(), 0.0) | {"load": _cpu_s(os.getpid())}
        for name, part in PARTS.items():
            busy[part] += _cpu_s(self._stack.pid(name))
        busy["others"] = sum(times) - times.idle - times.iowait - times.guest - sum(busy.values())
        return busy

    def _mark(self, name: str) -> None:
        """From now on it is this stage; "": what comes is not measured."""
        self._marks.append(Mark(name, time.monotonic(), self._busy_s()))
        if name:
            _tell(name)

    def _summarise(self) -> None:
        figures, load = self._figures, self._load
        stretches: dict[str, list[tuple[Mark, Mark]]] = {}
        for start, end in itertools.pairwise(self._marks):
            if start.name:
                stretches.setdefault(start.name, []).append((start, end))
        for name, each in stretches.items():
            figures.searches[name] = _summary([s for a, b in each for s in between(load.searches, a.at, b.at)])
            figures.searches[name]["usual_p99_ms"] = _usual_p99_ms(load.searches, each)
            figures.writes[name] = _summary([s for a, b in each for s in between(load.writes, a.at, b.at)])
            taken_s = sum(b.at - a.at for a, b in each)
            figures.cores[name] = {
                part: round(max(0.0, sum(b.busy_s[part] - a.busy_s[part] for a, b in each) / taken_s), 2)
                for part in each[0][0].busy_s
            }
        figures.failed_searches = sum(sample.failed for sample in load.searches)
        figures.failed_writes = sum(sample.failed for sample in load.writes)
        figures.errors = dict(Counter(load.errors))


def _cpu_s(pid: int | None) -> float:
    """Of a process and all that it started."""
    if pid is None:
        return 0.0
    process = psutil.Process(pid)
    family = [process] if pid == os.getpid() else [process, *process.children(recursive=True)]
    return sum(sum(each.cpu_times()[:2]) for each in family)


def _summary(samples: list[Sample]) -> dict[str, float]:
    p50, p99 = (round(percentile_ms(samples, share), 1) for share in (0.5, 0.99))
    return {"count": len(samples), "p50_ms": p50, "p99_ms": p99, "max_ms": round(percentile_ms(samples, 1.0), 1)}


def _usual_p99_ms(samples: list[Sample], stretches: list[tuple[Mark, Mark]]) -> float:
    """The median of the 99th percentiles of all whole stretches of 5 s; NaN without one."""
    parts = [
        [*between(samples, start, start + _STRETCH_S)]
        for a, b in stretches
        for start in np.arange(a.at, b.at - _STRETCH_S, _STRETCH_S)
    ]
    return round(float(np.median([percentile_ms(part, 0.99) for part in parts])), 1) if parts else float("nan")


def _refuse_failed(rollout: model_pb2.Rollout) -> None:
    if rollout.status in (model_pb2.ROLLOUT_STATUS_FAILED, model_pb2.ROLLOUT_STATUS_CANCELLED):
        sys.exit(f"the rollout failed: {rollout.message}")


def _tell(what: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {what}", file=sys.stderr, flush=True)


def report(figures: Figures, args: argparse.Namespace) -> None:
    console = Console(width=120)
    shown = Table(
        "",
        *("searches", "p50 ms", "x", "usual p99", "x", "p99 ms", "writes", "p50 ms", "slowest ms"),
        title=f"{args.products} products, Milvus {args.milvus}, searches at {figures.rate_qps:.1f} of "
        f"{figures.capacity_qps:.1f} a second",
    )
    without = figures.searches[WITHOUT]
    for name, searches in figures.searches.items():
        writes = figures.writes[name]
        shown.add_row(
            name,
            f"{searches['count']:.0f}",
            *(
                text
                for figure in ("p50_ms", "usual_p99_ms")
                for text in (f"{searches[figure]:.0f}", f"{searches[figure] / without[figure]:.2f}")
            ),
            f"{searches['p99_ms']:.0f}",
            f"{writes['count']:.0f}",
            *(f"{writes[figure]:.0f}" for figure in ("p50_ms", "max_ms")),
        )
    console.print(shown)
    parts = list(next(iter(figures.cores.values())))
    cores = Table("", *parts, title="cores that were busy with it")
    for name, taken in figures.cores.items():
        cores.add_row(name, *(f"{taken[part]:.2f}" for part in parts))
    console.print(cores)
    batch = " and ".join(f"{each:.1f}" for each in figures.batch_images_per_s)
    lines = (
        ("failed", f"{figures.failed_searches} searches, {figures.failed_writes} writes"),
        *(("", f"{count} x {error}") for error, count in figures.errors.items()),
        ("encoder alone, images/s", f"{batch} (before and after the backfill)"),
        ("backfill idle, rows/s", f"{figures.backfill_idle_rows_per_s:.1f}, {figures.idle_share:.0%} of that"),
        ("CPU of one of its images, ms", ", ".join(f"{name} {spent:.1f}" for name, spent in figures.cpu_ms.items())),
        ("backfill under load, rows/s", f"{figures.backfill_loaded_rows_per_s:.1f}"),
        ("usual p99 of searches during backfill", f"{figures.p99_ratio:.2f} x"),
        ("freezes, s", ", ".join(f"{each:.3f}" for each in figures.freeze_s)),
        ("command to all gateways switched, s", ", ".join(f"{each:.2f}" for each in figures.switched_s)),
        ("stages, s", ", ".join(f"{name} {taken:.1f}" for name, taken in figures.stage_s.items())),
    )
    for name, value in lines:
        console.print(f"{name:38}{value}", highlight=False)


if __name__ == "__main__":
    main()
