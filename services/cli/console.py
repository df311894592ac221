"""What every command shares: how it prints, how it ends."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from typing import Annotated, Any, NoReturn, TypeVar

import typer
from google.protobuf import json_format
from google.protobuf.message import Message
from rich.console import Console
from rich.table import Table

from services.cli.addresses import GATEWAY

T = TypeVar("T")

INTERRUPTED = 130

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]


@contextmanager
def errors_as_lines(address: str = "", service: str = GATEWAY) -> Iterator[None]:
    """What is meant for people becomes one line and exit code 1.

    Args:
        address: where the service was looked for, to be named when there is none.
    """
    import grpc

    from services.cli.failures import from_error, from_rpc
    from services.common.errors import LookalikeError

    try:
        yield
    except KeyboardInterrupt:
        stderr().print("stopped")
        raise typer.Exit(INTERRUPTED) from None
    except grpc.RpcError as error:
        fail(str(from_rpc(error, address, service)))
    except LookalikeError as error:
        fail(str(from_error(error)))
    except OSError as error:
        fail(str(error))


def run(main: Coroutine[Any, Any, T], address: str = "", service: str = GATEWAY) -> T:
    """Runs a command to its end."""
    with errors_as_lines(address, service):
        return asyncio.run(main)


def fail(message: str) -> NoReturn:
    """Ends the command with exit code 1."""
    stderr().print(f"error: {message}", style="red", markup=False, highlight=False, soft_wrap=True)
    raise typer.Exit(1)


def stdout() -> Console:
    """For what was asked for."""
    return Console()


def stderr() -> Console:
    """For progress, notes and errors, so that `--json` can be piped on."""
    return Console(stderr=True)


def print_json(value: Any) -> None:
    """A protobuf message, or anything that JSON can hold."""
    plain = to_plain(value) if isinstance(value, Message) else value
    typer.echo(json.dumps(plain, indent=2, ensure_ascii=False))


def to_plain(message: Message) -> dict[str, Any]:
    """A message as JSON would have it, with the names of the proto file; pictures are left out."""
    plain: dict[str, Any] = json_format.MessageToDict(message, preserving_proto_field_name=True)
    return plain


def table(*columns: str, title: str | None = None) -> Table:
    """A table as all commands have it; columns that end in `>` are flushed right."""
    made = Table(title=title, title_justify="left", header_style="bold", box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for column in columns:
        made.add_column(column.rstrip(">"), justify="right" if column.endswith(">") else "left", overflow="fold")
    return made
