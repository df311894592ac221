"""Runs as messages of the API."""

from __future__ import annotations

import math
from datetime import UTC, datetime

from google.longrunning import operations_pb2
from google.protobuf import duration_pb2, timestamp_pb2
from lookalike.v1 import training_pb2

from services.common.errors import LookalikeError
from services.common.interceptor import to_status
from services.common.operations import PREFIX
from services.trainer.errors import TrainingCancelled, TrainingFailed, TrainingStopped
from services.trainer.progress import Progress
from services.trainer.runs import RunState, State


def to_operation(state: RunState, progress: Progress | None) -> operations_pb2.Operation:
    """The operation of a run.

    Args:
        progress: of a run that this process trains.
    """
    operation = operations_pb2.Operation(name=PREFIX + state.id, done=state.state is not State.RUNNING)
    operation.metadata.Pack(to_metadata(state, progress))
    if state.state is State.SUCCEEDED:
        operation.response.Pack(to_response(state))
    elif operation.done:
        operation.error.CopyFrom(to_status(_error(state)))
    return operation


def _error(state: RunState) -> LookalikeError:
    metadata = {"run": state.id}
    if state.state is State.CANCELLED:
        return TrainingCancelled(f"the run {state.id} was cancelled", metadata=metadata)
    if state.state is State.STOPPED:
        return TrainingStopped(
            f"the run {state.id} was interrupted after epoch {state.epoch} of {state.epochs}; "
            "TrainModel with the same recipe goes on with it",
            metadata=metadata,
        )
    return TrainingFailed(state.error, reason=state.reason or None, metadata=metadata)


def to_response(state: RunState) -> training_pb2.TrainModelResponse:
    return training_pb2.TrainModelResponse(
        run=to_run(state), model=_model(state), before=state.before, after=state.after
    )


def to_metadata(state: RunState, progress: Progress | None) -> training_pb2.TrainModelMetadata:
    metadata = training_pb2.TrainModelMetadata(
        run=_name(state),
        stage=_stage(progress.stage if progress else ""),
        epoch=state.epoch,
        epochs=state.epochs,
        create_time=_timestamp(state.created),
        update_time=_timestamp(state.updated),
    )
    if progress is None:
        return metadata
    metadata.message = progress.message
    metadata.done, metadata.total = progress.done, progress.total
    metadata.epoch = progress.finished or state.epoch
    metadata.epochs = progress.epochs or state.epochs
    if progress.loss is not None:
        metadata.loss = progress.loss
    if progress.recall is not None:
        metadata.recall_at_1 = progress.recall
    if progress.images_per_s is not None:
        metadata.images_per_second = progress.images_per_s
    if progress.eta_s is not None and math.isfinite(progress.eta_s):
        metadata.eta.CopyFrom(duration_pb2.Duration(seconds=round(progress.eta_s)))
    if progress.updated:
        metadata.update_time.FromMilliseconds(round(progress.updated * 1e3))
    return metadata


def to_run(state: RunState) -> training_pb2.TrainingRun:
    return training_pb2.TrainingRun(
        name=_name(state),
        state=f"TRAINING_RUN_STATE_{state.state.name}",
        create_time=_timestamp(state.created),
        update_time=_timestamp(state.updated),
        epoch=state.epoch,
        epochs=state.epochs,
        model=_model(state),
        before=state.before,
        after=state.after,
        error=state.error,
    )


def _name(state: RunState) -> str:
    return f"trainingRuns/{state.id}"


def _model(state: RunState) -> str:
    return f"models/{state.version}" if state.version else ""


def _stage(name: str) -> str:
    value = f"TRAINING_STAGE_{name.upper()}"
    return value if value in training_pb2.TrainingStage.keys() else "TRAINING_STAGE_UNSPECIFIED"  # noqa: SIM118


def _timestamp(text: str) -> timestamp_pb2.Timestamp | None:
    """None for a damaged run's, which is empty."""
    if not text:
        return None
    timestamp = timestamp_pb2.Timestamp()
    timestamp.FromDatetime(datetime.fromisoformat(text).astimezone(UTC))
    return timestamp
