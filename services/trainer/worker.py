"""The training process: `python -m services.trainer.worker RUN_FOLDER --models MODEL_REPOSITORY`.

It tells what it does as lines of JSON (see `events`), keeps run.json up to date, and exits 0 when the version is
published. Whoever starts it decides what it means when it ends otherwise.
"""

from __future__ import annotations

import argparse
import os
import sys
import traceback
import warnings
from pathlib import Path
from typing import Any

from services.common.errors import LookalikeError
from services.trainer.events import EventLog
from services.trainer.runs import Run


class _RunLog(EventLog):
    """Also notes in run.json how far the run is."""

    def __init__(self, run: Run) -> None:
        super().__init__(run.events)
        self._run = run

    def emit(self, event: str, **fields: Any) -> None:
        if event == "epoch" and fields.get("stage") == "train":
            self._run.update(epoch=fields["epoch"])
        super().emit(event, **fields)


class _Silent(EventLog):
    """Of the other processes of a distributed run."""

    def emit(self, event: str, **fields: Any) -> None:
        pass


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m services.trainer.worker")
    parser.add_argument("run", type=Path)
    parser.add_argument("--models", type=Path, required=True, help="Triton's model repository")
    arguments = parser.parse_args()
    run = Run(arguments.run)
    # Lightning starts the other processes of a distributed run as it was started itself, with their number
    first = os.environ.get("LOCAL_RANK", "0") == "0"
    log = _RunLog(run) if first else _Silent(run.events)
    try:
        log.emit("stage", stage="data", message="starting")
        # torch takes seconds to load: what could be wrong so far has been said by now
        warnings.simplefilter("ignore")
        from services.trainer.learning.device import make_fabric
        from services.trainer.learning.pipeline import Pipeline

        Pipeline(run, arguments.models, make_fabric(run.recipe().compute), log)()
    except LookalikeError as error:
        log.emit("failed", reason=error.reason, message=error.message)
        return 1
    except Exception as error:
        traceback.print_exc()
        log.emit("failed", reason="TRAINING_FAILED", message=f"{type(error).__name__}: {error}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
