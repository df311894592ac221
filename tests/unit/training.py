"""What tests of training share: recipes that say how the process behaves, and looks at processes."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path

import psutil

from services.trainer.recipe import Recipe, parse_recipe

STAND_IN = Path(__file__).with_name("training_stand_in.py")
PATIENCE_S = 60


def recipe_text(kind: str, seed: int = 1) -> str:
    """Of a run that behaves as `training_stand_in` says; another seed is another run."""
    return f'name = "{kind}"\nseed = {seed}\n[data]\npath = "pictures"\n[optimiser]\nepochs = 2\n'


def recipe(kind: str, seed: int = 1) -> Recipe:
    return parse_recipe(recipe_text(kind, seed), Path("/data"))


def gone(pid: int) -> bool:
    """Whether the process ends soon; one that waits to be reaped has ended."""
    try:
        process = psutil.Process(pid)
        return process.status() == psutil.STATUS_ZOMBIE or bool(psutil.wait_procs([process], timeout=10)[0])
    except psutil.NoSuchProcess:
        return True


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not condition():
            await asyncio.sleep(0.02)


def until_now(condition: Callable[[], object]) -> None:
    """The same without an event loop."""
    end = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.02)
