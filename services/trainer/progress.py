"""How far a run is: what its events add up to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any


@dataclass(frozen=True, slots=True)
class Progress:
    """Args:
    stage: one of the stages of `events`; empty before the first.
    message: what the stage is about.
    done, total: of the stage, batches of the epoch while it trains; total 0 is unknown.
    epoch: the one being trained, counted from 1; 0 before that.
    finished: epochs that are finished.
    loss: None before the first, as all that follow.
    recall: recall@1 on the validation photographs, after the last finished epoch.
    eta_s: until training ends.
    updated: seconds since 1970; 0: nothing was told yet.
    """

    stage: str = ""
    message: str = ""
    done: int = 0
    total: int = 0
    epoch: int = 0
    epochs: int = 0
    finished: int = 0
    loss: float | None = None
    recall: float | None = None
    images_per_s: float | None = None
    eta_s: float | None = None
    updated: float = 0.0

    def after(self, event: Mapping[str, Any]) -> Progress:
        """With what the event tells."""
        now = replace(self, updated=event.get("time", self.updated))
        match event["event"]:
            case "stage":
                return replace(now, stage=event["stage"], message=event.get("message", ""), done=0, total=0, eta_s=None)
            case "progress":
                return replace(
                    now._training(event), epoch=event["epoch"], done=event.get("done", 0), total=event.get("total", 0)
                )
            case "epoch":
                epoch = event["epoch"]
                return replace(
                    now._training(event), epoch=epoch, finished=epoch, done=0, total=0, recall=event.get("recall@1")
                )
        return now

    def _training(self, event: Mapping[str, Any]) -> Progress:
        return replace(
            self,
            stage=event.get("stage", self.stage),
            epochs=event.get("epochs", self.epochs),
            loss=event.get("loss"),
            images_per_s=event.get("images_per_s"),
            eta_s=event.get("eta_s"),
        )
