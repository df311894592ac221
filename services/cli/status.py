"""`lookalike status`: how each part of the system is."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer
from rich.text import Text

from services.cli.addresses import DEFAULT_ADDRESS, Address
from services.cli.console import AsJson, print_json, run, stdout, table

if TYPE_CHECKING:
    from lookalike.v1 import status_pb2


def status(address: Address = DEFAULT_ADDRESS, as_json: AsJson = False) -> None:
    """Show each part of the system: version, health, latency; and what is served.

    Exit code 1 when a part is not healthy.

    Example: lookalike status --address 127.0.0.1:50051
    """
    run(_status(address, as_json), address)


async def _status(address: str, as_json: bool) -> None:
    from lookalike.v1 import status_pb2

    from services.cli.client import TIMEOUT_S, Client

    async with Client(address) as client:
        answer = await client.status.GetStatus(status_pb2.GetStatusRequest(), timeout=TIMEOUT_S)
    if as_json:
        print_json(answer)
    else:
        _print(answer)
    if not all(component.healthy for component in answer.components):
        raise typer.Exit(1)


def _print(answer: status_pb2.GetStatusResponse) -> None:
    parts = table("part", "version", "health", "latency>", "error")
    for part in answer.components:
        ms = part.latency.ToTimedelta().total_seconds() * 1e3
        health = "[green]healthy[/]" if part.healthy else "[red]down[/]"
        parts.add_row(part.name, part.version or "-", health, f"{ms:.1f} ms", Text(part.error))
    console = stdout()
    console.print(parts)
    products = f"{answer.product_count:,}" if answer.HasField("product_count") else "unknown"
    images = f"{answer.image_count:,}" if answer.HasField("image_count") else "unknown"
    serving = answer.serving_model or "nothing"
    console.print(f"\nserves {serving} from {answer.serving_collection or 'no collection'}: ", end="", highlight=False)
    console.print(f"{products} products, {images} images", highlight=False)
