"""Our door to Redis for what gateways and the rollout service tell each other: leases, beats, the change log.

Unlike the cache, a failure here is told. Nothing kept here is needed for a right answer: what is lost is noticed
(`ChangeLog.intact`), and the rollout verifies again before it switches (docs/decisions/0008).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Any

import redis.asyncio as redis
from pydantic import Field
from redis.exceptions import RedisError

from services.common.cancellation import cancellation_kept
from services.common.errors import Unavailable
from services.common.settings import SettingsGroup

# takes the lease when it is free or ours: KEYS lease, ARGV owner, milliseconds
_TAKE = """
local owner = redis.call('GET', KEYS[1])
if owner and owner ~= ARGV[1] then return owner end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return ARGV[1]
"""
# removes the lease when it is the owner's: KEYS lease, ARGV owner
_DROP = "if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) end return 0"


class CoordinationSettings(SettingsGroup):
    url: str = Field("redis://127.0.0.1:6379/0", description="redis://[user:password@]host:port/db, or rediss://")
    prefix: str = Field("lookalike", description="of every key, for a Redis that others use too")
    timeout_s: float = Field(0.25, gt=0, description="for any call")


class Coordination:
    """Use as `async with`. Every method raises Unavailable when Redis fails or does not answer in time."""

    def __init__(self, settings: CoordinationSettings) -> None:
        self._settings = settings
        self._client: redis.Redis | None = None

    async def __aenter__(self) -> Coordination:
        self._client = redis.Redis.from_url(
            self._settings.url,
            socket_timeout=self._settings.timeout_s,
            socket_connect_timeout=self._settings.timeout_s,
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        if self._client:
            await self._client.aclose()

    def key(self, *parts: str) -> str:
        return ":".join((self._settings.prefix, *parts))

    async def call(self, request: Callable[[redis.Redis], Awaitable[Any]]) -> Any:
        """What `request` answers, in bytes as Redis has it."""
        if self._client is None:
            raise RuntimeError("Coordination is used outside `async with`")
        try:
            with cancellation_kept():
                async with asyncio.timeout(self._settings.timeout_s):
                    return await request(self._client)
        except (RedisError, OSError, TimeoutError) as error:
            raise Unavailable(
                f"Redis does not answer: {str(error) or 'timed out'}", reason="COORDINATION_UNAVAILABLE"
            ) from error

    async def run_id(self) -> str:
        """Of the server's process: another one after every start."""
        return str((await self.call(lambda client: client.info("server")))["run_id"])

    async def take_lease(self, name: str, owner: str, ttl_s: float) -> str:
        """Takes or renews a lease unless somebody else holds it; who holds it now."""
        holder = await self.call(
            lambda client: client.eval(_TAKE, 1, self.key("lease", name), owner, round(ttl_s * 1e3))
        )
        return holder.decode() if isinstance(holder, bytes) else str(holder)

    async def drop_lease(self, name: str, owner: str) -> None:
        await self.call(lambda client: client.eval(_DROP, 1, self.key("lease", name), owner))
