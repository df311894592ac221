"""`lookalike engines`: the servers that the stack on one machine runs."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from services.common.errors import LookalikeError
from services.local.engines import ENGINES, Engines
from services.local.installing import install as install_engines

app = typer.Typer(no_args_is_help=True, help="Install and list the engines: Triton, Milvus and Redis.")


@app.command()
def install(
    names: Annotated[list[str] | None, typer.Argument(help=f"Some of: {', '.join(ENGINES)}. Default: all.")] = None,
) -> None:
    """Fetch the engines in their pinned versions; quick when they are there.

    Example: lookalike engines install
    """
    unknown = set(names or ()) - set(ENGINES)
    if unknown:
        raise typer.BadParameter(f"{', '.join(sorted(unknown))}: not one of {', '.join(ENGINES)}")
    try:
        install_engines(Engines.default(), tuple(names or ENGINES), report=typer.echo)
    except LookalikeError as error:
        typer.echo(error.message, err=True)
        raise typer.Exit(1) from None


@app.command("list")
def list_engines() -> None:
    """Show which engines are installed, and where.

    Example: lookalike engines list
    """
    table = Table("engine", "version", "path", box=None)
    for status in Engines.default().status():
        table.add_row(status.name, status.version or "not installed", str(status.path))
    Console().print(table)
