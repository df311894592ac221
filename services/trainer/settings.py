"""Settings of the trainer; see services/common/settings.py for how they are read."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from services.common.settings import ServerSettings, ServiceSettings, SettingsGroup
from services.trainer.launcher import WORKER


class TrainingSettings(SettingsGroup):
    runs: Path = Field(
        Path(".lookalike/runs"), description="folder of all training runs, shared with `lookalike train`"
    )
    data: Path = Field(
        Path("recipes"), description="where paths in a recipe of TrainModel start, and what they stay in"
    )
    python: Path | None = Field(
        None, description="Python of the environment with torch; by default .venv-train beside ours, or our own"
    )
    device: str = Field(
        "cpu", pattern=r"^[a-z0-9][a-z0-9-]*$", description="one run at a time on a device of this name"
    )
    stop_grace_s: float = Field(20.0, ge=0, description="how long the process may take to end after SIGTERM")
    # tests put processes in its place that fail in ways which training must be made to
    worker: tuple[str, ...] = Field(WORKER, min_length=1, description="arguments of Python that make it train")


class TrainerSettings(ServiceSettings):
    server: ServerSettings = ServerSettings(port=50053, metrics_port=9466)
    model_repository: Path = Path("model_repository")
    trainer: TrainingSettings = TrainingSettings()
