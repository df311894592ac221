"""What a rollout learns from live searches: shadow answers of the mirror, and how canary and other callers fare."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import time
from collections.abc import Coroutine
from types import TracebackType
from typing import Any

from services.backends.live_samples import Kind, LiveSamples, Sample
from services.common.errors import LookalikeError
from services.gateway.nearest import similarity
from services.gateway.search import SearchAnswer, Searcher, SearchRequest
from services.gateway.serving import Pair, Serving

_log = logging.getLogger("lookalike.comparison")
# shadow searches at a time, and samples that may wait: beyond that live searches go unsampled
_MAX_SHADOWS = 2
_MAX_WAITING = 64
_SHADOW_TIMEOUT_S = 5.0
_COMPARED = 10


class Comparison:
    """Use as `async with`. Nothing in here delays or fails a request."""

    def __init__(self, searcher: Searcher, serving: Serving, samples: LiveSamples) -> None:
        self._searcher = searcher
        self._serving = serving
        self._samples = samples
        self._tasks: set[asyncio.Task[None]] = set()
        self._shadows = 0

    async def __aenter__(self) -> Comparison:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def answered(self, request: SearchRequest, pair: Pair, answer: SearchAnswer | None, latency_s: float) -> None:
        """Called with every search that was computed; `answer` None when it failed."""
        view = self._serving.view
        state = view.state
        if not state.log or not (state.canary or state.shadow) or len(self._tasks) >= _MAX_WAITING:
            return
        if state.canary:
            best = similarity(answer.hits[0].cosine) if answer and answer.hits else -1.0
            kind: Kind = "serving" if pair.serving else "canary"
            self._spawn(self._add(state.log, Sample(kind, latency_s * 1e3, best, failed=answer is None)))
        asked = pair.serving and answer is not None and request.page_token is None
        if asked and view.mirror and self._shadows < _MAX_SHADOWS and random.random() < state.shadow:
            assert answer is not None
            self._spawn(self._shadow(state.log, request, answer, Pair(view.mirror, view.mirror.model_version, False)))

    async def _shadow(self, log: str, request: SearchRequest, answer: SearchAnswer, pair: Pair) -> None:
        self._shadows += 1
        start = time.perf_counter()
        shown: list[str] | None = None
        best = -1.0
        try:
            async with asyncio.timeout(_SHADOW_TIMEOUT_S):
                found = await self._searcher.search(request, pair, {}, _SHADOW_TIMEOUT_S)
            shown = [hit.product_id for hit in found.hits[:_COMPARED]]
            best = similarity(found.hits[0].cosine) if found.hits else -1.0
        except (LookalikeError, TimeoutError) as error:
            _log.info("a shadow search failed", extra={"facts": {"error": str(error)}})
        finally:
            self._shadows -= 1
        latency_ms = (time.perf_counter() - start) * 1e3
        expected = [hit.product_id for hit in answer.hits[:_COMPARED]]
        overlap = len(set(expected) & set(shown)) / len(expected) if shown is not None and expected else -1.0
        serving_best = similarity(answer.hits[0].cosine) if answer.hits else -1.0
        await self._add(log, Sample("shadow", latency_ms, best, serving_best, overlap, failed=shown is None))

    async def _add(self, log: str, sample: Sample) -> None:
        with contextlib.suppress(LookalikeError):
            await self._samples.add(log, sample)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
