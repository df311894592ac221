"""A rollout as it is remembered: what was asked for, where it stands, what was measured.

The record is kept with the serving collection, so it survives the service, and moves with the alias.
"""

from __future__ import annotations

import json
import types
import typing
from dataclasses import asdict, dataclass, field, fields, is_dataclass, replace
from enum import StrEnum
from typing import Any, Self

# of products named in a record
MAX_NAMED = 1000


class Stage(StrEnum):
    """In their order."""

    VERIFY = "verify"
    LOAD = "load"
    GATE = "gate"
    BACKFILL = "backfill"
    DRAIN = "drain"
    SHADOW = "shadow"
    CANARY = "canary"
    CHECK = "check"
    SWITCH = "switch"
    RETENTION = "retention"
    RETIRED = "retired"


class Status(StrEnum):
    RUNNING = "running"
    WAITING = "waiting"
    PAUSED = "paused"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def ended(self) -> bool:
        return self in (Status.SUCCEEDED, Status.FAILED, Status.CANCELLED)


class Missing(StrEnum):
    """What to do with images whose original is missing."""

    STOP = "stop"
    SKIP = "skip"


@dataclass(frozen=True, slots=True)
class Options:
    """What an operator asks for.

    Args:
        canary: share of callers, shadow: share of searches, 0 to 1.
        golden_set: a folder or manifest of labelled photographs; "": drawn from the catalogue.
        tolerance: how much a metric may drop overall, category_tolerance: within a category.
        latency_budget_ms: for one picture, p95.
        retention_s: how long the version before is kept up to date.
    """

    canary: float = 0.0
    shadow: float = 0.0
    validate_only: bool = False
    auto: bool = False
    compatible: bool = False
    golden_set: str = ""
    tolerance: float = 0.01
    category_tolerance: float = 0.05
    latency_budget_ms: float = 250.0
    missing: Missing = Missing.STOP
    retention_s: float = 24 * 3600.0


@dataclass(frozen=True, slots=True)
class GateRow:
    """Shares of queries, 0 to 1, by the version before and by the new one; `category` "" is all of them.

    Args:
        compatible: recall@1 of the new version's queries against the old one's vectors; None when not asked for.
        failed: one of them dropped by more than its tolerance.
    """

    category: str
    queries: int
    recall_1: tuple[float, float]
    recall_5: tuple[float, float]
    ndcg_10: tuple[float, float]
    compatible: float | None = None
    failed: bool = False


@dataclass(frozen=True, slots=True)
class Gate:
    """Args:
    golden_set: what was asked for what, in words.
    rows: overall first, then by category.
    latency_ms: p95 for one picture, of the version before and of the new one.
    """

    passed: bool
    golden_set: str
    rows: tuple[GateRow, ...]
    latency_ms: tuple[float, float]
    latency_budget_ms: float
    compatible: bool = False


@dataclass(frozen=True, slots=True)
class Rollout:
    """Args:
    id: of `rollouts/{id}` and `operations/{id}`.
    version: to be taken into service. previous: that served when it began; both are encoder versions.
    rollback: back to a version that is kept up to date.
    message: what it waits for or why it paused or failed, for people. reason: of a failure, UPPER_SNAKE.
    promoted: an operator has let it go on from this stage. cancelling: an operator has ended it.
    samples_log: the change log that shadow and canary samples are kept under.
    switch_log, switch_from: the change log that the switch must read once more, and from where.
    missing: products with images whose original is missing, at most MAX_NAMED.
    freeze_s: how long writes waited at the switch.
    created, updated: seconds since 1970; 0: not yet.
    stage_s: how long each stage has taken so far.
    """

    id: str
    version: int
    previous: int
    options: Options = Options()
    rollback: bool = False
    stage: Stage = Stage.VERIFY
    status: Status = Status.RUNNING
    message: str = ""
    reason: str = ""
    promoted: bool = False
    cancelling: bool = False
    samples_log: str = ""
    switch_log: str = ""
    switch_from: str = ""
    gate: Gate | None = None
    missing: tuple[str, ...] = ()
    freeze_s: float = 0.0
    created: float = 0.0
    updated: float = 0.0
    stage_s: dict[str, float] = field(default_factory=dict)

    def but(self, **changes: Any) -> Self:
        return replace(self, **changes)

    def to_json(self) -> str:
        return json.dumps(asdict(self), separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> Self | None:
        """None for "". Raises ValueError when it is not well formed."""
        if not text:
            return None
        try:
            made: Self = _read(cls, json.loads(text))
        except (TypeError, KeyError, AttributeError) as error:
            raise ValueError(f"not a rollout's record: {error!r}") from error
        return made


@dataclass(frozen=True, slots=True)
class Progress:
    """What changes too often to be remembered; of the process that walks.

    Args:
        done, total: images. backlog: entries of the change log that wait.
    """

    done: int = 0
    total: int = 0
    rows_per_s: float = 0.0
    eta_s: float | None = None
    backlog: int = 0


def _read(kind: Any, raw: Any) -> Any:
    """A value of a dataclass's field from what JSON made of it."""
    if is_dataclass(kind) and isinstance(kind, type):
        hints = typing.get_type_hints(kind)
        known = {each.name for each in fields(kind)} & raw.keys()
        return kind(**{name: _read(hints[name], raw[name]) for name in known})
    origin, inner = typing.get_origin(kind), typing.get_args(kind)
    if origin is types.UnionType:
        return None if raw is None else _read(next(each for each in inner if each is not type(None)), raw)
    if origin is tuple:
        kinds = [inner[0]] * len(raw) if inner[-1] is Ellipsis else list(inner)
        return tuple(_read(each, value) for each, value in zip(kinds, raw, strict=True))
    if isinstance(kind, type) and issubclass(kind, StrEnum):
        return kind(raw)
    return raw
