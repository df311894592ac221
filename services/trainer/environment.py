"""Which Python the training process runs with: torch is in an environment of its own, and never imported here."""

from __future__ import annotations

import os
import sys
from importlib.util import find_spec
from pathlib import Path

from services.trainer.errors import NoTrainingEnvironment

ENVIRONMENT = ".venv-train"


def training_python(given: Path | None = None) -> Path:
    """The one that is given, else that of `.venv-train` beside this environment, else this one if it has torch.

    Raises NoTrainingEnvironment, saying what to run.
    """
    # a python of an environment is a link to one outside of it: it must not be resolved
    if given is not None:
        if not (given.is_file() and os.access(given, os.X_OK)):
            raise NoTrainingEnvironment(f"{given} is no Python that could be run")
        return given.absolute()
    beside = Path(sys.prefix).parent / ENVIRONMENT / "bin" / "python"
    if beside.exists():
        return beside
    if find_spec("torch"):
        return Path(sys.executable)
    raise NoTrainingEnvironment(
        f"training needs an environment with torch, and there is no {beside}: run `make install-train`, "
        "or name its Python by --python or LOOKALIKE_TRAINER__PYTHON"
    )
