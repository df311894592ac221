"""The serving pair: which collection answers searches, and so which encoder version embeds their pictures.

A request takes the pair once and stays with it: an answer never mixes vector spaces. The pair is read from the alias
again and again in the background, so that no request has to.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from pathlib import Path
from types import TracebackType

from services.backends.encoder import Encoder
from services.backends.golden import check_golden
from services.backends.index import Collection, Index
from services.common.errors import FailedPrecondition, LookalikeError, Unavailable
from services.common.images import PREPROCESSING
from services.common.manifest import MODEL_NAME, Manifest
from services.gateway.settings import ServingSettings

_log = logging.getLogger("lookalike.serving")


class Serving:
    """Use as `async with`: entering starts the background reading, `prepare` makes the system ready for searches."""

    def __init__(self, settings: ServingSettings, model_repository: Path, index: Index, encoder: Encoder) -> None:
        self._settings = settings
        self._repository = model_repository / MODEL_NAME
        self._index = index
        self._encoder = encoder
        self._current: Collection | None = None
        self._sides: dict[int, int] = {}
        # when the reading that gave `_current` began
        self._read_at = -float("inf")
        self._watcher: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Serving:
        self._watcher = asyncio.create_task(self._watch())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        if self._watcher:
            self._watcher.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._watcher

    @property
    def collection(self) -> Collection:
        """The collection in service. Raises Unavailable until there is one."""
        if self._current is None or self._current.model_version not in self._sides:
            raise Unavailable("the gateway is starting: no encoder version is in service yet", reason="NOT_READY")
        return self._current

    def versions(self) -> set[int]:
        """Encoder versions that must answer."""
        return set() if self._current is None else {self._current.model_version}

    @property
    def fresh_fence(self) -> str | None:
        """The collection's fence, or None when it was read too long ago to vouch for cached results."""
        if self._current is None or time.monotonic() - self._read_at > self._settings.max_age_s:
            return None
        return self._current.fence

    def side(self, version: int) -> int:
        """S of an encoder version that has been verified, in pixels. Raises Unavailable."""
        try:
            return self._sides[version]
        except KeyError:
            raise Unavailable(f"encoder version {version} is not in service here", reason="NOT_READY") from None

    async def prepare(self) -> None:
        """Waits until searches can be answered; on the first start makes the collection and the alias.

        Raises:
            FailedPrecondition: the encoder's files are missing, or are not what their manifest says.
        """
        complained = ""
        while True:
            try:
                collection = await self._index.collections.resolve()
                if collection is None:
                    collection = await self._first_collection()
                await self._index.collections.ensure_loaded(collection.name)
                await self._verify(collection)
                await self.refresh()
                return
            except FailedPrecondition:
                raise
            except LookalikeError as error:
                if error.message != complained:
                    _log.warning("not ready yet", extra={"facts": {"reason": error.reason, "error": error.message}})
                    complained = error.message
                await asyncio.sleep(self._settings.refresh_s)

    async def refresh(self) -> Collection:
        """Reads the serving pair now. Raises Unavailable when there is none or the index does not answer."""
        began = time.monotonic()
        collection = await self._index.collections.resolve()
        if collection is None:
            raise Unavailable("the alias of the serving collection is gone", reason="INDEX_UNAVAILABLE")
        if collection.model_version not in self._sides:
            await self._verify(collection)
        self._current, self._read_at = collection, began
        return collection

    async def _watch(self) -> None:
        failing = False
        while True:
            await asyncio.sleep(self._settings.refresh_s)
            if self._current is None:
                continue
            try:
                await self.refresh()
                failing = False
            except LookalikeError as error:
                if not failing:
                    _log.warning("serving pair not read", extra={"facts": {"error": error.message}})
                failing = True

    async def _first_collection(self) -> Collection:
        versions = sorted(int(p.name) for p in self._repository.glob("[0-9]*") if p.name.isdigit())
        if not versions:
            raise FailedPrecondition(
                f"there is no encoder version in {self._repository}: run `lookalike models init`",
                reason="MODEL_MISSING",
            )
        manifest = Manifest.read(self._repository / str(versions[-1]))
        collection = await self._index.collections.create_collection(
            manifest.version, manifest.dimension, manifest.preprocessing
        )
        await self._index.collections.set_alias(collection.name)
        _log.info("first start", extra={"facts": {"collection": collection.name}})
        return collection

    async def _verify(self, collection: Collection) -> None:
        """Lets a version serve only if Triton's answers for its golden pictures are what they were at its export."""
        version = collection.model_version
        manifest = Manifest.read(self._repository / str(version))
        if manifest.preprocessing != PREPROCESSING or collection.preprocessing != PREPROCESSING:
            raise FailedPrecondition(
                f"encoder version {version} was made for preprocessing {manifest.preprocessing!r} and the collection "
                f"for {collection.preprocessing!r}; this gateway does {PREPROCESSING!r}",
                reason="PREPROCESSING_MISMATCH",
            )
        if manifest.dimension != collection.dimension:
            raise FailedPrecondition(
                f"encoder version {version} gives {manifest.dimension} dimensions, {collection.name} holds "
                f"{collection.dimension}",
                reason="DIMENSION_MISMATCH",
            )
        # Triton has none after a start that met a damaged version
        await self._encoder.load(self._repository, {version})
        cosine = await check_golden(self._encoder, manifest)
        self._sides[version] = manifest.side
        _log.info("encoder verified", extra={"facts": {"version": version, "cosine": round(cosine, 6)}})
