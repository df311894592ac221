"""Keeps Triton serving what must be served: after a restart it may have nothing loaded, see `triton_config`."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection
from pathlib import Path
from types import TracebackType

from services.backends.encoder import Encoder
from services.common.cancellation import end
from services.common.errors import LookalikeError

_log = logging.getLogger("lookalike.encoder")


class KeptLoaded:
    """Use as `async with`: looks every so often, and loads what is wanted and not served.

    Args:
        models: the model's folder, where config.pbtxt and the versions are.
        wanted: versions that must answer now.
    """

    def __init__(
        self, encoder: Encoder, models: Path, wanted: Callable[[], Collection[int]], every_s: float = 1.0
    ) -> None:
        self._encoder = encoder
        self._models = models
        self._wanted = wanted
        self._every_s = every_s
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> KeptLoaded:
        self._task = asyncio.create_task(self._watch())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await end(self._task)

    async def _watch(self) -> None:
        complained = ""
        while True:
            await asyncio.sleep(self._every_s)
            try:
                await self._encoder.load(self._models, self._wanted())
                complained = ""
            except LookalikeError as error:
                if error.message != complained:
                    _log.warning("versions are not served", extra={"facts": {"error": error.message}})
                    complained = error.message
