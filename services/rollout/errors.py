"""What can go wrong around a rollout.

LookalikeError
+-- RolloutRunning              another one has not ended; its name is in the metadata
+-- RolloutCancelled
FailedPrecondition
+-- RolloutFailed               the version was refused, or a stage could not be done; with the record's reason
"""

from __future__ import annotations

import grpc

from services.common.errors import FailedPrecondition, LookalikeError


class RolloutRunning(LookalikeError):
    """ErrorInfo names it, as `rollout`: `rollouts/{id}`."""

    code = grpc.StatusCode.ABORTED
    reason = "ROLLOUT_RUNNING"


class RolloutCancelled(LookalikeError):
    code = grpc.StatusCode.CANCELLED
    reason = "ROLLOUT_CANCELLED"


class RolloutFailed(FailedPrecondition):
    """Reasons: MODEL_DAMAGED, GOLDEN_MISMATCH, GATE_FAILED, ORIGINALS_MISSING and others."""

    reason = "ROLLOUT_FAILED"
