"""The serving pair: which collection answers searches, and which encoder version embeds their pictures.

A request takes the pair once and stays with it: an answer never mixes vector spaces. Collection and rollout state come
from one description of the alias, read again and again in the background (`watch.py`), so that no request has to. A
pair that was read may be used as long as the rollout service knows of this gateway, and so waits for it at a switch;
when it may not, requests read the pair anew (docs/decisions/0008).
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from services.backends.encoder import Encoder
from services.backends.golden import check_golden
from services.backends.index import Collection, Index
from services.common.batching import Batcher
from services.common.changes import Changes
from services.common.errors import FailedPrecondition, LookalikeError, Unavailable
from services.common.images import PREPROCESSING
from services.common.manifest import MODEL_NAME, Manifest
from services.common.rollout_state import RolloutState
from services.gateway.settings import ServingSettings

_log = logging.getLogger("lookalike.serving")


@dataclass(frozen=True, slots=True)
class View:
    """What one reading of the alias gave: the serving collection and the state, as of one moment.

    Args:
        mirror: the collection that follows; None when there is none, or it does not exist yet.
    """

    collection: Collection
    state: RolloutState
    mirror: Collection | None = None


@dataclass(frozen=True, slots=True)
class Pair:
    """Args:
    collection: to be searched.
    query_version: encoder version that embeds queries for it.
    serving: it is the collection in service, whose epoch vouches for cached results.
    """

    collection: Collection
    query_version: int
    serving: bool = True


class Serving:
    """`prepare` makes the system ready for searches; `refresh` is called by the watch and by whoever must know now."""

    def __init__(self, settings: ServingSettings, model_repository: Path, index: Index, encoder: Encoder) -> None:
        self._settings = settings
        self._repository = model_repository / MODEL_NAME
        self._index = index
        self._encoder = encoder
        self._view: View | None = None
        self._sides: dict[int, int] = {}
        # when the reading that gave `_view` began
        self._read_at = -float("inf")
        self._trusted_until = -float("inf")
        self._changed = Changes()
        # searches that run, by the name of their collection
        self._searches: Counter[str] = Counter()
        # readings begin after each of their callers asked
        self._reads: Batcher[None, View] = Batcher(self._read, max_items=10_000)

    @property
    def view(self) -> View:
        """What was read last. Raises Unavailable until an encoder version serves."""
        if self._view is None or self._view.collection.model_version not in self._sides:
            raise Unavailable("the gateway is starting: no encoder version is in service yet", reason="NOT_READY")
        return self._view

    @property
    def collection(self) -> Collection:
        """The collection in service when it was last read. Raises Unavailable until there is one."""
        return self.view.collection

    def versions(self) -> set[int]:
        """Encoder versions that must answer: those that were verified here and are named by what was read last."""
        if self._view is None:
            return set()
        state = self._view.state
        return {self._view.collection.model_version, state.mirror_version, state.query_version} & self._sides.keys()

    @property
    def fresh_fence(self) -> str | None:
        """The collection's fence, or None when it was read too long ago to vouch for cached results."""
        if self._view is None or time.monotonic() - self._read_at > self._settings.max_age_s:
            return None
        return self._view.collection.fence

    def trust(self, until: float) -> None:
        """Until then (monotonic) the rollout service waits for this gateway before it ends a switch."""
        self._trusted_until = until

    def side(self, version: int) -> int:
        """S of an encoder version that has been verified, in pixels. Raises Unavailable."""
        try:
            return self._sides[version]
        except KeyError:
            raise Unavailable(f"encoder version {version} is not in service here", reason="NOT_READY") from None

    async def current(self) -> View:
        """A view that no switch has outrun. Raises Unavailable."""
        view = self.view
        return view if time.monotonic() < self._trusted_until else await self.refresh()

    async def pair(self, caller: str) -> Pair:
        """Whom a caller's searches are answered by; the same caller falls on the same side for a whole rollout."""
        view = await self.current()
        state = view.state
        if view.mirror and state.canary > _share(state, caller) and view.mirror.model_version in self._sides:
            return Pair(view.mirror, view.mirror.model_version, serving=False)
        own = view.collection.model_version
        query_version = state.query_version if state.query_version in self._sides else own
        return Pair(view.collection, query_version)

    @contextmanager
    def searching(self, collection: Collection) -> Iterator[None]:
        """Around a search: the collection stays until it has ended."""
        self._searches[collection.name] += 1
        try:
            yield
        finally:
            self._searches[collection.name] -= 1

    def lets_go(self) -> bool:
        """Whether no search runs in a collection that the view does not name: such a one may be removed."""
        view = self.view
        named = {view.collection.name, view.state.mirror}
        return not any(count for name, count in self._searches.items() if name not in named)

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
            except FailedPrecondition:
                raise
            except LookalikeError as error:
                if error.message != complained:
                    _log.warning("not ready yet", extra={"facts": {"reason": error.reason, "error": error.message}})
                    complained = error.message
                await asyncio.sleep(self._settings.refresh_s)
            else:
                break
        # so that a caller in a canary is answered by the same version as before this gateway was started again
        with contextlib.suppress(LookalikeError):
            await self.verify_mirror()

    async def refresh(self) -> View:
        """The view as of now or later. Raises Unavailable when there is none or the index does not answer."""
        return await self._reads.submit(None)

    async def changed(self, seq: int, timeout_s: float) -> None:
        """Returns when a view with another state than `seq` was read, or after the time."""
        end = time.monotonic() + timeout_s
        while self._view is not None and self._view.state.seq == seq and time.monotonic() < end:
            await self._changed.wait(end - time.monotonic())

    async def verify_mirror(self) -> None:
        """Returns when every encoder version that the state names is verified. Raises LookalikeError."""
        state = self.view.state
        wanted = {state.mirror_version, state.query_version} - {0, *self._sides}
        if wanted and self.view.mirror is None:
            raise Unavailable(f"the collection {state.mirror} is not there yet", reason="NOT_READY")
        for _ in wanted:
            if self.view.mirror:
                await self._verify(self.view.mirror)

    async def _read(self, callers: list[None]) -> Sequence[View]:
        began = time.monotonic()
        collection = await self._index.collections.resolve()
        if collection is None:
            raise Unavailable("the alias of the serving collection is gone", reason="INDEX_UNAVAILABLE")
        try:
            state = RolloutState.from_json(collection.state)
        except ValueError as error:
            raise Unavailable(f"the rollout state can't be read: {error}", reason="STATE_INVALID") from error
        if collection.model_version not in self._sides:
            await self._verify(collection)
        before = self._view
        self._view = View(collection, state, await self._mirror(state, before))
        self._read_at = began
        if before is None or before.state != state:
            self._changed.tell()
            if before is not None:
                facts = {"seq": state.seq, "collection": collection.name, "frozen": state.frozen}
                _log.info("rollout state", extra={"facts": facts})
        return [self._view] * len(callers)

    async def _mirror(self, state: RolloutState, before: View | None) -> Collection | None:
        if not state.mirror:
            return None
        if before and before.mirror and before.mirror.name == state.mirror:
            return before.mirror
        return await self._index.collections.describe(state.mirror)

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


def _share(state: RolloutState, caller: str) -> float:
    """Where a caller falls in [0, 1): even, and the same for a whole rollout, whatever becomes of its change log."""
    digest = hashlib.sha256(f"{state.turn}/{state.mirror}/{caller}".encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64
