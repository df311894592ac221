"""Errors that callers may see. Each class carries its gRPC status code and a machine-readable reason.

    LookalikeError
    +-- InvalidArgument             the request is wrong; sending it again will not help
    |   +-- InvalidImage            reason says what is wrong with the picture
    |   +-- InvalidFilter           names the place in the text
    +-- NotFound
    +-- AlreadyChanged              the etag does not match
    +-- FailedPrecondition          the system is not in the state the request needs
    +-- Overloaded                  retry after the given delay
    +-- Unavailable                 a part of the system does not answer; retry
    +-- DeadlineExceeded
    +-- NotSupported                a method of a common API that has no meaning here

`services.common.server` turns them into `google.rpc.Status` with ErrorInfo, BadRequest and RetryInfo; nothing else
builds a gRPC status. Any other exception becomes INTERNAL with a fixed message and a logged traceback.
"""

from __future__ import annotations

import grpc


class LookalikeError(Exception):
    """Base of every error that is meant for the caller.

    Args:
        message: one sentence for a person.
        reason: UPPER_SNAKE, for programs; a class default when None.
        field: path of the request field at fault, for BadRequest.
        metadata: further facts for ErrorInfo, values as strings.
    """

    code: grpc.StatusCode = grpc.StatusCode.INTERNAL
    reason: str = "INTERNAL"
    retry_after_s: float | None = None

    def __init__(
        self,
        message: str,
        *,
        reason: str | None = None,
        field: str | None = None,
        metadata: dict[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.reason = reason or type(self).reason
        self.field = field
        self.metadata = metadata or {}


class InvalidArgument(LookalikeError):
    code = grpc.StatusCode.INVALID_ARGUMENT
    reason = "INVALID_ARGUMENT"


class InvalidImage(InvalidArgument):
    """Reasons: IMAGE_EMPTY, IMAGE_NOT_RECOGNISED, IMAGE_FORMAT_UNSUPPORTED, IMAGE_TRUNCATED, IMAGE_CORRUPT,
    IMAGE_TOO_LARGE (bytes or pixels), IMAGE_TOO_SMALL, IMAGE_REGION_INVALID."""

    reason = "IMAGE_CORRUPT"


class InvalidFilter(InvalidArgument):
    """Reasons: FILTER_SYNTAX, FILTER_UNKNOWN_FIELD, FILTER_TYPE_MISMATCH, FILTER_TOO_COMPLEX.

    Args:
        position: offset of the offending text, in characters from 0.
    """

    reason = "FILTER_SYNTAX"

    def __init__(self, message: str, *, reason: str, position: int) -> None:
        super().__init__(message, reason=reason, field="filter", metadata={"position": str(position)})
        self.position = position


class NotFound(LookalikeError):
    code = grpc.StatusCode.NOT_FOUND
    reason = "NOT_FOUND"


class AlreadyChanged(LookalikeError):
    code = grpc.StatusCode.ABORTED
    reason = "ETAG_MISMATCH"


class FailedPrecondition(LookalikeError):
    code = grpc.StatusCode.FAILED_PRECONDITION
    reason = "FAILED_PRECONDITION"


class Overloaded(LookalikeError):
    code = grpc.StatusCode.RESOURCE_EXHAUSTED
    reason = "OVERLOADED"
    retry_after_s = 0.5


class Unavailable(LookalikeError):
    """Reasons: ENCODER_UNAVAILABLE, INDEX_UNAVAILABLE, IMAGE_STORE_UNAVAILABLE, SHUTTING_DOWN."""

    code = grpc.StatusCode.UNAVAILABLE
    reason = "UNAVAILABLE"
    retry_after_s = 1.0


class DeadlineExceeded(LookalikeError):
    code = grpc.StatusCode.DEADLINE_EXCEEDED
    reason = "DEADLINE_EXCEEDED"


class NotSupported(LookalikeError):
    code = grpc.StatusCode.UNIMPLEMENTED
    reason = "NOT_SUPPORTED"
