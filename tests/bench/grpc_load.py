"""Load for a gateway: closed loop (--concurrency) or open loop (--rate, arrivals as a Poisson process).

    python -m tests.bench.grpc_load --images DIR --address 127.0.0.1:50051 --concurrency 8 --requests 400

Each request is a picture that no cache has seen: a few bytes behind its end make it another one with the same pixels.
With --repeats the same pictures come again and again, and every cache may answer. Prints one JSON line: requests,
errors, QPS, and p50, p95, p99 of the latency in ms (open loop: from the due time).
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import pathlib
import random
import time
from collections.abc import Iterator

import grpc.aio
import numpy as np
import uvloop
from lookalike.v1 import search_pb2


def bodies(args: argparse.Namespace) -> Iterator[bytes]:
    """Serialised requests."""
    rng = random.Random(args.seed)
    files = [path.read_bytes() for path in sorted(args.images.rglob("*.jpg"))]
    if args.repeats:
        files = rng.sample(files, min(args.repeats, len(files)))
    for _ in range(args.requests):
        data = rng.choice(files) + (b"" if args.repeats else os.urandom(8))
        yield search_pb2.SearchProductsRequest(
            queries=[search_pb2.Query(image=data)], page_size=args.page_size
        ).SerializeToString()


async def main(args: argparse.Namespace) -> None:
    requests = list(bodies(args))
    latencies: list[float] = []
    errors = 0
    async with grpc.aio.insecure_channel(args.address) as channel:
        # requests are serialised beforehand and answers are not parsed: what is measured is the service
        search = channel.unary_unary("/lookalike.v1.SearchService/SearchProducts")

        async def one(body: bytes, due: float) -> None:
            nonlocal errors
            try:
                await search(body, timeout=60)
            except grpc.aio.AioRpcError:
                errors += 1
            latencies.append(time.perf_counter() - due)

        for body in requests[:8] if not args.repeats else requests:
            await one(body, time.perf_counter())
        latencies.clear()
        if not args.repeats:
            requests = requests[8:]
        start = time.perf_counter()
        if args.rate:
            due, tasks, rng = start, [], random.Random(args.seed)
            for body in requests:
                due += rng.expovariate(args.rate)
                await asyncio.sleep(max(0.0, due - time.perf_counter()))
                tasks.append(asyncio.create_task(one(body, due)))
            await asyncio.gather(*tasks)
        else:
            queue = iter(requests)

            async def worker() -> None:
                for body in queue:
                    await one(body, time.perf_counter())

            await asyncio.gather(*(worker() for _ in range(args.concurrency)))
        wall = time.perf_counter() - start
    p50, p95, p99 = (round(float(v) * 1e3, 1) for v in np.percentile(latencies, [50, 95, 99]))
    measured = {"requests": len(latencies), "errors": errors, "qps": round(len(latencies) / wall, 1)}
    print(json.dumps(measured | {"p50_ms": p50, "p95_ms": p95, "p99_ms": p99}))


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--images", required=True, type=pathlib.Path)
    parser.add_argument("--address", default="127.0.0.1:50051")
    parser.add_argument("--concurrency", type=int, default=8)
    parser.add_argument("--rate", type=float, default=0.0, help="requests per second; 0 means closed loop")
    parser.add_argument("--requests", type=int, default=400)
    parser.add_argument("--repeats", type=int, default=0, help="use only this many pictures, as they are")
    parser.add_argument("--page-size", type=int, default=10)
    parser.add_argument("--seed", type=int, default=7)
    uvloop.run(main(parser.parse_args()))
