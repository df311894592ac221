"""The collections of the index: one for each encoder version, the alias that names the serving one, and what is kept
with a collection as its properties.

A property of a collection is small, durable, and read together with the alias: see `services.common.rollout_state`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from pymilvus import MilvusClient, MilvusException

from services.backends import index_schema
from services.backends.index_schema import Collection
from services.backends.milvus import CollectionNotFound, IndexSettings, Milvus
from services.common.errors import FailedPrecondition


class Collections:
    """Part of `Index`, by way of its connection. Every method raises Unavailable when Milvus fails or is too slow."""

    def __init__(self, settings: IndexSettings, milvus: Milvus) -> None:
        self._settings = settings
        self._milvus = milvus
        self._load_locks: dict[str, asyncio.Lock] = {}

    async def resolve(self) -> Collection | None:
        """The serving collection: what the alias points to. None before the first start is complete."""
        return await self.describe(self._settings.alias)

    async def describe(self, name: str) -> Collection | None:
        """The collection of a name or an alias. None when there is none, or it is not ours."""
        try:
            found = await self._milvus.call(lambda client: client.describe_collection(name))
        except CollectionNotFound:
            return None
        return Collection.from_properties(found["collection_name"], found["properties"])

    async def create_collection(self, version: int, dimension: int, preprocessing: str) -> Collection:
        """The collection of an encoder version: made if there is none, indexed and loaded. Several may call at once.

        Raises:
            FailedPrecondition: it is there already, for another dimension or preprocessing.
        """
        wanted = Collection.of(version, dimension, preprocessing)
        limit_s = self._settings.admin_timeout_s
        await self._milvus.change_blocking(lambda client, timeout_s: self._create(client, wanted, timeout_s), limit_s)
        await self.ensure_loaded(wanted.name)
        made = await self.describe(wanted.name)
        if made is None or made.properties != wanted.properties:
            raise FailedPrecondition(
                f"collection {wanted.name} was made for {made and made.properties}, not for {wanted.properties}",
                reason="COLLECTION_MISMATCH",
            )
        return made

    def _create(self, client: MilvusClient, wanted: Collection, timeout_s: float) -> None:
        """In a thread: the asynchronous client can't index on Milvus Lite (it needs AllocTimestamp)."""
        if not client.has_collection(wanted.name, timeout=timeout_s):
            try:
                client.create_collection(
                    wanted.name,
                    schema=index_schema.schema(wanted.dimension),
                    # rows of one write go to one shard and are applied together
                    num_shards=1,
                    consistency_level="Bounded",
                    properties=wanted.properties,
                    timeout=timeout_s,
                )
            except MilvusException:
                if not client.has_collection(wanted.name, timeout=timeout_s):
                    raise
        indexes = index_schema.indexes(
            client.get_server_version(), self._settings.hnsw_m, self._settings.hnsw_ef_construction
        )
        for column, params in indexes.items():
            if column in client.list_indexes(wanted.name):
                continue
            try:
                client.create_index(wanted.name, params, timeout=timeout_s)
            except MilvusException:
                if column not in client.list_indexes(wanted.name):
                    raise

    async def set_alias(self, collection_name: str) -> None:
        """Makes this the serving collection."""
        alias = self._settings.alias
        current = await self.resolve()
        if current is None:
            try:
                await self._milvus.change(lambda client: client.create_alias(collection_name, alias))
                return
            except Exception:
                current = await self.resolve()
                if current is None:
                    raise
        if current.name != collection_name:
            await self._milvus.change(lambda client: client.alter_alias(collection_name, alias))

    async def ensure_loaded(self, name: str) -> None:
        """Returns when the collection is in memory and can be searched."""
        async with self._load_locks.setdefault(name, asyncio.Lock()):
            await self._milvus.call_blocking(
                lambda client, timeout_s: client.load_collection(name, replica_number=1, timeout=timeout_s),
                self._settings.admin_timeout_s,
            )

    async def all(self) -> list[Collection]:
        """Every collection of ours, by version."""
        names = await self._milvus.call(lambda client: client.list_collections())
        found = [await self.describe(name) for name in names if index_schema.is_ours(name)]
        return sorted((each for each in found if each is not None), key=lambda each: each.model_version)

    async def drop(self, name: str) -> None:
        """Removes a collection with its rows; nothing happens when there is none."""
        limit_s = self._settings.admin_timeout_s
        await self._milvus.change_blocking(
            lambda client, timeout_s: client.drop_collection(name, timeout=timeout_s), limit_s
        )

    async def keep(self, name: str, properties: Mapping[str, str]) -> None:
        """Stores properties of a collection, durably; others stay as they are.

        Args:
            properties: by their names without our prefix: "fence", "state", "record".
        """
        named = index_schema.named_properties(properties)
        # twice: Milvus 2.3 shows the new properties at once, but stores those from before the call
        for _ in range(2):
            await self._milvus.change(lambda client: client.alter_collection_properties(name, named))

    async def keep_gap(self, name: str, log: str) -> None:
        """Says, durably, that a change log lacks a write to this collection."""
        await self.keep(name, index_schema.gap_property(log))

    async def kept(self, name: str, prop: str) -> str:
        """One property of a collection or an alias; "" when there is none."""
        try:
            found = await self._milvus.call(lambda client: client.describe_collection(name))
        except CollectionNotFound:
            return ""
        return str(index_schema.property_of(found["properties"], prop))
