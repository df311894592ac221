"""`lookalike train-demo`: what training does, in about five minutes, in a folder of its own."""

from __future__ import annotations

import json
import shutil
import tomllib
from pathlib import Path
from typing import Annotated

import typer

from services.cli.console import AsJson, errors_as_lines
from services.cli.models import init_models
from services.cli.train import train
from services.common.manifest import MODEL_NAME
from services.photographs.grocery import read_classes
from services.trainer.runs import write_whole

RECIPE = Path("recipes/demo.toml")
CONFIG = Path("model_repository") / MODEL_NAME / "config.pbtxt"


def train_demo(
    data: Annotated[Path, typer.Option(help="Folder of the Grocery Store Dataset.")] = Path("../shared/data/grocery"),
    folder: Annotated[Path, typer.Option(help="Where runs and models of the demo are kept.")] = Path(
        ".lookalike-train-demo"
    ),
    again: Annotated[bool, typer.Option("--again", help="Train from the beginning.")] = False,
    as_json: AsJson = False,
) -> None:
    """Train on a small part of the Grocery Store Dataset and show what it gained over encoder version 1.

    Nothing but its own folder is touched. Run from the project's folder.

    Example: lookalike train-demo --data ../shared/data/grocery
    """
    repository = folder / "models"
    with errors_as_lines():
        read_classes(data)  # to be told at once when it is not there
        (repository / MODEL_NAME).mkdir(parents=True, exist_ok=True)
        shutil.copy(CONFIG, repository / MODEL_NAME / CONFIG.name)
        init_models(repository, data)
        recipe = folder / RECIPE.name
        write_whole(recipe, _on(data))
    train(recipe, folder / "runs", repository, again=again, as_json=as_json)


def _on(data: Path) -> str:
    """The recipe with the data set's folder in it."""
    text = RECIPE.read_text(encoding="utf-8")
    return text.replace(json.dumps(tomllib.loads(text)["data"]["path"]), json.dumps(str(data.resolve())))
