"""A connection to Milvus whose calls end in time and fail with our errors."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import TypeVar

import grpc
from pydantic import Field, SecretStr
from pymilvus import AsyncMilvusClient, MilvusClient, MilvusException
from pymilvus.client import ts_utils
from pymilvus.client.connection_manager import ConnectionConfig
from pymilvus.client.types import Status

from services.common.cancellation import cancellation_kept
from services.common.errors import DeadlineExceeded, Unavailable
from services.common.settings import SettingsGroup

T = TypeVar("T")
Permit = Callable[[], Awaitable[None]]

_COLLECTION_NOT_FOUND = 100
_COLLECTION_NOT_LOADED = 101

_CHANNEL_OPTIONS = {
    # after an outage the next call shall find the server within a second, not within two minutes
    "grpc.initial_reconnect_backoff_ms": 100,
    "grpc.min_reconnect_backoff_ms": 100,
    "grpc.max_reconnect_backoff_ms": 1000,
    "grpc.use_local_subchannel_pool": 1,
    # servers answer pings on an idle connection by closing it
    "grpc.keepalive_permit_without_calls": 0,
}


class IndexSettings(SettingsGroup):
    uri: str = Field("http://127.0.0.1:19530", description="of Milvus")
    token: SecretStr = Field(SecretStr(""), description="user:password or API key")
    alias: str = Field("products", description="names the serving collection")
    timeout_s: float = Field(5.0, gt=0, description="for any call: a dead Milvus would hang it")
    admin_timeout_s: float = Field(60.0, gt=0, description="for making and loading a collection")
    hnsw_m: int = Field(16, ge=2, le=2048, description="neighbours of a vector in the HNSW graph")
    hnsw_ef_construction: int = Field(200, ge=8, le=512)
    hnsw_ef: int = Field(64, ge=1, le=32768, description="candidates of a search; never fewer than it shall find")


class CollectionNotFound(Unavailable):
    reason = "INDEX_UNAVAILABLE"


class CollectionNotLoaded(Unavailable):
    """Milvus was restarted and does not hold the collection in memory yet."""

    reason = "INDEX_UNAVAILABLE"


class Milvus:
    """Use as `async with`. Connects at the first call, and again after an outage.

    Args:
        permit: awaited directly before each call that changes anything; raises when this process may not.
    """

    def __init__(self, settings: IndexSettings, permit: Permit | None = None) -> None:
        self._settings = settings
        self._permit = permit
        config = ConnectionConfig.from_uri(settings.uri)
        self._endpoint, self._database = config.address, config.db_name
        self._client: AsyncMilvusClient | None = None
        self._blocking: MilvusClient | None = None
        self._blocking_lock = asyncio.Lock()

    async def __aenter__(self) -> Milvus:
        # it logs every error with a traceback before raising it; we raise our own, and who gets it logs it
        logging.getLogger("pymilvus").setLevel(logging.CRITICAL)
        self._client = AsyncMilvusClient(
            self._settings.uri,
            token=self._settings.token.get_secret_value(),
            timeout=self._settings.timeout_s,
            dedicated=True,
            grpc_options=_CHANNEL_OPTIONS,
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._client is not None:
            await self._client.close()
        if self._blocking is not None:
            await asyncio.to_thread(self._blocking.close)

    async def call(self, request: Callable[[AsyncMilvusClient], Awaitable[T]], timeout_s: float | None = None) -> T:
        """What `request` answers.

        Args:
            timeout_s: how long the caller can wait; the settings' timeout holds too.

        Raises:
            DeadlineExceeded: after `timeout_s`. Unavailable: any other failure.
        """
        assert self._client is not None, "use as `async with`"
        return await self._bounded(request(self._client), self._settings.timeout_s, timeout_s)

    async def call_blocking(
        self, request: Callable[[MilvusClient, float], T], limit_s: float, timeout_s: float | None = None
    ) -> T:
        """As `call`, in a thread, for what only the blocking client does well. `request` gets the seconds it has."""
        limit = limit_s if timeout_s is None else min(limit_s, timeout_s)

        async def work() -> T:
            async with self._blocking_lock:
                if self._blocking is None:
                    self._blocking = await asyncio.to_thread(self._connect_blocking)
            return await asyncio.to_thread(request, self._blocking, limit)

        return await self._bounded(work(), limit_s, timeout_s)

    async def change(self, request: Callable[[AsyncMilvusClient], Awaitable[T]], timeout_s: float | None = None) -> T:
        """As `call`, for what changes something. Raises what the permit raises, too."""
        if self._permit:
            await self._permit()
        return await self.call(request, timeout_s)

    async def change_blocking(
        self, request: Callable[[MilvusClient, float], T], limit_s: float, timeout_s: float | None = None
    ) -> T:
        """As `call_blocking`, for what changes something. Raises what the permit raises, too."""
        if self._permit:
            await self._permit()
        return await self.call_blocking(request, limit_s, timeout_s)

    def write_timestamp(self, collection_name: str) -> int:
        """Milvus' timestamp of this process' last write to a collection; 0 when the engine tells none."""
        return int(ts_utils.get_collection_ts(collection_name, self._endpoint, self._database))

    def _connect_blocking(self) -> MilvusClient:
        return MilvusClient(
            self._settings.uri,
            token=self._settings.token.get_secret_value(),
            timeout=self._settings.timeout_s,
            dedicated=True,
            grpc_options=_CHANNEL_OPTIONS,
        )

    async def _bounded(self, work: Awaitable[T], limit_s: float, timeout_s: float | None) -> T:
        callers = timeout_s is not None and timeout_s < limit_s
        try:
            with cancellation_kept():
                async with asyncio.timeout(timeout_s if callers else limit_s):
                    return await work
        except TimeoutError:
            if callers:
                raise DeadlineExceeded("the product index did not answer before the deadline") from None
            raise Unavailable(
                f"the product index did not answer within {limit_s:g} s", reason="INDEX_UNAVAILABLE"
            ) from None
        except MilvusException as error:
            raise _translated(error) from error
        except grpc.RpcError as error:
            raise Unavailable(
                f"the product index does not answer: {_code(error)}", reason="INDEX_UNAVAILABLE"
            ) from error


def _translated(error: MilvusException) -> Unavailable:
    message = " ".join(str(error.message).split())[:200]
    if error.code == Status.CONNECT_FAILED:
        return Unavailable("the product index can't be reached", reason="INDEX_UNAVAILABLE")
    if error.code == _COLLECTION_NOT_FOUND:
        return CollectionNotFound(f"the product index lacks a collection: {message}")
    if error.code == _COLLECTION_NOT_LOADED or "not loaded" in message or "'released'" in message:
        return CollectionNotLoaded(f"the product index is loading: {message}")
    return Unavailable(f"the product index refused: {message}", reason="INDEX_UNAVAILABLE")


def _code(error: grpc.RpcError) -> str:
    code = getattr(error, "code", None)
    return code().name if callable(code) else type(error).__name__
