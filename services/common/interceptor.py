"""What happens around every request: its id, its metrics, its log line, and errors made into google.rpc.Status."""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, NoReturn

import grpc
import grpc.aio
from google.protobuf import any_pb2, duration_pb2
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2, status_pb2

from services.common.errors import DeadlineExceeded, InvalidArgument, LookalikeError
from services.common.telemetry import Metrics, request_id

DOMAIN = "lookalike"
REQUEST_ID_HEADER = "x-request-id"
PACKAGES = ("/lookalike.", "/google.longrunning.")

_log = logging.getLogger("lookalike.request")


def to_status(error: BaseException) -> status_pb2.Status:
    """The `google.rpc.Status` that the caller sees. What is not a LookalikeError becomes INTERNAL, without its text."""
    if isinstance(error, TimeoutError):
        error = DeadlineExceeded("the deadline passed before the answer was ready")
    if not isinstance(error, LookalikeError):
        error = LookalikeError("internal error; the service's log has the details under this request's id")
    details: list[Any] = [
        error_details_pb2.ErrorInfo(reason=error.reason, domain=DOMAIN, metadata=error.metadata),
    ]
    if error.field:
        violation = error_details_pb2.BadRequest.FieldViolation(field=error.field, description=error.message)
        details.append(error_details_pb2.BadRequest(field_violations=[violation]))
    if error.retry_after_s is not None:
        delay = duration_pb2.Duration(nanos=round(error.retry_after_s * 1e9) % 10**9, seconds=int(error.retry_after_s))
        details.append(error_details_pb2.RetryInfo(retry_delay=delay))
    if current := request_id.get():
        details.append(error_details_pb2.RequestInfo(request_id=current))
    packed = []
    for detail in details:
        any_detail = any_pb2.Any()
        any_detail.Pack(detail)
        packed.append(any_detail)
    return status_pb2.Status(code=error.code.value[0], message=error.message, details=packed)


class RequestInterceptor(grpc.aio.ServerInterceptor):
    """Wraps every method of this package, and long-running operations; health and reflection pass through."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler:
        handler = await continuation(handler_call_details)
        method: str = handler_call_details.method
        if handler is None or not method.startswith(PACKAGES):
            return handler
        name = method.rsplit("/", 1)[-1]
        # messages are parsed in here: gRPC itself would answer UNKNOWN to what is no message
        parse = _parser(handler.request_deserializer)
        if handler.unary_unary:
            return grpc.unary_unary_rpc_method_handler(
                self._unary(name, parse, handler.unary_unary), None, handler.response_serializer
            )
        return grpc.stream_stream_rpc_method_handler(
            self._stream(name, parse, handler.stream_stream), None, handler.response_serializer
        )

    def _unary(
        self, name: str, parse: Callable[[bytes], Any], answer: Callable[..., Awaitable[Any]]
    ) -> Callable[..., Awaitable[Any]]:
        async def wrapped(request: bytes, context: grpc.aio.ServicerContext) -> Any:
            observed = _Observed(name, self._metrics, context)
            try:
                response = await answer(parse(request), context)
            except BaseException as error:
                await observed.failed(error)
            observed.ended(grpc.StatusCode.OK)
            return response

        return wrapped

    def _stream(
        self, name: str, parse: Callable[[bytes], Any], answer: Callable[..., AsyncIterator[Any]]
    ) -> Callable[..., AsyncIterator[Any]]:
        async def wrapped(requests: AsyncIterator[bytes], context: grpc.aio.ServicerContext) -> AsyncIterator[Any]:
            observed = _Observed(name, self._metrics, context)
            try:
                async for response in answer((parse(request) async for request in requests), context):
                    yield response
            except BaseException as error:
                await observed.failed(error)
            observed.ended(grpc.StatusCode.OK)

        return wrapped


def _parser(deserializer: Callable[[bytes], Any]) -> Callable[[bytes], Any]:
    def parse(data: bytes) -> Any:
        try:
            return deserializer(data)
        except DecodeError:
            raise InvalidArgument("the request is not a message of this method", reason="MESSAGE_MALFORMED") from None

    return parse


class _Observed:
    """One request from its first to its last moment."""

    def __init__(self, name: str, metrics: Metrics, context: grpc.aio.ServicerContext) -> None:
        self._name = name
        self._metrics = metrics
        self._context = context
        self._start = time.perf_counter()
        given = next((v for k, v in context.invocation_metadata() or () if k == REQUEST_ID_HEADER), "")
        request_id.set(str(given)[:64] or uuid.uuid4().hex)
        metrics.in_flight.inc()

    def ended(self, code: grpc.StatusCode, message: str = "", error: BaseException | None = None) -> None:
        took_s = time.perf_counter() - self._start
        self._metrics.in_flight.dec()
        self._metrics.requests.labels(self._name, code.name).inc()
        self._metrics.latency.labels(self._name).observe(took_s)
        level = logging.ERROR if error else logging.DEBUG if code is grpc.StatusCode.OK else logging.INFO
        if _log.isEnabledFor(level):
            facts = {"method": self._name, "code": code.name, "ms": round(took_s * 1e3, 2), "error": message}
            _log.log(level, "request", extra={"facts": facts}, exc_info=error)

    async def failed(self, error: BaseException) -> NoReturn:
        """Ends the request with the status of the error. Always raises."""
        if isinstance(error, asyncio.CancelledError | GeneratorExit):
            self.ended(grpc.StatusCode.CANCELLED, "the caller went away or its deadline passed")
            raise error
        status = to_status(error)
        code = next(c for c in grpc.StatusCode if c.value[0] == status.code)
        known = isinstance(error, LookalikeError | TimeoutError)
        self.ended(code, status.message if known else repr(error), None if known else error)
        trailing = (("grpc-status-details-bin", status.SerializeToString()),)
        await self._context.abort(code, status.message, trailing)
        raise AssertionError("abort always raises")
