"""Where commands find the services."""

from __future__ import annotations

from typing import Annotated

import typer

DEFAULT_ADDRESS = "127.0.0.1:50051"
DEFAULT_ROLLOUT_ADDRESS = "127.0.0.1:50052"
# as a line of an error names them
GATEWAY, ROLLOUT_SERVICE = "gateway", "rollout service"

Address = Annotated[
    str, typer.Option("--address", envvar="LOOKALIKE_ADDRESS", help="Where the gateway listens, as host:port.")
]
RolloutAddress = Annotated[
    str,
    typer.Option(
        "--rollout-address",
        envvar="LOOKALIKE_ROLLOUT_ADDRESS",
        help="Where the rollout service listens, as host:port.",
    ),
]
