"""Writing and reading products. A write that returns is durable and seen by every later search.

Order of a write: new pictures embedded, their originals to the image store, rows to the index, epoch renewed, answer.
All images of a product go into one call of the index, which is all or nothing: no reader and no crash finds half a
product. An image that the product no longer has can't be deleted in the same call. So its row is first overwritten, in
that call, by a copy of the product's main image, and deleted afterwards: what a crash in between leaves is a harmless
copy (docs/decisions/0004).
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace

from services.backends.image_store import ImageStore
from services.backends.index import DISCARDED, Collection, Index, Row
from services.common.batching import Batcher
from services.common.errors import AlreadyChanged, InvalidArgument, InvalidImage, NotFound
from services.common.images import MAX_BYTES
from services.common.products import IMAGE_ID, MAX_IMAGES, MAX_URI_CHARS, Product, ProductImage, Region, check_product
from services.common.telemetry import Metrics
from services.common.to_the_end import to_the_end
from services.gateway.embedding import Embedder, Picture
from services.gateway.freshness import Freshness
from services.gateway.serving import Serving
from services.gateway.settings import CatalogSettings
from services.gateway.writes import Writes


@dataclass(frozen=True, slots=True)
class ImageInput:
    """A picture as the caller gives it: bytes, an address, or the hash of one that the product already has."""

    id: str
    content: bytes
    uri: str
    sha256: str
    region: Region | None


# Makes the product that shall be stored, and its images, from the one that is stored (None: there is none).
Change = Callable[[Product | None], tuple[Product, Sequence[ImageInput]]]


class Catalogue:
    def __init__(
        self,
        settings: CatalogSettings,
        index: Index,
        images: ImageStore,
        embedder: Embedder,
        serving: Serving,
        guard: Writes,
        freshness: Freshness,
        metrics: Metrics,
    ) -> None:
        self._settings = settings
        self._index = index
        self._images = images
        self._embedder = embedder
        self._serving = serving
        self._guard = guard
        self._freshness = freshness
        self._metrics = metrics
        self._locks: dict[str, _Lock] = {}
        self._lookups: Batcher[tuple[Collection, str], list[Row]] = Batcher(
            self._look_up, max_items=settings.write_batch, concurrency=2
        )
        self._writes: Batcher[tuple[Collection, list[Row]], None] = Batcher(
            self._write_rows, max_items=settings.write_batch, concurrency=1
        )

    async def write(self, product_id: str, change: Change, etag: str = "") -> Product:
        """Creates or changes a product.

        Args:
            change: is called with the stored product while no other write of this gateway touches it.
            etag: when not empty, must be the stored product's.

        Raises:
            InvalidArgument, InvalidImage, AlreadyChanged, NotFound (from `change`), Unavailable, Overloaded.
        """
        async with self._locked(product_id):
            written: Product | None = None
            # collections that this write has touched itself: that it is there is no news in them
            touched: set[str] = set()
            while True:
                collection = (await self._serving.current()).collection
                rows = await self._lookups.submit((collection, product_id))
                stored = product_of(rows)
                known = written and stored and stored.update_time_us == written.update_time_us
                if written and known and collection.name not in touched:
                    # a switch came in between, and the rollout had carried it over
                    return written
                if not known:
                    _check_etag(product_id, stored, etag)
                product, inputs = change(stored)
                check_product(product)
                new_rows = await self._rows(collection, product, inputs, rows)
                now_us = time.time_ns() // 1000
                # strictly increasing per product, whatever the clock does: the etag is made of it
                update_time_us = max(now_us, stored.update_time_us + 1 if stored else 0)
                product = replace(product, images=tuple(row.image for row in new_rows), update_time_us=update_time_us)
                kept = {row.image.id for row in new_rows}
                main = new_rows[0]
                discarded = [
                    replace(
                        row,
                        product=product,
                        image=replace(main.image, id=row.image.id),
                        position=DISCARDED,
                        vector=main.vector,
                    )
                    for row in rows
                    if row.image.id not in kept
                ]
                rows_now = [replace(row, product=product) for row in new_rows] + discarded
                touched.add(collection.name)
                if await self._commit(product_id, collection, rows_now, discarded):
                    return product
                written = product

    async def get(self, product_id: str) -> Product:
        """Raises NotFound, Unavailable."""
        collection = (await self._serving.current()).collection
        found = await self._index.product_rows(collection, [product_id], vectors=False)
        stored = product_of(found.get(product_id, []))
        if stored is None:
            raise product_not_found(product_id)
        return stored

    async def image_bytes(self, image: ProductImage) -> bytes:
        """The original of a stored image. Raises NotFound, Unavailable."""
        return await self._images.get(image.sha256)

    async def page(self, expression: str, after: str, limit: int) -> tuple[list[Product], str]:
        """At most `limit` products that match, in a stable order, and where to go on ("" at the end).

        Args:
            expression: Milvus expression. after: what the call before gave.
        """
        collection = (await self._serving.current()).collection
        products: list[Product] = []
        while len(products) <= limit:  # one more than asked for tells whether there is a further page
            rows = await self._index.scan(collection, expression, after, min(1000, 2 * (limit + 1)))
            if not rows:
                break
            # a scan may end inside a product, so its rows only tell the ids
            ids = list(dict.fromkeys(row.product.id for row in rows))
            found = await self._index.product_rows(collection, ids, vectors=False)
            products += [product for i in ids if (product := product_of(found.get(i, []))) is not None]
            after = _behind(ids[-1])
        page = products[:limit]
        return page, _behind(page[-1].id) if len(products) > limit else ""

    async def delete(self, product_id: str, *, allow_missing: bool, etag: str = "") -> None:
        """Raises NotFound (unless `allow_missing`), AlreadyChanged, Unavailable."""
        async with self._locked(product_id):
            again = False
            while True:
                collection = (await self._serving.current()).collection
                rows = await self._lookups.submit((collection, product_id))
                stored = product_of(rows)
                if stored is None:
                    if allow_missing or again:
                        return
                    raise product_not_found(product_id)
                _check_etag(product_id, stored, etag)
                if await self._commit(product_id, collection, [], rows):
                    return
                again = True

    async def _commit(
        self, product_id: str, collection: Collection, written: list[Row], deleted: Sequence[Row]
    ) -> bool:
        """Writes and removes rows of one product; False: another collection serves by now, and the write must be done
        again there (docs/decisions/0008)."""
        with self._metrics.stage("write"):
            return await to_the_end(self._committed(product_id, collection, written, deleted))

    async def _committed(
        self, product_id: str, collection: Collection, written: list[Row], deleted: Sequence[Row]
    ) -> bool:
        async with self._guard.begun(product_id, collection) as write:
            if write is None:
                return False
            await self._guard.enter(write)
            if written:
                await self._writes.submit((collection, written))
            if deleted:
                await self._index.delete(collection, [(row.product.id, row.image.id) for row in deleted])
            await self._guard.enter(write)
        await self._freshness.written(collection.name)
        return await self._guard.confirmed(write)

    async def _rows(
        self, collection: Collection, product: Product, inputs: Sequence[ImageInput], stored: Sequence[Row]
    ) -> list[Row]:
        """A row with its vector for every image. What the product already has is not embedded again."""
        if not 1 <= len(inputs) <= MAX_IMAGES:
            raise InvalidArgument(
                f"a product has 1 to {MAX_IMAGES} images, not {len(inputs)}",
                reason="PRODUCT_IMAGES_COUNT",
                field="product.images",
            )
        # of one product, one after the other: what its pictures need of memory stays small
        rows = [await self._row(collection, product, number, image, stored) for number, image in enumerate(inputs)]
        ids = [row.image.id for row in rows]
        for number, image_id in enumerate(ids):
            if image_id in ids[:number]:
                raise InvalidArgument(
                    f"two images have the id {image_id!r}",
                    reason="IMAGE_ID_DUPLICATE",
                    field=f"product.images[{number}].id",
                )
        return rows

    async def _row(
        self, collection: Collection, product: Product, number: int, given: ImageInput, stored: Sequence[Row]
    ) -> Row:
        field = f"product.images[{number}]"
        if given.id and not IMAGE_ID.match(given.id):
            raise InvalidArgument(
                f"image id {given.id[:80]!r} does not match [a-z0-9][a-z0-9._-]{{0,63}}",
                reason="IMAGE_ID_INVALID",
                field=f"{field}.id",
            )
        data, uri, sha256 = given.content, given.uri, given.sha256.lower()
        if len(uri) > MAX_URI_CHARS:
            raise InvalidArgument(
                f"a uri has at most {MAX_URI_CHARS:,} characters", reason="PRODUCT_FIELD_INVALID", field=f"{field}.uri"
            )
        if uri:
            data = await self._images.read_uri(uri, self._settings.allowed_uri_prefixes, MAX_BYTES)
        if data or uri or not sha256:
            sha256 = hashlib.sha256(data).hexdigest()
            if given.sha256 and given.sha256.lower() != sha256:
                raise InvalidImage(
                    "the bytes do not have the given sha256", reason="IMAGE_CORRUPT", field=f"{field}.sha256"
                )
        same = [row for row in stored if row.image.sha256 == sha256]
        image = ProductImage(
            id=given.id or (same[0].image.id if same and not data else sha256[:16]),
            sha256=sha256,
            uri=uri or (same[0].image.uri if same and not data else ""),
            region=given.region,
        )
        known = next((row for row in same if row.image.region == given.region), None)
        if known is not None:
            return Row(product=product, image=image, position=number, vector=known.vector)
        if not data:
            if not same:
                raise InvalidArgument(
                    "an image needs content, uri, or the sha256 of an image that the product has",
                    reason="IMAGE_EMPTY",
                    field=field,
                )
            data = await self._images.get(sha256)  # another region of a picture that is stored
        try:
            vector = await self._embedder.embed(
                Picture(data, sha256, given.region), collection.model_version, purpose="catalogue"
            )
        except InvalidImage as error:
            raise InvalidImage(error.message, reason=error.reason, field=field) from error
        # only what can be embedded is kept
        with self._metrics.stage("store"):
            await self._images.put(data)
        return Row(product=product, image=image, position=number, vector=vector)

    async def _look_up(self, wanted: list[tuple[Collection, str]]) -> list[list[Row]]:
        by_collection: dict[Collection, set[str]] = {}
        for collection, product_id in wanted:
            by_collection.setdefault(collection, set()).add(product_id)
        found = {
            collection: await self._index.product_rows(collection, sorted(ids), vectors=True)
            for collection, ids in by_collection.items()
        }
        return [found[collection].get(product_id, []) for collection, product_id in wanted]

    async def _write_rows(self, batch: list[tuple[Collection, list[Row]]]) -> list[None]:
        by_collection: dict[Collection, list[Row]] = {}
        for collection, rows in batch:
            by_collection.setdefault(collection, []).extend(rows)
        for collection, rows in by_collection.items():
            await self._index.upsert(collection, rows)
        return [None] * len(batch)

    @asynccontextmanager
    async def _locked(self, product_id: str) -> AsyncIterator[None]:
        """Writes of one product, one at a time and in order of arrival."""
        lock = self._locks.setdefault(product_id, _Lock())
        lock.users += 1
        try:
            async with lock.lock:
                yield
        finally:
            lock.users -= 1
            if not lock.users:
                del self._locks[product_id]


class _Lock:
    def __init__(self) -> None:
        self.lock = asyncio.Lock()
        self.users = 0


def product_of(rows: Sequence[Row]) -> Product | None:
    """The product that these rows, all of one product, make up."""
    images = tuple(row.image for row in rows if row.position != DISCARDED)
    return rows[0].product.with_images(images) if images else None


def _behind(product_id: str) -> str:
    """A key greater than all of this product's: keys are `{product}/{image}`, and "0" is the character behind "/"."""
    return f"{product_id}0"


def _check_etag(product_id: str, stored: Product | None, etag: str) -> None:
    if etag and (stored is None or stored.etag != etag):
        raise AlreadyChanged(f"products/{product_id} was changed by somebody else: read it and try again")


def product_not_found(product_id: str) -> NotFound:
    """The error for a product that is not there."""
    return NotFound(f"there is no product products/{product_id}", reason="PRODUCT_NOT_FOUND", field="name")
