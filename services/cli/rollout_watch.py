"""Follows a rollout on the screen until it ends. On a terminal it is drawn anew; elsewhere each change is a line."""

from __future__ import annotations

import asyncio
import time
from types import TracebackType

import grpc
import grpc.aio
from lookalike.v1 import model_pb2
from rich.console import Console
from rich.live import Live

from services.cli.addresses import ROLLOUT_SERVICE
from services.cli.failures import from_rpc
from services.cli.rollout_client import RolloutClient
from services.cli.rollout_view import COUNTED, ENDED, RolloutView, headline, stage_of, status_of

POLL_S = 0.5
# how long the service may be away before the watch gives up
ABSENT_S = 120.0


async def watch(address: str, name: str, console: Console) -> model_pb2.Rollout:
    """How it ended. It goes on when the service is started anew; raises RpcError when that takes longer than ABSENT_S.

    Args:
        name: `rollouts/{rollout}`; "": the one that runs, or the last one.
    """
    async with RolloutClient(address) as client:
        rollout = await client.rollout(name)
        with _Screen(console) as screen:
            screen.show(rollout)
            answered = time.monotonic()
            while rollout.status not in ENDED:
                await asyncio.sleep(POLL_S)
                try:
                    rollout = await client.rollout(rollout.name)
                except grpc.RpcError as error:
                    failure = from_rpc(error, address, ROLLOUT_SERVICE)
                    if not failure.transient or time.monotonic() - answered > ABSENT_S:
                        raise
                    screen.show(rollout, f"{failure.message.partition(';')[0]}; trying again")
                else:
                    answered = time.monotonic()
                    screen.show(rollout)
    return rollout


class _Screen:
    def __init__(self, console: Console) -> None:
        self._console = console
        self._live = Live(console=console, refresh_per_second=4) if console.is_terminal else None
        self._told = ""

    def __enter__(self) -> _Screen:
        if self._live:
            self._live.start()
        else:
            self._told = ""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        if self._live:
            self._live.stop()

    def show(self, rollout: model_pb2.Rollout, note: str = "") -> None:
        if self._live:
            self._live.update(RolloutView(rollout, note))
            return
        if not self._told:
            self._line(headline(rollout).plain)
        line = note or told(rollout)
        if line != self._told:
            self._told = line
            self._line(line)
        if rollout.status in ENDED:
            self._console.print()
            self._console.print(RolloutView(rollout))

    def _line(self, text: str) -> None:
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)


def told(rollout: model_pb2.Rollout) -> str:
    """Stage, status and message in a line; while it fills, its tenths too."""
    stage, status = stage_of(rollout), status_of(rollout)
    parts = [stage] if status == "running" else [stage, status]
    if rollout.message:
        parts.append(rollout.message)
    elif status == "running" and stage in COUNTED and rollout.total and rollout.done:
        parts[-1] += f" {10 * (10 * rollout.done // rollout.total)}%"
    return ": ".join(parts)
