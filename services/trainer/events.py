"""What a training process tells while it works: one JSON object a line, on its standard output.

All but `progress` are also kept in the run's events.jsonl. Each has `event` and `time` (seconds since 1970).

    stage     {stage: data | pretrain | train | prune | export | evaluate | report, message}
    progress  {stage, epoch, epochs, done, total, loss, images_per_s, eta_s}   in the middle of an epoch; a few a second
    epoch     {stage, epoch, epochs, loss, recall@1, images_per_s, eta_s, best}   after an epoch; best: true or false
    warning   {message}
    finished  {version, before: {metric: value}, after: {metric: value}, report}
    failed    {reason, message}

Epochs count from 1: `progress` names the one being trained, `epoch` the one that is finished. Values that are not known
are left out or null.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any


def parse_event(line: str) -> dict[str, Any] | None:
    """None when the line is no event but something that a library printed."""
    try:
        event = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return event if isinstance(event, dict) and isinstance(event.get("event"), str) else None


class EventLog:
    """Args:
    file: events.jsonl, appended to.
    """

    def __init__(self, file: Path) -> None:
        self._file = file

    def emit(self, event: str, **fields: Any) -> None:
        line = json.dumps({"event": event, "time": round(time.time(), 3), **fields})
        if event != "progress":
            with self._file.open("a", encoding="utf-8") as file:
                file.write(line + "\n")
        sys.stdout.write(line + "\n")
        sys.stdout.flush()
