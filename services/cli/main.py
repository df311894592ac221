"""The `lookalike` command. Each of its commands is loaded when it is called, so that help is quick and works
without the extra `local`."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module, metadata
from typing import Annotated, Any

import typer
import typer.core


@dataclass(frozen=True, slots=True)
class Source:
    """Where a command is: a Typer app, or a function, by module and name."""

    module: str
    name: str
    help: str


COMMANDS = {
    "demo": Source("demo", "demo", "Import a demo catalogue into a stack of its own and search it."),
    "up": Source("up", "up", "Run the whole stack on this machine until Ctrl-C."),
    "engines": Source("engines", "app", "Install and list the engines: Triton, Milvus and Redis."),
    "models": Source("models", "app", "List, build, add, export and retire encoder versions."),
    "rollout": Source("rollout", "app", "Take an encoder version into service, and watch it."),
    "rollback": Source("rollout", "rollback", "Go back to the encoder version that served before."),
    "train": Source("train", "train", "Train an encoder by a recipe, and export it as the next version."),
    "train-demo": Source("train_demo", "train_demo", "Train for five minutes and show what it gained."),
    "runs": Source("runs", "runs", "List training runs."),
    "evaluate": Source("evaluate", "evaluate", "Measure an encoder on labelled photographs."),
    "import": Source("import_products", "import_products", "Import a folder of pictures, or a CSV or JSONL manifest."),
    "search": Source("search", "search", "Find the products that look like a picture or a product."),
    "products": Source("products", "app", "Read, list and delete products."),
    "status": Source("status", "status", "Show each part of the system: version, health, latency."),
}


class LazyGroup(typer.core.TyperGroup):
    """Puts the real command in the place of its stand-in when it is called."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        if args and args[0] in COMMANDS:
            self.commands[args[0]] = _load(COMMANDS[args[0]])
        return super().resolve_command(ctx, args)


def _load(source: Source) -> Any:
    try:
        loaded = getattr(import_module(f"services.cli.{source.module}"), source.name)
    except ModuleNotFoundError as error:
        typer.echo(f"error: this needs {error.name}; install the extra: pip install 'lookalike[local]'", err=True)
        raise typer.Exit(1) from None
    if not isinstance(loaded, typer.Typer):
        app_of_one = typer.Typer(pretty_exceptions_enable=False)
        app_of_one.command()(loaded)
        loaded = app_of_one
    return typer.main.get_command(loaded)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(metadata.version("lookalike"))
        raise typer.Exit


def _stand_in() -> None:
    """Never runs: see LazyGroup."""


def _main(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Product image search for a shop: a photo in, the shop's most similar products out.

    Start with: lookalike demo
    """


def _app() -> typer.Typer:
    made = typer.Typer(cls=LazyGroup, no_args_is_help=True, pretty_exceptions_enable=False)
    made.callback()(_main)
    for name, source in COMMANDS.items():
        made.command(name, help=source.help)(_stand_in)
    return made


app = _app()
