"""What can go wrong around a training run.

FailedPrecondition
+-- DeviceBusy                  another run trains on the device
+-- NoTrainingEnvironment       no Python with torch is found
+-- RunElsewhere                the run belongs to another process of this machine
LookalikeError
+-- TrainingFailed              the training process told so, or died
+-- TrainingCancelled
+-- TrainingStopped             interrupted; the same recipe goes on
"""

from __future__ import annotations

import grpc

from services.common.errors import FailedPrecondition, LookalikeError


class DeviceBusy(FailedPrecondition):
    """ErrorInfo names the device, and the run and process id that hold it."""

    reason = "DEVICE_BUSY"


class NoTrainingEnvironment(FailedPrecondition):
    reason = "TRAINING_ENVIRONMENT_MISSING"


class RunElsewhere(FailedPrecondition):
    reason = "RUN_ELSEWHERE"


class TrainingFailed(LookalikeError):
    """The reason is the training process's own, or TRAINING_PROCESS_DIED when it ended without one."""

    code = grpc.StatusCode.INTERNAL
    reason = "TRAINING_FAILED"


class TrainingCancelled(LookalikeError):
    code = grpc.StatusCode.CANCELLED
    reason = "TRAINING_CANCELLED"


class TrainingStopped(LookalikeError):
    code = grpc.StatusCode.ABORTED
    reason = "TRAINING_STOPPED"
