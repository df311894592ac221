import datetime

from google.longrunning import operations_pb2 as _operations_pb2
from google.protobuf import duration_pb2 as _duration_pb2
from google.protobuf import timestamp_pb2 as _timestamp_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class ModelState(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    MODEL_STATE_UNSPECIFIED: _ClassVar[ModelState]
    MODEL_STATE_AVAILABLE: _ClassVar[ModelState]
    MODEL_STATE_ROLLING_OUT: _ClassVar[ModelState]
    MODEL_STATE_SERVING: _ClassVar[ModelState]
    MODEL_STATE_RETAINED: _ClassVar[ModelState]
    MODEL_STATE_DAMAGED: _ClassVar[ModelState]

class MissingOriginals(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    MISSING_ORIGINALS_UNSPECIFIED: _ClassVar[MissingOriginals]
    MISSING_ORIGINALS_STOP: _ClassVar[MissingOriginals]
    MISSING_ORIGINALS_SKIP: _ClassVar[MissingOriginals]

class RolloutStage(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    ROLLOUT_STAGE_UNSPECIFIED: _ClassVar[RolloutStage]
    ROLLOUT_STAGE_VERIFY: _ClassVar[RolloutStage]
    ROLLOUT_STAGE_LOAD: _ClassVar[RolloutStage]
    ROLLOUT_STAGE_GATE: _ClassVar[RolloutStage]
    ROLLOUT_STAGE_BACKFILL: _ClassVar[RolloutStage]
    ROLLOUT_STAGE_DRAIN: _ClassVar[RolloutStage]
    ROLLOUT_STAGE_SHADOW: _ClassVar[RolloutStage]
    ROLLOUT_STAGE_CANARY: _ClassVar[RolloutStage]
    ROLLOUT_STAGE_CHECK: _ClassVar[RolloutStage]
    ROLLOUT_STAGE_SWITCH: _ClassVar[RolloutStage]
    ROLLOUT_STAGE_RETENTION: _ClassVar[RolloutStage]
    ROLLOUT_STAGE_RETIRED: _ClassVar[RolloutStage]

class RolloutStatus(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    ROLLOUT_STATUS_UNSPECIFIED: _ClassVar[RolloutStatus]
    ROLLOUT_STATUS_RUNNING: _ClassVar[RolloutStatus]
    ROLLOUT_STATUS_WAITING: _ClassVar[RolloutStatus]
    ROLLOUT_STATUS_PAUSED: _ClassVar[RolloutStatus]
    ROLLOUT_STATUS_SUCCEEDED: _ClassVar[RolloutStatus]
    ROLLOUT_STATUS_FAILED: _ClassVar[RolloutStatus]
    ROLLOUT_STATUS_CANCELLED: _ClassVar[RolloutStatus]
MODEL_STATE_UNSPECIFIED: ModelState
MODEL_STATE_AVAILABLE: ModelState
MODEL_STATE_ROLLING_OUT: ModelState
MODEL_STATE_SERVING: ModelState
MODEL_STATE_RETAINED: ModelState
MODEL_STATE_DAMAGED: ModelState
MISSING_ORIGINALS_UNSPECIFIED: MissingOriginals
MISSING_ORIGINALS_STOP: MissingOriginals
MISSING_ORIGINALS_SKIP: MissingOriginals
ROLLOUT_STAGE_UNSPECIFIED: RolloutStage
ROLLOUT_STAGE_VERIFY: RolloutStage
ROLLOUT_STAGE_LOAD: RolloutStage
ROLLOUT_STAGE_GATE: RolloutStage
ROLLOUT_STAGE_BACKFILL: RolloutStage
ROLLOUT_STAGE_DRAIN: RolloutStage
ROLLOUT_STAGE_SHADOW: RolloutStage
ROLLOUT_STAGE_CANARY: RolloutStage
ROLLOUT_STAGE_CHECK: RolloutStage
ROLLOUT_STAGE_SWITCH: RolloutStage
ROLLOUT_STAGE_RETENTION: RolloutStage
ROLLOUT_STAGE_RETIRED: RolloutStage
ROLLOUT_STATUS_UNSPECIFIED: RolloutStatus
ROLLOUT_STATUS_RUNNING: RolloutStatus
ROLLOUT_STATUS_WAITING: RolloutStatus
ROLLOUT_STATUS_PAUSED: RolloutStatus
ROLLOUT_STATUS_SUCCEEDED: RolloutStatus
ROLLOUT_STATUS_FAILED: RolloutStatus
ROLLOUT_STATUS_CANCELLED: RolloutStatus

class ListModelsRequest(_message.Message):
    __slots__ = ("page_size", "page_token")
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    page_size: int
    page_token: str
    def __init__(self, page_size: _Optional[int] = ..., page_token: _Optional[str] = ...) -> None: ...

class ListModelsResponse(_message.Message):
    __slots__ = ("models", "next_page_token")
    MODELS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    models: _containers.RepeatedCompositeFieldContainer[Model]
    next_page_token: str
    def __init__(self, models: _Optional[_Iterable[_Union[Model, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class GetModelRequest(_message.Message):
    __slots__ = ("name",)
    NAME_FIELD_NUMBER: _ClassVar[int]
    name: str
    def __init__(self, name: _Optional[str] = ...) -> None: ...

class RetireModelRequest(_message.Message):
    __slots__ = ("name",)
    NAME_FIELD_NUMBER: _ClassVar[int]
    name: str
    def __init__(self, name: _Optional[str] = ...) -> None: ...

class Model(_message.Message):
    __slots__ = ("name", "state", "problem", "backbone", "precision", "side", "dimension", "preprocessing", "metrics", "evaluated_on", "training_run", "created", "compatible_with", "collection", "row_count", "loaded")
    class MetricsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: float
        def __init__(self, key: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...
    NAME_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    PROBLEM_FIELD_NUMBER: _ClassVar[int]
    BACKBONE_FIELD_NUMBER: _ClassVar[int]
    PRECISION_FIELD_NUMBER: _ClassVar[int]
    SIDE_FIELD_NUMBER: _ClassVar[int]
    DIMENSION_FIELD_NUMBER: _ClassVar[int]
    PREPROCESSING_FIELD_NUMBER: _ClassVar[int]
    METRICS_FIELD_NUMBER: _ClassVar[int]
    EVALUATED_ON_FIELD_NUMBER: _ClassVar[int]
    TRAINING_RUN_FIELD_NUMBER: _ClassVar[int]
    CREATED_FIELD_NUMBER: _ClassVar[int]
    COMPATIBLE_WITH_FIELD_NUMBER: _ClassVar[int]
    COLLECTION_FIELD_NUMBER: _ClassVar[int]
    ROW_COUNT_FIELD_NUMBER: _ClassVar[int]
    LOADED_FIELD_NUMBER: _ClassVar[int]
    name: str
    state: ModelState
    problem: str
    backbone: str
    precision: str
    side: int
    dimension: int
    preprocessing: str
    metrics: _containers.ScalarMap[str, float]
    evaluated_on: str
    training_run: str
    created: str
    compatible_with: str
    collection: str
    row_count: int
    loaded: bool
    def __init__(self, name: _Optional[str] = ..., state: _Optional[_Union[ModelState, str]] = ..., problem: _Optional[str] = ..., backbone: _Optional[str] = ..., precision: _Optional[str] = ..., side: _Optional[int] = ..., dimension: _Optional[int] = ..., preprocessing: _Optional[str] = ..., metrics: _Optional[_Mapping[str, float]] = ..., evaluated_on: _Optional[str] = ..., training_run: _Optional[str] = ..., created: _Optional[str] = ..., compatible_with: _Optional[str] = ..., collection: _Optional[str] = ..., row_count: _Optional[int] = ..., loaded: _Optional[bool] = ...) -> None: ...

class RolloutModelRequest(_message.Message):
    __slots__ = ("name", "canary", "shadow", "validate_only", "auto", "compatible", "golden_set", "tolerance", "category_tolerance", "latency_budget", "missing_originals", "retention")
    NAME_FIELD_NUMBER: _ClassVar[int]
    CANARY_FIELD_NUMBER: _ClassVar[int]
    SHADOW_FIELD_NUMBER: _ClassVar[int]
    VALIDATE_ONLY_FIELD_NUMBER: _ClassVar[int]
    AUTO_FIELD_NUMBER: _ClassVar[int]
    COMPATIBLE_FIELD_NUMBER: _ClassVar[int]
    GOLDEN_SET_FIELD_NUMBER: _ClassVar[int]
    TOLERANCE_FIELD_NUMBER: _ClassVar[int]
    CATEGORY_TOLERANCE_FIELD_NUMBER: _ClassVar[int]
    LATENCY_BUDGET_FIELD_NUMBER: _ClassVar[int]
    MISSING_ORIGINALS_FIELD_NUMBER: _ClassVar[int]
    RETENTION_FIELD_NUMBER: _ClassVar[int]
    name: str
    canary: float
    shadow: float
    validate_only: bool
    auto: bool
    compatible: bool
    golden_set: str
    tolerance: float
    category_tolerance: float
    latency_budget: _duration_pb2.Duration
    missing_originals: MissingOriginals
    retention: _duration_pb2.Duration
    def __init__(self, name: _Optional[str] = ..., canary: _Optional[float] = ..., shadow: _Optional[float] = ..., validate_only: _Optional[bool] = ..., auto: _Optional[bool] = ..., compatible: _Optional[bool] = ..., golden_set: _Optional[str] = ..., tolerance: _Optional[float] = ..., category_tolerance: _Optional[float] = ..., latency_budget: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., missing_originals: _Optional[_Union[MissingOriginals, str]] = ..., retention: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ...) -> None: ...

class PromoteRolloutRequest(_message.Message):
    __slots__ = ("name",)
    NAME_FIELD_NUMBER: _ClassVar[int]
    name: str
    def __init__(self, name: _Optional[str] = ...) -> None: ...

class CancelRolloutRequest(_message.Message):
    __slots__ = ("name",)
    NAME_FIELD_NUMBER: _ClassVar[int]
    name: str
    def __init__(self, name: _Optional[str] = ...) -> None: ...

class RollbackModelRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class GetRolloutRequest(_message.Message):
    __slots__ = ("name",)
    NAME_FIELD_NUMBER: _ClassVar[int]
    name: str
    def __init__(self, name: _Optional[str] = ...) -> None: ...

class RolloutModelMetadata(_message.Message):
    __slots__ = ("rollout",)
    ROLLOUT_FIELD_NUMBER: _ClassVar[int]
    rollout: Rollout
    def __init__(self, rollout: _Optional[_Union[Rollout, _Mapping]] = ...) -> None: ...

class RolloutModelResponse(_message.Message):
    __slots__ = ("rollout",)
    ROLLOUT_FIELD_NUMBER: _ClassVar[int]
    rollout: Rollout
    def __init__(self, rollout: _Optional[_Union[Rollout, _Mapping]] = ...) -> None: ...

class Rollout(_message.Message):
    __slots__ = ("name", "model", "previous_model", "rollback", "stage", "status", "message", "reason", "done", "total", "rows_per_second", "eta", "backlog", "gate", "shadow", "canary", "missing_originals", "freeze", "retention_end", "create_time", "update_time", "request", "stage_seconds")
    class StageSecondsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: float
        def __init__(self, key: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...
    NAME_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    PREVIOUS_MODEL_FIELD_NUMBER: _ClassVar[int]
    ROLLBACK_FIELD_NUMBER: _ClassVar[int]
    STAGE_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    DONE_FIELD_NUMBER: _ClassVar[int]
    TOTAL_FIELD_NUMBER: _ClassVar[int]
    ROWS_PER_SECOND_FIELD_NUMBER: _ClassVar[int]
    ETA_FIELD_NUMBER: _ClassVar[int]
    BACKLOG_FIELD_NUMBER: _ClassVar[int]
    GATE_FIELD_NUMBER: _ClassVar[int]
    SHADOW_FIELD_NUMBER: _ClassVar[int]
    CANARY_FIELD_NUMBER: _ClassVar[int]
    MISSING_ORIGINALS_FIELD_NUMBER: _ClassVar[int]
    FREEZE_FIELD_NUMBER: _ClassVar[int]
    RETENTION_END_FIELD_NUMBER: _ClassVar[int]
    CREATE_TIME_FIELD_NUMBER: _ClassVar[int]
    UPDATE_TIME_FIELD_NUMBER: _ClassVar[int]
    REQUEST_FIELD_NUMBER: _ClassVar[int]
    STAGE_SECONDS_FIELD_NUMBER: _ClassVar[int]
    name: str
    model: str
    previous_model: str
    rollback: bool
    stage: RolloutStage
    status: RolloutStatus
    message: str
    reason: str
    done: int
    total: int
    rows_per_second: float
    eta: _duration_pb2.Duration
    backlog: int
    gate: GateResult
    shadow: ShadowResult
    canary: CanaryResult
    missing_originals: _containers.RepeatedScalarFieldContainer[str]
    freeze: _duration_pb2.Duration
    retention_end: _timestamp_pb2.Timestamp
    create_time: _timestamp_pb2.Timestamp
    update_time: _timestamp_pb2.Timestamp
    request: RolloutModelRequest
    stage_seconds: _containers.ScalarMap[str, float]
    def __init__(self, name: _Optional[str] = ..., model: _Optional[str] = ..., previous_model: _Optional[str] = ..., rollback: _Optional[bool] = ..., stage: _Optional[_Union[RolloutStage, str]] = ..., status: _Optional[_Union[RolloutStatus, str]] = ..., message: _Optional[str] = ..., reason: _Optional[str] = ..., done: _Optional[int] = ..., total: _Optional[int] = ..., rows_per_second: _Optional[float] = ..., eta: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., backlog: _Optional[int] = ..., gate: _Optional[_Union[GateResult, _Mapping]] = ..., shadow: _Optional[_Union[ShadowResult, _Mapping]] = ..., canary: _Optional[_Union[CanaryResult, _Mapping]] = ..., missing_originals: _Optional[_Iterable[str]] = ..., freeze: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., retention_end: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., create_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., update_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., request: _Optional[_Union[RolloutModelRequest, _Mapping]] = ..., stage_seconds: _Optional[_Mapping[str, float]] = ...) -> None: ...

class GateResult(_message.Message):
    __slots__ = ("passed", "golden_set", "rows", "latency_before_ms", "latency_after_ms", "latency_budget_ms", "compatible")
    PASSED_FIELD_NUMBER: _ClassVar[int]
    GOLDEN_SET_FIELD_NUMBER: _ClassVar[int]
    ROWS_FIELD_NUMBER: _ClassVar[int]
    LATENCY_BEFORE_MS_FIELD_NUMBER: _ClassVar[int]
    LATENCY_AFTER_MS_FIELD_NUMBER: _ClassVar[int]
    LATENCY_BUDGET_MS_FIELD_NUMBER: _ClassVar[int]
    COMPATIBLE_FIELD_NUMBER: _ClassVar[int]
    passed: bool
    golden_set: str
    rows: _containers.RepeatedCompositeFieldContainer[GateRow]
    latency_before_ms: float
    latency_after_ms: float
    latency_budget_ms: float
    compatible: bool
    def __init__(self, passed: _Optional[bool] = ..., golden_set: _Optional[str] = ..., rows: _Optional[_Iterable[_Union[GateRow, _Mapping]]] = ..., latency_before_ms: _Optional[float] = ..., latency_after_ms: _Optional[float] = ..., latency_budget_ms: _Optional[float] = ..., compatible: _Optional[bool] = ...) -> None: ...

class GateRow(_message.Message):
    __slots__ = ("category", "queries", "recall_1_before", "recall_1_after", "recall_5_before", "recall_5_after", "ndcg_10_before", "ndcg_10_after", "failed", "recall_1_compatible")
    CATEGORY_FIELD_NUMBER: _ClassVar[int]
    QUERIES_FIELD_NUMBER: _ClassVar[int]
    RECALL_1_BEFORE_FIELD_NUMBER: _ClassVar[int]
    RECALL_1_AFTER_FIELD_NUMBER: _ClassVar[int]
    RECALL_5_BEFORE_FIELD_NUMBER: _ClassVar[int]
    RECALL_5_AFTER_FIELD_NUMBER: _ClassVar[int]
    NDCG_10_BEFORE_FIELD_NUMBER: _ClassVar[int]
    NDCG_10_AFTER_FIELD_NUMBER: _ClassVar[int]
    FAILED_FIELD_NUMBER: _ClassVar[int]
    RECALL_1_COMPATIBLE_FIELD_NUMBER: _ClassVar[int]
    category: str
    queries: int
    recall_1_before: float
    recall_1_after: float
    recall_5_before: float
    recall_5_after: float
    ndcg_10_before: float
    ndcg_10_after: float
    failed: bool
    recall_1_compatible: float
    def __init__(self, category: _Optional[str] = ..., queries: _Optional[int] = ..., recall_1_before: _Optional[float] = ..., recall_1_after: _Optional[float] = ..., recall_5_before: _Optional[float] = ..., recall_5_after: _Optional[float] = ..., ndcg_10_before: _Optional[float] = ..., ndcg_10_after: _Optional[float] = ..., failed: _Optional[bool] = ..., recall_1_compatible: _Optional[float] = ...) -> None: ...

class ShadowResult(_message.Message):
    __slots__ = ("queries", "failed", "overlap_10", "latency_p50_ms", "latency_p95_ms", "similarity_before", "similarity_after")
    QUERIES_FIELD_NUMBER: _ClassVar[int]
    FAILED_FIELD_NUMBER: _ClassVar[int]
    OVERLAP_10_FIELD_NUMBER: _ClassVar[int]
    LATENCY_P50_MS_FIELD_NUMBER: _ClassVar[int]
    LATENCY_P95_MS_FIELD_NUMBER: _ClassVar[int]
    SIMILARITY_BEFORE_FIELD_NUMBER: _ClassVar[int]
    SIMILARITY_AFTER_FIELD_NUMBER: _ClassVar[int]
    queries: int
    failed: int
    overlap_10: float
    latency_p50_ms: float
    latency_p95_ms: float
    similarity_before: _containers.RepeatedScalarFieldContainer[float]
    similarity_after: _containers.RepeatedScalarFieldContainer[float]
    def __init__(self, queries: _Optional[int] = ..., failed: _Optional[int] = ..., overlap_10: _Optional[float] = ..., latency_p50_ms: _Optional[float] = ..., latency_p95_ms: _Optional[float] = ..., similarity_before: _Optional[_Iterable[float]] = ..., similarity_after: _Optional[_Iterable[float]] = ...) -> None: ...

class CanaryResult(_message.Message):
    __slots__ = ("queries", "failed", "latency_p50_ms", "latency_p95_ms", "serving_latency_p50_ms", "serving_latency_p95_ms")
    QUERIES_FIELD_NUMBER: _ClassVar[int]
    FAILED_FIELD_NUMBER: _ClassVar[int]
    LATENCY_P50_MS_FIELD_NUMBER: _ClassVar[int]
    LATENCY_P95_MS_FIELD_NUMBER: _ClassVar[int]
    SERVING_LATENCY_P50_MS_FIELD_NUMBER: _ClassVar[int]
    SERVING_LATENCY_P95_MS_FIELD_NUMBER: _ClassVar[int]
    queries: int
    failed: int
    latency_p50_ms: float
    latency_p95_ms: float
    serving_latency_p50_ms: float
    serving_latency_p95_ms: float
    def __init__(self, queries: _Optional[int] = ..., failed: _Optional[int] = ..., latency_p50_ms: _Optional[float] = ..., latency_p95_ms: _Optional[float] = ..., serving_latency_p50_ms: _Optional[float] = ..., serving_latency_p95_ms: _Optional[float] = ...) -> None: ...
