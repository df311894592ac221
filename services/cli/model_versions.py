"""The encoder versions as a table: live from the rollout service, or from their files alone."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

import grpc
import grpc.aio
from lookalike.v1 import model_pb2
from rich.text import Text

from services.cli.addresses import ROLLOUT_SERVICE
from services.cli.console import errors_as_lines, print_json, stderr, stdout, table, to_plain
from services.cli.console import run as run_to_end
from services.cli.failures import NO_ROLLOUT_SERVICE, from_rpc
from services.cli.rollout_client import TIMEOUT_S, RolloutClient
from services.common.manifest import MODEL_NAME
from services.rollout.convert import to_model
from services.rollout.models import describe_models

METRIC = "recall@1"
# all gateways must have let go of it first
RETIRE_S = 120.0
STYLES = {"serving": "bold green", "rolling out": "bold", "retained": "cyan", "damaged": "red"}


def show(repository: Path, address: str, as_json: bool) -> None:
    """The table of all versions, the newest first."""
    with errors_as_lines(address, ROLLOUT_SERVICE):
        models = asyncio.run(_listed(address))
        if models is None:
            stderr().print(
                f"no rollout service answers at {address}: what follows is what the files in {repository} say",
                style="yellow",
                highlight=False,
                markup=False,
                soft_wrap=True,
            )
            models = in_repository(repository)
    if as_json:
        print_json([to_plain(model) for model in models])
    else:
        _print(models, repository)


async def _listed(address: str) -> list[model_pb2.Model] | None:
    """None when no rollout service answers."""
    models: list[model_pb2.Model] = []
    request = model_pb2.ListModelsRequest(page_size=1000)
    async with RolloutClient(address) as client:
        try:
            while True:
                page = await client.models.ListModels(request, timeout=TIMEOUT_S)
                models += page.models
                if not page.next_page_token:
                    return models
                request.page_token = page.next_page_token
        except grpc.RpcError as error:
            if from_rpc(error, address, ROLLOUT_SERVICE).reason != NO_ROLLOUT_SERVICE:
                raise
            return None


def in_repository(repository: Path) -> list[model_pb2.Model]:
    """The versions whose files are there, and nothing of what they are to a system."""
    found = describe_models(repository / MODEL_NAME, (), {}, (), serving=0, mirror=0, rolling_out=0)
    return [to_model(info) for info in found]


def retire(version: int, address: str, as_json: bool) -> None:
    """Gives up a version, and says so."""

    async def retired() -> model_pb2.Model:
        async with RolloutClient(address) as client:
            request = model_pb2.RetireModelRequest(name=f"models/{version}")
            model: model_pb2.Model = await client.models.RetireModel(request, timeout=RETIRE_S)
            return model

    model = run_to_end(retired(), address, ROLLOUT_SERVICE)
    if as_json:
        print_json(model)
    else:
        stdout().print(f"{model.name} is retired: it has no collection any more, its files stay", highlight=False)


def _print(models: Sequence[model_pb2.Model], repository: Path) -> None:
    console = stdout()
    if not models:
        console.print(f"no versions in {repository}; `lookalike models init` builds the first", highlight=False)
        return
    shown = table("version>", "state", "collection", "rows>", "precision", "S>", "D>", f"{METRIC}>", "files")
    for model in models:
        state = state_of(model)
        recall = f"{model.metrics[METRIC]:.1%}" if METRIC in model.metrics else ""
        shown.add_row(
            model.name.removeprefix("models/"),
            Text(state, style=STYLES.get(state, "")),
            model.collection,
            f"{model.row_count:,}" if model.collection else "",
            model.precision,
            str(model.side or ""),
            str(model.dimension or ""),
            recall,
            Text("damaged", style="red") if model.problem else Text("intact"),
        )
    console.print(shown)
    for model in models:
        if model.problem:
            # in a column of its own it would leave no room for the others
            line = f"{model.name}: {model.problem}"
            console.print(line, style="red", markup=False, highlight=False, soft_wrap=True)


def state_of(model: model_pb2.Model) -> str:
    """In lower case: "rolling out"."""
    name = model_pb2.ModelState.Name(model.state)
    return name.removeprefix("MODEL_STATE_").replace("_", " ").lower()
