"""A run by the command that an operator types, which many tests look at."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from services.common.manifest import MODEL_NAME
from services.trainer.recipe import Recipe
from services.trainer.runs import Run

EPOCHS = 6


def lookalike(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [str(Path(sys.executable).with_name("lookalike")), *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=240, check=False)


@dataclass(frozen=True, slots=True)
class Trained:
    folder: Path
    recipe: Recipe
    arguments: tuple[str, ...]
    ran: subprocess.CompletedProcess[str]

    @property
    def run(self) -> Run:
        return Run.named(self.folder / "runs", self.recipe)

    @property
    def models(self) -> Path:
        return self.folder / "models"

    @property
    def version(self) -> Path:
        return self.models / MODEL_NAME / "1"

    @property
    def events(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.run.events.read_text().splitlines()]
