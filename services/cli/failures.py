"""What went wrong, as one line for a person: message, reason, field. Never a traceback."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import grpc
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from services.cli.addresses import GATEWAY
from services.common.errors import InvalidArgument, LookalikeError

# another try may help
TRANSIENT = frozenset(
    {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.DEADLINE_EXCEEDED}
)
# a client that can't reach a server makes these up itself; a service of ours always sends a reason with them
NO_SERVER, NO_ROLLOUT_SERVICE = "NO_GATEWAY", "NO_ROLLOUT_SERVICE"
CODES = {code.value[0]: code for code in grpc.StatusCode}


@dataclass(frozen=True, slots=True)
class Failure:
    """Args:
    reason: UPPER_SNAKE.
    field: path of the request field at fault, or empty.
    retry_after_s: how long the server asks to wait before another try; None: it did not say.
    """

    code: grpc.StatusCode
    message: str
    reason: str
    field: str = ""
    retry_after_s: float | None = None

    @property
    def transient(self) -> bool:
        return self.code in TRANSIENT

    def __str__(self) -> str:
        facts = [f"reason {self.reason}"] if self.reason != InvalidArgument.reason else []
        if self.field:
            facts.append(f"field {self.field}")
        message = " ".join(self.message.split())
        return f"{message} ({', '.join(facts)})" if facts else message


def from_status(status: Any) -> Failure:
    """Of a `google.rpc.Status`."""
    code = CODES.get(status.code, grpc.StatusCode.UNKNOWN)
    info, bad, retry = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest(), error_details_pb2.RetryInfo()
    for detail in status.details:
        for message in (info, bad, retry):
            detail.Unpack(message)
    return Failure(
        code=code,
        message=status.message or code.name,
        reason=info.reason or code.name,
        field=bad.field_violations[0].field if bad.field_violations else "",
        retry_after_s=retry.retry_delay.ToTimedelta().total_seconds() if retry.HasField("retry_delay") else None,
    )


def from_rpc(error: grpc.RpcError, address: str = "", service: str = GATEWAY) -> Failure:
    """Of a failed call.

    Args:
        address: where the service was looked for, to be named when there is none.
        service: GATEWAY or ROLLOUT_SERVICE.
    """
    status = rpc_status.from_call(error)
    if status is not None:
        return from_status(status)
    code, details = error.code(), error.details() or ""
    if code is grpc.StatusCode.UNAVAILABLE:
        at = f" at {address}" if address else ""
        why = "" if "Connection refused" in details else f" ({details[:160]})"
        reason = NO_SERVER if service == GATEWAY else NO_ROLLOUT_SERVICE
        return Failure(code, f"no {service} answers{at}{why}; start one with `lookalike up`", reason)
    return Failure(code, details or code.name, code.name)


def from_error(error: LookalikeError) -> Failure:
    """Of an error that was found on this side."""
    return Failure(error.code, error.message, error.reason, error.field or "", error.retry_after_s)
