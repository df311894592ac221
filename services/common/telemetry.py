"""Logs and metrics: one JSON object a log line, Prometheus metrics on an HTTP port."""

from __future__ import annotations

import json
import logging
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from types import TracebackType
from wsgiref.simple_server import WSGIServer

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, start_http_server

# Set for the time of one request; every log line written meanwhile carries it.
request_id: ContextVar[str] = ContextVar("request_id", default="")

_LATENCY_BUCKETS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


class JsonFormatter(logging.Formatter):
    """One JSON object a line. Facts go in by `extra={"facts": {...}}`; image bytes never do."""

    def format(self, record: logging.LogRecord) -> str:
        entry: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
        }
        if current := request_id.get():
            entry["request_id"] = current
        entry.update(getattr(record, "facts", {}))
        if record.exc_info:
            entry["traceback"] = self.formatException(record.exc_info)
        return json.dumps(entry, ensure_ascii=False, default=str)


def configure_logging(level: str) -> None:
    """Sends all logs to stderr as JSON lines. Raises ValueError for an unknown level."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    # pymilvus logs an error, with its traceback, for every call that fails; the caller already tells of it
    logging.getLogger("pymilvus").setLevel(logging.CRITICAL)


class Metrics:
    """The service's Prometheus metrics, in a registry of their own.

    Use as a context manager: entering opens the HTTP port (0: none), leaving closes it.
    """

    def __init__(self, host: str = "127.0.0.1", port: int = 0) -> None:
        self._address = (host, port)
        self._http: tuple[WSGIServer, threading.Thread] | None = None
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self.requests = Counter("lookalike_requests", "Requests answered", ["method", "code"], registry=self.registry)
        self.in_flight = Gauge("lookalike_requests_in_flight", "Requests being answered", registry=self.registry)
        self.latency = Histogram(
            "lookalike_request_seconds",
            "Time to answer a request",
            ["method"],
            buckets=_LATENCY_BUCKETS_S,
            registry=self.registry,
        )
        self.stages = Histogram(
            "lookalike_stage_seconds",
            "Time spent in one stage of a request: decode, embed, search, cache, store, write",
            ["stage"],
            buckets=_LATENCY_BUCKETS_S,
            registry=self.registry,
        )
        self.cache = Counter(
            "lookalike_cache_lookups",
            "Look-ups in the cache: kind embedding or result, outcome hit, miss or unavailable",
            ["kind", "outcome"],
            registry=self.registry,
        )
        self.images = Counter("lookalike_images_embedded", "Images embedded", ["purpose"], registry=self.registry)

    def __enter__(self) -> Metrics:
        host, port = self._address
        if port:
            self._http = start_http_server(port, host, registry=self.registry)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        if self._http:
            server, thread = self._http
            server.shutdown()
            server.server_close()
            thread.join()

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Measures one stage."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.stages.labels(name).observe(time.perf_counter() - start)
