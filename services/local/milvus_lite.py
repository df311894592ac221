"""Milvus Lite as a server for several clients: `python -m services.local.milvus_lite --data-dir DIR --port PORT`.

The engine takes one writer a collection and says so, but its own server lets its threads write at the same time, which
loses acknowledged rows; and while it flushes, rows that left the memtable are in no segment yet, so that a search
misses them. Here each RPC passes one lock: reads share it, everything else has it alone.

Its memtable is searched row by row in Python, about 0.1 ms a row: rows are flushed to indexed segments in the
background, when there are many or when writes pause.
"""

from __future__ import annotations

import argparse
import logging
import shutil
import signal
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
from milvus_lite.adapter.grpc.servicer import MilvusServicer
from milvus_lite.db import MilvusLite
from pymilvus.grpc_gen import milvus_pb2_grpc

from services.local.read_write_lock import ReadWriteLock

logger = logging.getLogger(__name__)

SERVICE = "milvus.proto.milvus.MilvusService"
# RPCs that change nothing; LoadCollection builds indexes under a lock of the engine, and would hold up searches
READS = ("Search", "HybridSearch", "Query", "Get", "Has", "Describe", "Show", "List", "Connect", "CheckHealth", "Load")
MAX_MESSAGE_BYTES = 256 * 2**20
THREADS = 16
FLUSH_ROWS = 400
FLUSH_PAUSE_S = 0.5
DRAIN_S = 5.0


class LockedRpcs(grpc.ServerInterceptor):
    """Passes each RPC through the lock.

    Args:
        wrote: called after each RPC that may have written, with the lock released.
    """

    def __init__(self, lock: ReadWriteLock, wrote: Callable[[], None]) -> None:
        self._lock = lock
        self._wrote = wrote

    def intercept_service(self, continuation: Callable[[Any], Any], handler_call_details: Any) -> Any:
        handler = continuation(handler_call_details)
        service, method = handler_call_details.method.lstrip("/").split("/")
        if handler is None or service != SERVICE:
            return handler
        answer = handler.unary_unary

        def reading(request: Any, context: grpc.ServicerContext) -> Any:
            with self._lock.read():
                return answer(request, context)

        def writing(request: Any, context: grpc.ServicerContext) -> Any:
            with self._lock.write():
                # a caller that gave up while it waited would not learn what became of the write
                if not context.is_active():
                    context.abort(grpc.StatusCode.CANCELLED, "the caller has gone")
                reply = answer(request, context)
            self._wrote()
            return reply

        return grpc.unary_unary_rpc_method_handler(
            reading if method.startswith(READS) else writing,
            request_deserializer=handler.request_deserializer,
            response_serializer=handler.response_serializer,
        )


class Flusher:
    """A thread that flushes the memtables, when they hold `rows` or nothing was written for `pause_s`."""

    def __init__(self, database: MilvusLite, lock: ReadWriteLock, *, rows: int, pause_s: float) -> None:
        self._database = database
        self._lock = lock
        self._rows = rows
        self._pause_s = pause_s
        self._wrote = threading.Event()
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="flusher", daemon=True)

    def __enter__(self) -> Flusher:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping = True
        self._wrote.set()
        self._thread.join()

    def wrote(self) -> None:
        """To be called after every write."""
        self._wrote.set()

    def _run(self) -> None:
        while True:
            self._wrote.wait()
            paused = False
            while not paused and not self._stopping:
                self._wrote.clear()
                self._flush(self._rows)
                paused = not self._wrote.wait(self._pause_s)
            if self._stopping:
                return
            self._flush(1)

    def _flush(self, at_least: int) -> None:
        """Flushes the collections whose memtable has so many rows and tombstones."""
        with self._lock.read():
            full = [c for c in collections(self._database) if c.count() >= at_least]
        if full:
            with self._lock.write():
                for collection in full:
                    try:
                        collection.flush()
                    except Exception:
                        # nothing is lost, the rows stand in the write-ahead log
                        logger.exception("flush of %s failed", collection.name)


def collections(database: MilvusLite) -> list[Any]:
    """All open collections of the default database."""
    return [database.get_collection(name) for name in database.list_collections()]


def open_database(folder: Path) -> MilvusLite:
    """Opens every collection and loads its indexes, as Milvus does with what was loaded before.

    Two first requests at the same time would otherwise open one collection twice.
    """
    # a kill between the making of a collection's folder and of its schema leaves a name that nothing can use
    for unfinished in (folder / "collections").glob("*"):
        if unfinished.is_dir() and not (unfinished / "schema.json").exists():
            shutil.rmtree(unfinished)
    database = MilvusLite(str(folder))
    for collection in collections(database):
        began = time.monotonic()
        collection.load()
        logger.info("loaded %s in %.1f s", collection.name, time.monotonic() - began)
    return database


def serve(folder: Path, host: str, port: int) -> None:
    """Serves until SIGTERM or SIGINT, then flushes and closes."""
    stopping = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopping.set())
    database = open_database(folder)
    lock = ReadWriteLock()
    try:
        with Flusher(database, lock, rows=FLUSH_ROWS, pause_s=FLUSH_PAUSE_S) as flusher:
            # rows that were recovered from the write-ahead log
            flusher.wrote()
            server = grpc.server(
                ThreadPoolExecutor(THREADS, thread_name_prefix="rpc"),
                interceptors=[LockedRpcs(lock, flusher.wrote)],
                options=[
                    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
                    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
                    # a second server on the port is an error, not a second half
                    ("grpc.so_reuseport", 0),
                ],
            )
            milvus_pb2_grpc.add_MilvusServiceServicer_to_server(MilvusServicer(database), server)
            server.add_insecure_port(f"{host}:{port}")
            server.start()
            logger.info("serving %s at %s:%d", folder, host, port)
            stopping.wait()
            server.stop(DRAIN_S).wait()
    finally:
        database.close()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m services.local.milvus_lite", description="Milvus Lite as a server")
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, required=True)
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    serve(arguments.data_dir, arguments.host, arguments.port)


if __name__ == "__main__":
    main()
