"""Stands in for `services.trainer.worker` where it must fail in a certain way: behaves as the recipe's name says.

A run that hangs goes on to the end when it is started a second time.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from services.trainer.events import EventLog
from services.trainer.runs import Run, State

EPOCHS = 2


def main() -> None:
    run = Run(Path(sys.argv[1]))
    assert sys.argv[2] == "--models"
    kind = run.recipe().name.split(".")[0]
    log = EventLog(run.events)
    (run.folder / "pid").write_text(str(os.getpid()))
    resumed = run.checkpoint.exists()
    run.checkpoint.mkdir(exist_ok=True)
    if kind == "deaf":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    log.emit("stage", stage="data", message="12 photographs of 3 products")
    log.emit("warning", message="1 file is broken")
    for epoch in range(2 if resumed else 1, EPOCHS + 1):
        facts: dict[str, Any] = {"stage": "train", "epoch": epoch, "epochs": EPOCHS, "loss": 1.5 / epoch}
        for done in (1, 2):
            log.emit("progress", **facts, done=done, total=2, images_per_s=20.0, eta_s=2.0)
        run.update(epoch=epoch)
        log.emit("epoch", **facts, **{"recall@1": 0.3 * epoch}, images_per_s=20.0, eta_s=1.0, best=True)
        if not resumed:
            misbehave(kind, run, log)
    facts = {"version": 2, "before": {"recall@1": 0.4, "ms": 24.5}, "after": {"recall@1": 0.6, "ms": 12.25}}
    run.report.write_text("<html>")
    run.update(state=State.SUCCEEDED, **facts)
    log.emit("finished", **facts, report=str(run.report))
    if kind == "crash-at-exit":
        os.abort()


def misbehave(kind: str, run: Run, log: EventLog) -> None:
    match kind:
        case "hang" | "deaf":
            time.sleep(600)
        case "crash":
            print("a library says hello")
            raise ValueError("no such layer")
        case "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        case "silent":
            sys.exit(0)
        case "told":
            log.emit("failed", reason="DATA_BROKEN", message="3 % of the files are broken")
            sys.exit(1)
        case "children":
            # it has the other end of our standard output, and would keep it open
            child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
            (run.folder / "child").write_text(str(child.pid))
        case "noisy":
            print("not JSON", "[1, 2]", '{"no": "event"}', '{"event": 3}', "[" * 100_000, sep="\n")
            sys.stdout.write("x" * (17 * 2**20) + "\n")
            log.emit("something new", number=1)


if __name__ == "__main__":
    main()
