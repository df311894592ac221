"""Rollouts and models as messages of the API."""

from __future__ import annotations

import math

from google.longrunning import operations_pb2
from google.protobuf import timestamp_pb2
from lookalike.v1 import model_pb2

from services.common.errors import LookalikeError
from services.common.interceptor import to_status
from services.common.operations import PREFIX
from services.rollout.controller import Standing
from services.rollout.errors import RolloutCancelled, RolloutFailed
from services.rollout.models import ModelInfo
from services.rollout.names import model_name, rollout_name
from services.rollout.record import Gate, GateRow, Rollout, Status
from services.rollout.request import to_duration, to_request
from services.rollout.sample_summary import Canary, Shadow, canary_of, shadow_of


def to_operation(standing: Standing) -> operations_pb2.Operation:
    """Done once the version serves, validation has passed, or the rollout has ended otherwise."""
    record, rollout = standing.record, to_rollout(standing)
    operation = operations_pb2.Operation(name=PREFIX + record.id, done=record.status.ended)
    operation.metadata.Pack(model_pb2.RolloutModelMetadata(rollout=rollout))
    if record.status in (Status.FAILED, Status.CANCELLED):
        operation.error.CopyFrom(to_status(_error(record)))
    elif operation.done:
        operation.response.Pack(model_pb2.RolloutModelResponse(rollout=rollout))
    return operation


def _error(record: Rollout) -> LookalikeError:
    metadata = {"rollout": rollout_name(record.id), "stage": record.stage.value}
    if record.status is Status.CANCELLED:
        return RolloutCancelled(f"{rollout_name(record.id)} was cancelled", metadata=metadata)
    return RolloutFailed(record.message, reason=record.reason or None, metadata=metadata)


def to_rollout(standing: Standing) -> model_pb2.Rollout:
    record, progress = standing.record, standing.progress
    shadow, canary = shadow_of(standing.samples), canary_of(standing.samples)
    rollout = model_pb2.Rollout(
        name=rollout_name(record.id),
        model=model_name(record.version),
        previous_model=model_name(record.previous),
        rollback=record.rollback,
        stage=f"ROLLOUT_STAGE_{record.stage.name}",
        status=f"ROLLOUT_STATUS_{record.status.name}",
        message=record.message,
        reason=record.reason,
        done=progress.done,
        total=progress.total,
        rows_per_second=progress.rows_per_s,
        backlog=progress.backlog,
        gate=_gate(record.gate) if record.gate else None,
        shadow=_shadow(shadow) if shadow else None,
        canary=_canary(canary) if canary else None,
        missing_originals=record.missing,
        freeze=to_duration(record.freeze_s) if record.freeze_s else None,
        retention_end=_timestamp(standing.retention_end),
        create_time=_timestamp(record.created),
        update_time=_timestamp(record.updated),
        request=to_request(record.version, record.options),
        stage_seconds=record.stage_s,
    )
    if progress.eta_s is not None and math.isfinite(progress.eta_s):
        rollout.eta.CopyFrom(to_duration(max(0.0, progress.eta_s)))
    return rollout


def _gate(gate: Gate) -> model_pb2.GateResult:
    before_ms, after_ms = gate.latency_ms
    return model_pb2.GateResult(
        passed=gate.passed,
        golden_set=gate.golden_set,
        rows=map(_gate_row, gate.rows),
        latency_before_ms=before_ms,
        latency_after_ms=after_ms,
        latency_budget_ms=gate.latency_budget_ms,
        compatible=gate.compatible,
    )


def _gate_row(row: GateRow) -> model_pb2.GateRow:
    return model_pb2.GateRow(
        category=row.category,
        queries=row.queries,
        recall_1_before=row.recall_1[0],
        recall_1_after=row.recall_1[1],
        recall_5_before=row.recall_5[0],
        recall_5_after=row.recall_5[1],
        ndcg_10_before=row.ndcg_10[0],
        ndcg_10_after=row.ndcg_10[1],
        failed=row.failed,
        recall_1_compatible=row.compatible,
    )


def _shadow(shadow: Shadow) -> model_pb2.ShadowResult:
    return model_pb2.ShadowResult(
        queries=shadow.queries,
        failed=shadow.failed,
        overlap_10=shadow.overlap_10,
        latency_p50_ms=shadow.latency.p50_ms,
        latency_p95_ms=shadow.latency.p95_ms,
        similarity_before=shadow.similarity_before,
        similarity_after=shadow.similarity_after,
    )


def _canary(canary: Canary) -> model_pb2.CanaryResult:
    return model_pb2.CanaryResult(
        queries=canary.queries,
        failed=canary.failed,
        latency_p50_ms=canary.latency.p50_ms,
        latency_p95_ms=canary.latency.p95_ms,
        serving_latency_p50_ms=canary.serving.p50_ms,
        serving_latency_p95_ms=canary.serving.p95_ms,
    )


def to_model(info: ModelInfo) -> model_pb2.Model:
    model = model_pb2.Model(
        name=model_name(info.version),
        state=f"MODEL_STATE_{info.state.name}",
        problem=info.problem,
        collection=info.collection,
        row_count=info.rows,
        loaded=info.loaded,
    )
    manifest = info.manifest
    if manifest is None:
        return model
    model.backbone = manifest.backbone
    model.precision = manifest.served
    model.side, model.dimension = manifest.side, manifest.dimension
    model.preprocessing = manifest.preprocessing
    model.metrics.update(manifest.metrics)
    model.evaluated_on = manifest.evaluated_on
    model.training_run = manifest.training_run
    model.created = manifest.created
    return model


def _timestamp(seconds: float) -> timestamp_pb2.Timestamp | None:
    """None for 0, which is not yet."""
    if not seconds:
        return None
    timestamp = timestamp_pb2.Timestamp()
    timestamp.FromMicroseconds(round(seconds * 1e6))
    return timestamp
