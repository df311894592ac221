"""Searches and writes from clients that go on whatever happens, each noted with the moment when it was due."""

from __future__ import annotations

import asyncio
import itertools
import os
import random
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import grpc
import grpc.aio
from google.protobuf import field_mask_pb2
from lookalike.v1 import catalog_pb2, search_pb2

from tests.integration.shop import Shop

CALLERS = 200
_WRITES_PER_S = 3.0


@dataclass(frozen=True, slots=True)
class Sample:
    """`due`: seconds (monotonic). `latency_s`: from then on. `version`: that answered; 0: it failed, or a write."""

    due: float
    latency_s: float
    version: int = 0
    failed: bool = False


class Load:
    """On all gateways alike. Every picture is one that no cache has seen: a few bytes behind its end tell it apart."""

    def __init__(self, shops: Sequence[Shop], pictures: Sequence[bytes], products: int, seed: int = 7) -> None:
        self._shops = shops
        self._pictures = pictures
        self._products = products
        self._rng = random.Random(seed)
        self.searches: list[Sample] = []
        self.writes: list[Sample] = []
        self.errors: list[str] = []
        self._running: set[asyncio.Task[None]] = set()
        self._going: list[asyncio.Task[None]] = []

    async def capacity(self, seconds: float, clients: int = 8) -> float:
        """Searches a second of a closed loop: each client asks again as soon as it is answered."""
        end, done = time.monotonic() + seconds, 0

        async def client(shop: Shop) -> None:
            nonlocal done
            while time.monotonic() < end:
                await shop.searches.SearchProducts(self._request(), timeout=60)
                done += 1

        await asyncio.gather(*(client(shop) for shop, _ in zip(itertools.cycle(self._shops), range(clients))))
        return done / seconds

    def start(self, rate: float) -> None:
        """An open loop: searches come as a Poisson process, `rate` a second; writes beside it, one after the other."""
        self._going = [asyncio.create_task(self._search(rate)), asyncio.create_task(self._write())]

    async def stop(self) -> None:
        """No more are sent; returns when those under way are answered."""
        for task in self._going:
            task.cancel()
        await asyncio.gather(*self._going, return_exceptions=True)
        await asyncio.gather(*self._running, return_exceptions=True)
        self._going = []

    async def _search(self, rate: float) -> None:
        due, shops = time.monotonic(), itertools.cycle(self._shops)
        while True:
            due += self._rng.expovariate(rate)
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            self._spawn(self._one_search(next(shops), due))

    async def _one_search(self, shop: Shop, due: float) -> None:
        caller = (("x-caller-id", f"caller-{self._rng.randrange(CALLERS)}"),)
        version = 0
        try:
            found = await shop.searches.SearchProducts(self._request(), timeout=60, metadata=caller)
            version = int(found.provenance.model.removeprefix("models/"))
        except grpc.aio.AioRpcError as error:
            self.errors.append(f"{error.code().name}: {error.details()}")
        self.searches.append(Sample(due, time.monotonic() - due, version, failed=not version))

    async def _write(self) -> None:
        shops = itertools.cycle(self._shops)
        for number in itertools.count():
            # a write that waits is not cut off by `stop`
            await asyncio.shield(self._spawn(self._one_write(next(shops), number)))
            await asyncio.sleep(1 / _WRITES_PER_S)

    async def _one_write(self, shop: Shop, number: int) -> None:
        name, due = f"products/{product_id(self._rng.randrange(self._products))}", time.monotonic()
        failed = False
        try:
            await shop.catalog.UpdateProduct(
                catalog_pb2.UpdateProductRequest(
                    product=catalog_pb2.Product(name=name, title=str(number)),
                    update_mask=field_mask_pb2.FieldMask(paths=["title"]),
                ),
                timeout=60,
            )
        except grpc.aio.AioRpcError as error:
            self.errors.append(f"a write, {error.code().name}: {error.details()}")
            failed = True
        self.writes.append(Sample(due, time.monotonic() - due, failed=failed))

    def _spawn(self, work: object) -> asyncio.Task[None]:
        task: asyncio.Task[None] = asyncio.ensure_future(work)  # type: ignore[arg-type]
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        return task

    def _request(self) -> search_pb2.SearchProductsRequest:
        data = self._rng.choice(self._pictures) + os.urandom(8)
        return search_pb2.SearchProductsRequest(queries=[search_pb2.Query(image=data)], page_size=10)


def product_id(number: int) -> str:
    """In the order of their numbers."""
    return f"p{number:07}"


def percentile_ms(samples: Sequence[Sample], share: float) -> float:
    ordered = sorted(sample.latency_s for sample in samples)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] * 1e3 if ordered else float("nan")


def between(samples: Sequence[Sample], start: float, end: float) -> Iterator[Sample]:
    return (sample for sample in samples if start <= sample.due < end)
