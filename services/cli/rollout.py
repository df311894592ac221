"""`lookalike rollout` and `lookalike rollback`: an encoder version comes into service, and back."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Annotated, Any

import typer
from google.protobuf import duration_pb2
from lookalike.v1 import model_pb2

from services.cli.addresses import DEFAULT_ROLLOUT_ADDRESS, ROLLOUT_SERVICE, RolloutAddress
from services.cli.console import INTERRUPTED, AsJson, errors_as_lines, print_json, run, stderr, stdout
from services.cli.quantities import parse_duration, parse_share
from services.cli.rollout_client import TIMEOUT_S, RolloutClient, rollout_of
from services.cli.rollout_view import RolloutView
from services.cli.rollout_watch import watch
from services.rollout.record import Missing

app = typer.Typer(
    no_args_is_help=True, pretty_exceptions_enable=False, help="Take an encoder version into service, and watch it."
)

Watch = Annotated[bool, typer.Option("--watch", help="Follow it until it ends. Ctrl-C lets it go on.")]


@app.command()
def start(
    version: Annotated[int, typer.Argument(min=1, help="Number of the version.")],
    canary: Annotated[
        str, typer.Option(help="Share of callers that the new version answers before the switch: 10% or 0.1.")
    ] = "0%",
    shadow: Annotated[
        str, typer.Option(help="Share of searches that are asked of the new version too, unseen: 5% or 0.05.")
    ] = "0%",
    validate_only: Annotated[
        bool, typer.Option("--validate-only", help="Verify, load and gate, and show what that found; change nothing.")
    ] = False,
    auto: Annotated[
        bool, typer.Option("--auto", help="Switch without `promote`, once shadow and canary have seen enough.")
    ] = False,
    compatible: Annotated[
        bool,
        typer.Option(
            "--compatible", help="Serve queries with it at once, against the old vectors; if it was trained for that."
        ),
    ] = False,
    golden: Annotated[
        Path | None,
        typer.Option(help="Labelled photographs to gate on, on the service's machine. Default: from the catalogue."),
    ] = None,
    tolerance: Annotated[str, typer.Option(help="How far recall and nDCG may drop.")] = "1%",
    category_tolerance: Annotated[str, typer.Option(help="The same within a category.")] = "5%",
    latency_budget: Annotated[str, typer.Option(help="For one picture, p95.")] = "250ms",
    missing_originals: Annotated[
        Missing,
        typer.Option(
            help="Images whose original is missing: stop there, or leave them out. A product without others goes."
        ),
    ] = Missing.STOP,
    retention: Annotated[
        str, typer.Option(help="How long the version before is kept up to date, for a rollback.")
    ] = "24h",
    watched: Watch = False,
    address: RolloutAddress = DEFAULT_ROLLOUT_ADDRESS,
    as_json: AsJson = False,
) -> None:
    """Take an encoder version into service, while apps search and the catalogue is written.

    It waits for `promote` before the switch, unless --auto is given. With --watch or --validate-only the command ends
    when the rollout has, with exit code 1 when it failed or was cancelled.

    Example: lookalike rollout start 2 --shadow 5% --canary 10% --watch
    """
    with errors_as_lines():
        request = model_pb2.RolloutModelRequest(
            name=f"models/{version}",
            canary=parse_share("--canary", canary),
            shadow=parse_share("--shadow", shadow),
            validate_only=validate_only,
            auto=auto,
            compatible=compatible,
            # the service may have been started elsewhere
            golden_set=str(golden.absolute()) if golden else "",
            tolerance=parse_share("--tolerance", tolerance),
            category_tolerance=parse_share("--category-tolerance", category_tolerance),
            latency_budget=_duration(parse_duration("--latency-budget", latency_budget)),
            missing_originals=f"MISSING_ORIGINALS_{missing_originals.name}",
            retention=_duration(parse_duration("--retention", retention)),
        )
    operation = _call("RolloutModel", request, address)
    _begun(rollout_of(operation), address, as_json, watched=watched or validate_only)


@app.command()
def status(watched: Watch = False, address: RolloutAddress = DEFAULT_ROLLOUT_ADDRESS, as_json: AsJson = False) -> None:
    """Show the rollout that runs, or the last one: its stages, what was measured, what it waits for.

    With --watch, exit code 1 when it failed or was cancelled.

    Example: lookalike rollout status --watch
    """
    if watched:
        _follow("", address, as_json)
        return
    rollout = _call("GetRollout", model_pb2.GetRolloutRequest(), address)
    _show(rollout, as_json)


@app.command()
def promote(watched: Watch = False, address: RolloutAddress = DEFAULT_ROLLOUT_ADDRESS, as_json: AsJson = False) -> None:
    """Let the rollout that waits go on to its next stage.

    Example: lookalike rollout promote --watch
    """
    name = _call("GetRollout", model_pb2.GetRolloutRequest(), address).name
    rollout = _call("PromoteRollout", model_pb2.PromoteRolloutRequest(name=name), address)
    if watched:
        _follow(name, address, as_json)
    else:
        _show(rollout, as_json)


@app.command()
def cancel(address: RolloutAddress = DEFAULT_ROLLOUT_ADDRESS, as_json: AsJson = False) -> None:
    """End the rollout before its switch. The serving version is not touched; what was filled is removed.

    Example: lookalike rollout cancel
    """
    name = _call("GetRollout", model_pb2.GetRolloutRequest(), address).name
    rollout = _call("CancelRollout", model_pb2.CancelRolloutRequest(name=name), address)
    if as_json:
        print_json(rollout)
    else:
        stdout().print(
            f"{name} ends; {rollout.previous_model} serves as before", markup=False, highlight=False, soft_wrap=True
        )


def rollback(
    watched: Watch = False, address: RolloutAddress = DEFAULT_ROLLOUT_ADDRESS, as_json: AsJson = False
) -> None:
    """Go back to the encoder version that served before, within its retention. No write made since is lost.

    With --watch, exit code 1 when it failed.

    Example: lookalike rollback --watch
    """
    operation = _call("RollbackModel", model_pb2.RollbackModelRequest(), address)
    _begun(rollout_of(operation), address, as_json, watched=watched)


def _call(method: str, request: Any, address: str) -> Any:
    async def answer() -> Any:
        async with RolloutClient(address) as client:
            return await getattr(client.models, method)(request, timeout=TIMEOUT_S)

    return run(answer(), address, ROLLOUT_SERVICE)


def _begun(rollout: model_pb2.Rollout, address: str, as_json: bool, *, watched: bool) -> None:
    if watched:
        _follow(rollout.name, address, as_json)
    elif as_json:
        print_json(rollout)
    else:
        stdout().print(
            f"{rollout.name} has begun: lookalike rollout status --watch follows it",
            markup=False,
            highlight=False,
            soft_wrap=True,
        )


def _follow(name: str, address: str, as_json: bool) -> None:
    """Until it ends. Exit code 1 when it failed or was cancelled."""
    with errors_as_lines(address, ROLLOUT_SERVICE):
        try:
            rollout = asyncio.run(watch(address, name, stderr() if as_json else stdout()))
        except KeyboardInterrupt:
            stderr().print(
                "the rollout goes on: lookalike rollout status --watch follows it, lookalike rollout cancel ends it",
                markup=False,
                highlight=False,
                soft_wrap=True,
            )
            raise typer.Exit(INTERRUPTED) from None
    if as_json:
        print_json(rollout)
    if rollout.status != model_pb2.ROLLOUT_STATUS_SUCCEEDED:
        raise typer.Exit(1)


def _show(rollout: model_pb2.Rollout, as_json: bool) -> None:
    if as_json:
        print_json(rollout)
    else:
        stdout().print(RolloutView(rollout))


def _duration(seconds: float) -> duration_pb2.Duration:
    duration = duration_pb2.Duration()
    duration.FromMicroseconds(round(seconds * 1e6))
    return duration
