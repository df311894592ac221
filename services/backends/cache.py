"""Our door to Redis as a cache. Losing it, at any moment, costs time and never a wrong answer.

Every call is bounded; what fails is a miss. Cached results carry the *catalogue epoch* they were computed under: a
random token that every write renews. Three rules keep a result from outliving the catalogue it was computed from:

- An epoch is never used twice: tokens are random, so a flushed or restored Redis can't bring an old one to life by
  counting up to it again.
- A Redis that was restarted may hold what it held before (an older epoch with the results of its time). So a new
  connection trusts nothing until it has seen the server's run id, and a run id that is new renews the epoch.
- A writer that can't renew the epoch is told so, and takes the slower way (services/gateway/freshness.py).
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType

import redis.asyncio as redis
from pydantic import Field
from redis.asyncio.connection import AbstractConnection
from redis.exceptions import RedisError

from services.common.batching import Batcher
from services.common.settings import SettingsGroup

_log = logging.getLogger("lookalike.cache")
_EPOCH_BYTES = 16
# callers that share a round trip, and values that may wait to be stored, at most
_BATCH = 64
_MAX_WAITING = 256


class CacheSettings(SettingsGroup):
    url: str = Field("redis://127.0.0.1:6379/0", description="redis://[user:password@]host:port/db, or rediss://")
    prefix: str = Field("lookalike", description="of every key, for a Redis that others use too")
    timeout_s: float = Field(0.05, gt=0, description="for any call; what takes longer is a miss")
    embedding_ttl_s: int = Field(24 * 3600, gt=0)
    result_ttl_s: int = Field(600, gt=0)
    max_connections: int = Field(16, gt=0)
    # while Redis is down, do not spend 50 ms of every request on finding out again
    retry_after_s: float = Field(0.5, ge=0)


@dataclass(frozen=True, slots=True)
class Found:
    """What a look-up found: `epoch` None when no cached result may be used or stored now."""

    epoch: bytes | None
    values: tuple[bytes | None, ...]


class Cache:
    """Use as `async with`. No method raises because of Redis."""

    def __init__(self, settings: CacheSettings) -> None:
        self._settings = settings
        self._client: redis.Redis | None = None
        self._epoch_key = f"{settings.prefix}:epoch"
        # raised with every new connection; equal to `_settled` when none came since the run id was last looked at
        self._connections = 0
        self._settled = -1
        self._run_id = ""
        self._settling = asyncio.Lock()
        self._down_until = 0.0
        # look-ups of concurrent callers share a round trip, which costs both sides more than the values do
        self._fetches: Batcher[Sequence[str], Found] = Batcher(self._fetch, max_items=_BATCH, concurrency=2)
        self._stores: Batcher[tuple[str, bytes, int], None] = Batcher(self._store, max_items=_BATCH)
        self._storing: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Cache:
        pool = redis.ConnectionPool.from_url(
            self._settings.url,
            max_connections=self._settings.max_connections,
            socket_timeout=self._settings.timeout_s,
            socket_connect_timeout=self._settings.timeout_s,
            redis_connect_func=self._on_connect,
        )
        self._client = redis.Redis(connection_pool=pool)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        for task in self._storing:
            task.cancel()
        await asyncio.gather(*self._storing, return_exceptions=True)
        if self._client:
            await self._client.aclose()
            await self._client.connection_pool.disconnect()

    def key(self, *parts: str) -> str:
        return ":".join((self._settings.prefix, *parts))

    async def fetch(self, keys: Sequence[str]) -> Found:
        """The epoch, read after this call began, and the values of all keys."""
        if time.monotonic() < self._down_until:
            return Found(None, (None,) * len(keys))
        return await self._fetches.submit(keys)

    def store(self, key: str, value: bytes, ttl_s: int) -> None:
        """Stores in the background; when too much waits already, nothing."""
        if len(self._storing) < _MAX_WAITING and time.monotonic() >= self._down_until:
            task = asyncio.create_task(self._stores.submit((key, value, ttl_s)))
            self._storing.add(task)
            task.add_done_callback(self._storing.discard)

    async def renew_epoch(self) -> bool:
        """Makes every result cached until now unusable. False: Redis could not be told."""
        try:
            async with asyncio.timeout(self._settings.timeout_s):
                await self._new_epoch()
        except (RedisError, OSError, TimeoutError) as error:
            self._failed(error)
            return False
        return True

    async def server_version(self) -> str:
        """Redis's version. Raises OSError when it does not answer within a second."""
        try:
            async with asyncio.timeout(1.0):
                return str((await self._connected.info("server"))["redis_version"])
        except (RedisError, TimeoutError) as error:
            raise OSError(f"Redis does not answer: {error or 'timed out'}") from error

    async def _fetch(self, wanted: list[Sequence[str]]) -> list[Found]:
        """One MGET for all callers. It begins after each of them asked, so the epoch is new enough for all."""
        keys = [key for caller in wanted for key in caller]
        epoch: object = None
        values: Sequence[object] = [None] * len(keys)
        if time.monotonic() >= self._down_until:
            try:
                async with asyncio.timeout(self._settings.timeout_s):
                    if self._settled != self._connections:
                        await self._settle()
                    before = self._settled
                    epoch, *values = await self._connected.mget(self._epoch_key, *keys)
                    if before != self._connections:
                        epoch = None  # a connection was made meanwhile, maybe to another server
                    elif epoch is None:
                        epoch = await self._first_epoch()
            except (RedisError, OSError, TimeoutError) as error:
                self._failed(error)
                epoch, values = None, [None] * len(keys)
        trusted = epoch if isinstance(epoch, bytes) and len(epoch) == _EPOCH_BYTES else None
        rest = iter(value if isinstance(value, bytes) else None for value in values)
        return [Found(trusted, tuple(next(rest) for _ in caller)) for caller in wanted]

    async def _store(self, items: list[tuple[str, bytes, int]]) -> list[None]:
        try:
            async with asyncio.timeout(self._settings.timeout_s):
                pipeline = self._connected.pipeline(transaction=False)
                for key, value, ttl_s in items:
                    pipeline.set(key, value, ex=ttl_s)
                await pipeline.execute()
        except redis.OutOfMemoryError:
            pass
        except (RedisError, OSError, TimeoutError) as error:
            self._failed(error)
        return [None] * len(items)

    async def _on_connect(self, connection: AbstractConnection) -> None:
        await connection.on_connect()
        self._connections += 1

    async def _settle(self) -> None:
        """Looks whether this is the server that it was; if not, renews the epoch."""
        async with self._settling:
            while self._settled != self._connections:
                seen = self._connections
                run_id = str((await self._connected.info("server"))["run_id"])
                if run_id != self._run_id:
                    await self._new_epoch()
                    self._run_id = run_id
                self._settled = seen

    async def _new_epoch(self) -> None:
        try:
            await self._connected.set(self._epoch_key, secrets.token_bytes(_EPOCH_BYTES))
        except redis.OutOfMemoryError:
            # deleting needs no memory, and without an epoch nothing is trusted
            await self._connected.delete(self._epoch_key)

    async def _first_epoch(self) -> bytes | None:
        """For an empty Redis: sets an epoch unless somebody else just did."""
        try:
            await self._connected.set(self._epoch_key, secrets.token_bytes(_EPOCH_BYTES), nx=True)
        except redis.OutOfMemoryError:
            return None
        epoch = await self._connected.get(self._epoch_key)
        return epoch if isinstance(epoch, bytes) else None

    def _failed(self, error: Exception) -> None:
        now = time.monotonic()
        if now >= self._down_until:
            _log.warning("redis does not answer", extra={"facts": {"error": repr(error)}})
        self._down_until = now + self._settings.retry_after_s

    @property
    def _connected(self) -> redis.Redis:
        if self._client is None:
            raise RuntimeError("Cache is used outside `async with`")
        return self._client
