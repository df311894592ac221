"""What a run goes on from: tensors as safetensors and the rest as JSON, so that nothing is ever unpickled.

The two files are written into a new folder which then takes the old one's place: a reader finds a whole checkpoint.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

TENSORS, PROGRESS = "tensors.safetensors", "progress.json"


@dataclass(frozen=True, slots=True)
class Progress:
    """Args:
    stage: which part of the training, for example "train" or "prune".
    epoch: finished ones of that part.
    best, best_epoch: the best recall@1 on the validation photographs, and when it was reached; -1 before.
    history: a row of figures for each epoch.
    notes: what a stage must remember, plain JSON.
    """

    stage: str = ""
    epoch: int = 0
    best: float = -1.0
    best_epoch: int = -1
    history: tuple[Mapping[str, float], ...] = ()
    notes: Mapping[str, Any] = field(default_factory=dict)


def save(folder: Path, progress: Progress, states: Mapping[str, Mapping[str, Any]]) -> None:
    """Args:
    states: state dicts by name; an optimiser's too.
    """
    tensors: dict[str, torch.Tensor] = {}
    plain: dict[str, Any] = {}
    for name, state in states.items():
        plain[name] = _shape(name, state, tensors)
    new, old = folder.with_name(f".{folder.name}.new"), folder.with_name(f".{folder.name}.old")
    for left in (new, old):
        shutil.rmtree(left, ignore_errors=True)
    new.mkdir(parents=True)
    # clones: safetensors refuses tensors that share memory
    save_file({key: value.detach().cpu().contiguous().clone() for key, value in tensors.items()}, new / TENSORS)
    (new / PROGRESS).write_text(json.dumps({"progress": asdict(progress), "plain": plain}))
    for path in (new / TENSORS, new / PROGRESS):
        with path.open("rb") as file:
            os.fsync(file.fileno())
    if folder.exists():
        folder.rename(old)
    new.rename(folder)
    shutil.rmtree(old, ignore_errors=True)


def load(folder: Path) -> tuple[Progress, dict[str, Any]] | None:
    """Progress and states as they were saved; None when there is no checkpoint."""
    old = folder.with_name(f".{folder.name}.old")
    if not folder.exists():  # killed between the two renames, unless this is the beginning
        with suppress(FileNotFoundError):  # or another process of the run was here first
            old.rename(folder)
    if not (folder / PROGRESS).exists():
        return None
    saved = json.loads((folder / PROGRESS).read_text())
    tensors = load_file(folder / TENSORS)
    progress = Progress(**saved["progress"])
    states = {name: _rebuilt(shape, tensors) for name, shape in saved["plain"].items()}
    return progress, states


def _shape(path: str, value: Any, tensors: dict[str, torch.Tensor]) -> Any:
    """A nest of dicts and lists as JSON, each tensor in it by its path."""
    if isinstance(value, torch.Tensor):
        tensors[path] = value
        return {"tensor": path}
    if isinstance(value, Mapping):
        return {"dict": [[key, _shape(f"{path}/{key}", item, tensors)] for key, item in value.items()]}
    if isinstance(value, list | tuple):
        return {"list": [_shape(f"{path}/{i}", item, tensors) for i, item in enumerate(value)]}
    return {"value": value}


def _rebuilt(shape: Mapping[str, Any], tensors: Mapping[str, torch.Tensor]) -> Any:
    if "tensor" in shape:
        return tensors[shape["tensor"]]
    if "dict" in shape:
        return {key: _rebuilt(item, tensors) for key, item in shape["dict"]}
    if "list" in shape:
        return [_rebuilt(item, tensors) for item in shape["list"]]
    return shape["value"]
