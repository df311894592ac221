"""What an operator asks for, from a request and back."""

from __future__ import annotations

import math
from typing import Any

from google.protobuf import duration_pb2
from lookalike.v1 import model_pb2

from services.common.errors import InvalidArgument
from services.rollout.names import model_name
from services.rollout.record import Missing, Options

MAX_LATENCY_BUDGET_S = 60.0
MAX_RETENTION_S = 366 * 24 * 3600.0
MAX_PATH_CHARS = 4096

_MISSING = {
    model_pb2.MISSING_ORIGINALS_UNSPECIFIED: Missing.STOP,
    model_pb2.MISSING_ORIGINALS_STOP: Missing.STOP,
    model_pb2.MISSING_ORIGINALS_SKIP: Missing.SKIP,
}


def to_options(request: model_pb2.RolloutModelRequest) -> Options:
    """What is absent has the default of `Options`. Raises InvalidArgument, naming the field."""
    default = Options()
    if request.missing_originals not in _MISSING:
        raise InvalidArgument(f"missing_originals has no value {request.missing_originals}", field="missing_originals")
    if len(request.golden_set) > MAX_PATH_CHARS:
        raise InvalidArgument(f"golden_set has more than {MAX_PATH_CHARS} characters", field="golden_set")

    def share(field: str) -> float:
        value: float = getattr(request, field)
        if not 0 <= value <= 1:  # NaN neither
            raise InvalidArgument(f"{field} is {value:g}; it is a share, 0 to 1", field=field)
        return value

    def seconds(field: str, absent: float, most: float) -> float:
        if not request.HasField(field):
            return absent
        value: Any = getattr(request, field)
        given = value.seconds + value.nanos / 1e9
        if not 0 < given <= most:
            raise InvalidArgument(
                f"{field} is {given:g} s; it must be more than nothing and at most {most:g} s", field=field
            )
        return float(given)

    return Options(
        canary=share("canary"),
        shadow=share("shadow"),
        validate_only=request.validate_only,
        auto=request.auto,
        compatible=request.compatible,
        golden_set=request.golden_set,
        tolerance=share("tolerance") if request.HasField("tolerance") else default.tolerance,
        category_tolerance=share("category_tolerance")
        if request.HasField("category_tolerance")
        else default.category_tolerance,
        latency_budget_ms=round(
            1e3 * seconds("latency_budget", default.latency_budget_ms / 1e3, MAX_LATENCY_BUDGET_S), 3
        ),
        missing=_MISSING[request.missing_originals],
        retention_s=seconds("retention", default.retention_s, MAX_RETENTION_S),
    )


def to_request(version: int, options: Options) -> model_pb2.RolloutModelRequest:
    """With every default written out."""
    return model_pb2.RolloutModelRequest(
        name=model_name(version),
        canary=options.canary,
        shadow=options.shadow,
        validate_only=options.validate_only,
        auto=options.auto,
        compatible=options.compatible,
        golden_set=options.golden_set,
        tolerance=options.tolerance,
        category_tolerance=options.category_tolerance,
        latency_budget=to_duration(options.latency_budget_ms / 1e3),
        missing_originals=f"MISSING_ORIGINALS_{options.missing.name}",
        retention=to_duration(options.retention_s),
    )


def to_duration(seconds: float) -> duration_pb2.Duration:
    """Not negative, to the microsecond."""
    duration = duration_pb2.Duration()
    duration.FromMicroseconds(round(seconds * 1e6) if math.isfinite(seconds) else 0)
    return duration
