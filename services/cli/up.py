"""`lookalike up`: the whole system on this machine, in the foreground."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from services.cli.console import errors_as_lines, stderr, stdout, table

if TYPE_CHECKING:
    from services.local.ports import Ports


def up(
    milvus: Annotated[str, typer.Option(help="lite, standalone, or the URL of a Milvus that runs elsewhere.")] = "lite",
    data: Annotated[Path, typer.Option(help="Holds everything that shall be there at the next start.")] = Path(
        ".lookalike"
    ),
    host: Annotated[str, typer.Option(help="Address the gateway listens on; 0.0.0.0 for all.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Of the gateway.", min=0, max=65535)] = 50051,
    metrics_port: Annotated[int, typer.Option(help="Of the gateway's metrics.", min=0, max=65535)] = 9464,
    rollout_port: Annotated[int, typer.Option(help="Of the rollout service.", min=0, max=65535)] = 50052,
    triton_port: Annotated[int, typer.Option(help="0: any free one.", min=0, max=65535)] = 0,
    milvus_port: Annotated[int, typer.Option(help="0: any free one.", min=0, max=65535)] = 0,
    redis_port: Annotated[int, typer.Option(help="0: any free one.", min=0, max=65535)] = 0,
    model_repository: Annotated[Path, typer.Option(help="Where the encoder is, or is built.")] = Path(
        "model_repository"
    ),
) -> None:
    """Run Triton, Milvus, Redis, the gateway and the rollout service until Ctrl-C or SIGTERM.

    Builds encoder version 1 when there is none. A part that ends is started again. Exit code 1 when a port is in use,
    an engine is missing, or another instance uses the data directory.

    Example: lookalike up --milvus standalone --data ~/shop
    """
    from services.cli.models import init_models
    from services.common.manifest import MANIFEST_FILE, MODEL_NAME
    from services.local.ports import Ports

    ports = Ports(
        gateway=port,
        metrics=metrics_port,
        triton=triton_port,
        milvus=milvus_port,
        redis=redis_port,
        rollout=rollout_port,
    )
    with errors_as_lines():
        if not any((model_repository / MODEL_NAME).glob(f"[0-9]*/{MANIFEST_FILE}")):
            init_models(model_repository)
        asyncio.run(_run(milvus, data, host, ports, model_repository))


async def _run(milvus: str, data: Path, host: str, ports: Ports, model_repository: Path) -> None:
    from services.local.stack import LocalStack

    loop, running = asyncio.get_running_loop(), asyncio.current_task()
    stopping = False

    def stop() -> None:
        nonlocal stopping
        # a second Ctrl-C must not cut off the orderly end that the first one began
        if not stopping and running is not None:
            stopping = True
            running.cancel()

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop)
    stderr().print("starting", highlight=False)
    try:
        async with LocalStack(data, model_repository, milvus, ports, host=host) as stack:
            shown = table("part", "address", "log")
            for part in stack.addresses:
                shown.add_row(part.name, part.address, str(part.log or ""))
            stdout().print(shown)
            stdout().print("Ctrl-C stops everything", highlight=False)
            await asyncio.Event().wait()
    except asyncio.CancelledError:
        stderr().print("stopped", highlight=False)
