"""Sends products over `UpsertProducts` until each is written or refused, whatever happens to the stream meanwhile."""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import Coroutine
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import grpc
import grpc.aio
from lookalike.v1 import catalog_pb2

from services.cli.client import Client
from services.cli.failures import NO_SERVER, Failure, from_rpc, from_status
from services.common.errors import Unavailable

# a stream that ends with one of these is opened again
_BROKEN = frozenset(
    {
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.INTERNAL,
        grpc.StatusCode.UNKNOWN,
        grpc.StatusCode.CANCELLED,
        grpc.StatusCode.ABORTED,
    }
)
_STREAM_ENDED = (grpc.RpcError, grpc.aio.UsageError, asyncio.InvalidStateError)
_LONGEST_PAUSE_S = 5.0
# a stream that lived so long had no trouble
_STABLE_S = 10.0
# a product on which this many streams broke while it was alone on them is to blame
_MOST_BREAKS = 3


@dataclass(frozen=True, slots=True)
class Patience:
    """Args:
    total_s: a product, or the whole gateway, is tried again for so long.
    silence_s: a stream without an answer for so long is given up and opened again.
    """

    total_s: float = 120.0
    silence_s: float = 120.0


@dataclass(slots=True, eq=False)
class Sent:
    """A product on its way."""

    product: catalog_pb2.Product
    answer: asyncio.Future[Failure | None]
    tries: int = 0
    breaks: int = 0
    failing_since: float | None = None


@dataclass(slots=True)
class _Trouble:
    """Since the last answer: how often the stream broke, and since when."""

    breaks: int = 0
    since: float | None = None


class UpsertStream:
    """Use as `async with`; `write` may be called by many tasks at a time.

    Nothing is lost when the stream breaks: what was not answered is sent again on the next one. The gateway replaces a
    product as a whole, so sending twice does no harm.
    """

    def __init__(self, client: Client, patience: Patience = Patience()) -> None:
        self._client = client
        self._patience = patience
        self._queue: asyncio.Queue[Sent] = asyncio.Queue()
        self._again: deque[Sent] = deque()
        self._pending: dict[str, Sent] = {}
        # on the stream when it broke; while there are any, products go one at a time
        self._suspects: set[Sent] = set()
        self._answered = asyncio.Event()
        self._trouble = _Trouble()
        self._streaming: asyncio.Task[None] | None = None
        self._later: set[asyncio.Task[None]] = set()
        self._sent_count = 0

    async def __aenter__(self) -> UpsertStream:
        self._streaming = asyncio.create_task(self._keep_streaming())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        tasks = [task for task in (self._streaming, *self._later) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def write(self, product: catalog_pb2.Product) -> Failure | None:
        """None when the product is written, else why it was refused.

        Raises:
            grpc.aio.AioRpcError: the gateway refuses the stream.
            Unavailable: the gateway can't be reached any more.
        """
        if self._streaming is None:
            raise RuntimeError("use `async with`")
        sent = Sent(product, asyncio.get_running_loop().create_future())
        self._queue.put_nowait(sent)
        await asyncio.wait((sent.answer, self._streaming), return_when=asyncio.FIRST_COMPLETED)
        if not sent.answer.done():
            self._streaming.result()  # raises what ended the stream for good
        return await sent.answer

    async def _keep_streaming(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            opened = loop.time()
            failure = await self._stream()
            if loop.time() - opened > _STABLE_S:
                self._trouble = _Trouble()
            if failure is not None and self._pending:
                self._blame(failure)
            self._trouble.since = self._trouble.since or loop.time()
            self._trouble.breaks += 1
            if loop.time() - self._trouble.since >= self._patience.total_s:
                raise Unavailable(f"gave up: {failure or 'the gateway does not answer'}", reason=NO_SERVER)
            self._again.extendleft(reversed(self._pending.values()))
            self._pending.clear()
            await asyncio.sleep(_pause_s(self._trouble.breaks))

    async def _stream(self) -> Failure | None:
        """One stream from opening to its end: how it broke; None when it ended or fell silent.

        Raises AioRpcError when another try can't help.
        """
        call = self._client.catalog.UpsertProducts()
        reader = asyncio.create_task(self._receive(call))
        writer = asyncio.create_task(self._send(call))
        try:
            await asyncio.wait((reader, writer), return_when=asyncio.FIRST_COMPLETED)
            # what stops the writer stops the reader too, and that one learns the status
            if writer.done() and not isinstance(writer.exception(), _STREAM_ENDED):
                writer.result()
            await reader
        except grpc.aio.AioRpcError as error:
            if error.code() not in _BROKEN:
                raise
            return from_rpc(error, self._client.address)
        finally:
            for task in (reader, writer):
                task.cancel()
            await asyncio.gather(reader, writer, return_exceptions=True)
            call.cancel()
        return None

    async def _send(self, call: Any) -> None:
        while True:
            while self._suspects and self._pending:
                self._answered.clear()
                await self._answered.wait()
            # from here to `_pending` without a pause: a product that is taken must not get lost when this is cancelled
            sent = self._again.popleft() if self._again else await self._queue.get()
            self._sent_count += 1
            request_id = str(self._sent_count)
            self._pending[request_id] = sent
            await call.write(catalog_pb2.UpsertProductsRequest(request_id=request_id, product=sent.product))

    async def _receive(self, call: Any) -> None:
        with suppress(TimeoutError):
            while True:
                async with asyncio.timeout(self._patience.silence_s):
                    response = await call.read()
                if response is grpc.aio.EOF:
                    return
                self._take(response)

    def _take(self, response: catalog_pb2.UpsertProductsResponse) -> None:
        sent = self._pending.pop(response.request_id, None)
        if sent is None:
            return
        self._trouble = _Trouble()
        self._suspects.discard(sent)
        self._answered.set()
        failure = from_status(response.status) if response.status.code else None
        if failure is not None and failure.transient and self._may_retry(sent):
            sent.tries += 1
            pause_s = max(failure.retry_after_s or 0.0, _pause_s(sent.tries))
            self._spawn(self._send_again(sent, pause_s))
        else:
            _resolve(sent, failure)

    def _may_retry(self, sent: Sent) -> bool:
        now = asyncio.get_running_loop().time()
        sent.failing_since = sent.failing_since or now
        return now - sent.failing_since < self._patience.total_s

    async def _send_again(self, sent: Sent, pause_s: float) -> None:
        await asyncio.sleep(pause_s)
        self._queue.put_nowait(sent)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._later.add(task)
        task.add_done_callback(self._later.discard)

    def _blame(self, failure: Failure) -> None:
        """Finds the product that breaks the stream, so that it alone is refused."""
        if failure.reason == NO_SERVER:
            return
        if len(self._pending) == 1:
            ((request_id, sent),) = self._pending.items()
            sent.breaks += 1
            if sent.breaks >= _MOST_BREAKS:
                del self._pending[request_id]
                self._suspects.discard(sent)
                self._trouble = _Trouble()
                _resolve(sent, failure)
        self._suspects.update(self._pending.values())


def _resolve(sent: Sent, failure: Failure | None) -> None:
    if not sent.answer.done():  # the caller may have gone
        sent.answer.set_result(failure)


def _pause_s(tries: int) -> float:
    """Doubles from 0.1 s, with chance, so that many clients do not come back together."""
    return min(_LONGEST_PAUSE_S, 0.1 * 2.0 ** min(tries, 10)) * random.uniform(0.5, 1.0)
