"""What can go wrong when a machine is asked to run the whole system; each message says what to do."""

from __future__ import annotations

from services.common.errors import FailedPrecondition


class EngineMissing(FailedPrecondition):
    """An engine is not installed, or cannot be on this platform or with this Python."""

    reason = "ENGINE_MISSING"


class PortInUse(FailedPrecondition):
    """Someone else listens where a part should."""

    reason = "PORT_IN_USE"


class DataInUse(FailedPrecondition):
    """A second stack on the same data directory."""

    reason = "DATA_IN_USE"


class StartFailed(FailedPrecondition):
    """A process ended, or did not get ready in time; the message ends with the last lines of its log."""

    reason = "START_FAILED"
