"""Makes one collection hold what another one holds, with vectors of its own encoder version.

Copying a product reads it as it is now and writes it whole, so it may be repeated, and whatever was lost or half done
before is mended by doing it once more. Who compares finds what is left to copy.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Coroutine, Iterable, Sequence
from contextlib import asynccontextmanager, nullcontext
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from services.backends.encoder import Encoder, Priority
from services.backends.image_store import ImageStore
from services.backends.index import DISCARDED, Collection, Fingerprint, Index, Row, Vector
from services.common.changes import Changes
from services.common.errors import InvalidImage, NotFound
from services.common.images import ImageDecoder
from services.common.products import ProductImage
from services.common.to_the_end import to_the_end
from services.rollout.pace import IDLE_BATCH, Pace

# what decides a vector: the sha256 of the bytes, and the part of the picture that is looked at
Picture = tuple[str, tuple[float, ...]]

# rows of one page of a comparison
_PAGE = 4096
# products that are read and written together, and such groups at a time: enough to keep the encoder busy
GROUP = 32
_GROUPS = 3


@dataclass(slots=True)
class _Plan:
    """What is to be written for a group of products, and what of it must be embedded first, by picture."""

    rows: list[Row] = field(default_factory=list)
    wanted: dict[Picture, ProductImage] = field(default_factory=dict)
    surplus: list[tuple[str, str]] = field(default_factory=list)


class Mirror:
    """Copies from `source` to `target`.

    Args:
        side: S of the target's encoder version.
    """

    def __init__(
        self,
        index: Index,
        images: ImageStore,
        decoder: ImageDecoder,
        encoder: Encoder,
        pace: Pace,
        source: Collection,
        target: Collection,
        side: int,
    ) -> None:
        self._index = index
        self._images = images
        self._decoder = decoder
        self._encoder = encoder
        self._pace = pace
        self.source = source
        self.target = target
        self._side = side
        # rows that the target can't have, because their originals are missing: sha256 by key
        self.missing: dict[str, str] = {}
        self._busy: set[str] = set()
        self._freed = Changes()

    async def differing(self) -> AsyncIterator[tuple[int, list[str]]]:
        """Compares all rows. For each stretch: how many rows of the source were compared, and the products that differ.

        A product may come twice. Rows that can't be copied because their original is missing are passed over.
        """
        theirs = _Rows(self._index, self.source)
        ours = _Rows(self._index, self.target)
        compared, found = 0, dict[str, None]()
        left, right = await theirs.next(), await ours.next()
        while left is not None or right is not None:
            if right is None or (left is not None and left.key < right.key):
                assert left is not None
                if self.missing.get(left.key) != left.sha256:
                    found[left.product_id] = None
                compared, left = compared + 1, await theirs.next()
            elif left is None or right.key < left.key:
                found[right.product_id] = None
                right = await ours.next()
            else:
                if left != right:
                    found[left.product_id] = None
                compared, left, right = compared + 1, await theirs.next(), await ours.next()
            if len(found) >= GROUP or compared >= _PAGE:
                yield compared, list(found)
                compared, found = 0, {}
        yield compared, list(found)

    async def copy(self, product_ids: Iterable[str], *, paced: bool = False) -> int:
        """Makes these products in the target what they are in the source; products that the source lacks are removed.

        Images whose original is missing are left out, and are in `missing` then.

        Args:
            paced: yield to searches, as a backfill does. What follows writes must not: it would fall behind them.

        Returns:
            How many rows were written.

        Raises:
            Unavailable, Overloaded: some of them may not have been copied.
        """
        ids = list(dict.fromkeys(product_ids))
        groups = [ids[start : start + GROUP] for start in range(0, len(ids), GROUP)]
        slots = asyncio.Semaphore(_GROUPS)

        async def one(group: list[str]) -> int:
            async with slots:
                return await self._copy(group, paced)

        return sum(await _all_or_first_error([one(group) for group in groups]))

    async def _copy(self, group: list[str], paced: bool) -> int:
        async with self._alone(group):
            source = await self._index.product_rows(self.source, group, vectors=False)
            target = await self._index.product_rows(self.target, group, vectors=True)
            plan = _Plan()
            for product_id in group:
                self._plan(plan, source.get(product_id, []), target.get(product_id, []))
            vectors, missing = await self._embed(plan.wanted, paced)
            # a write that was sent and forgotten could land on top of a later one
            return await to_the_end(self._write(plan, vectors, missing, target))

    async def _write(
        self,
        plan: _Plan,
        vectors: dict[Picture, Vector],
        missing: set[Picture],
        target: dict[str, list[Row]],
    ) -> int:
        rows = []
        for row in plan.rows:
            vector = row.vector if row.vector is not None else vectors.get(_picture(row.image))
            if vector is not None:
                rows.append(replace(row, vector=vector))
                self.missing.pop(row.key, None)
            else:
                self.missing[row.key] = row.image.sha256
        if rows:
            await self._index.upsert(self.target, rows)
        there = {row.key for rows_of in target.values() for row in rows_of}
        lost = [row for row in plan.rows if row.vector is None and _picture(row.image) in missing]
        # a row whose new picture can't be embedded must not stay with its old one
        surplus = plan.surplus + [(row.product.id, row.image.id) for row in lost if row.key in there]
        if surplus:
            await self._index.delete(self.target, surplus)
        return len(rows)

    def _plan(self, plan: _Plan, source: Sequence[Row], target: Sequence[Row]) -> None:
        known = {_picture(row.image): row.vector for row in target if row.position != DISCARDED}
        kept = set()
        for row in source:
            if row.position == DISCARDED:
                continue
            kept.add(row.key)
            picture = _picture(row.image)
            vector = known.get(picture)
            if vector is None:
                plan.wanted[picture] = row.image
            plan.rows.append(replace(row, vector=vector))
        plan.surplus += [(row.product.id, row.image.id) for row in target if row.key not in kept]

    async def _embed(
        self, wanted: dict[Picture, ProductImage], paced: bool
    ) -> tuple[dict[Picture, Vector], set[Picture]]:
        """Vectors by picture, and the pictures whose original is missing or can't be read any more."""
        vectors: dict[Picture, Vector] = {}
        missing = set()
        left = deque(wanted.items())

        def load_next() -> asyncio.Task[dict[Picture, np.ndarray | None]]:
            size = self._pace.batch if paced else IDLE_BATCH
            batch = dict(left.popleft() for _ in range(min(size, len(left))))
            return asyncio.create_task(self._load_all(batch))

        loading = load_next()
        try:
            while loaded := await loading:
                # while these are embedded
                loading = load_next()
                pixels = {picture: decoded for picture, decoded in loaded.items() if decoded is not None}
                missing |= loaded.keys() - pixels.keys()
                if pixels:
                    vectors |= await self._embed_batch(pixels, paced)
        finally:
            loading.cancel()
            await asyncio.gather(loading, return_exceptions=True)
        return vectors, missing

    async def _embed_batch(self, pixels: dict[Picture, np.ndarray], paced: bool) -> dict[Picture, Vector]:
        # a switch waits for what is not paced
        priority = Priority.BACKFILL if paced else Priority.QUERY
        async with self._pace.turn() if paced else nullcontext():
            found = await self._encoder.embed(
                np.stack(list(pixels.values())), self.target.model_version, priority=priority
            )
        return dict(zip(pixels, found, strict=True))

    async def _load_all(self, batch: dict[Picture, ProductImage]) -> dict[Picture, np.ndarray | None]:
        return dict(zip(batch, await asyncio.gather(*map(self._load, batch.values())), strict=True))

    async def _load(self, image: ProductImage) -> np.ndarray | None:
        """uint8 [S, S, 3]; None when there is no such original, or it is no picture."""
        try:
            return await self._decoder.decode(await self._images.get(image.sha256), self._side, image.region)
        except (NotFound, InvalidImage):
            return None

    @asynccontextmanager
    async def _alone(self, group: Sequence[str]) -> AsyncIterator[None]:
        """Copies of one product come one after the other, or an older reading could be written over a newer one."""
        wanted = set(group)
        while wanted & self._busy:
            await self._freed.wait()
        self._busy |= wanted
        try:
            yield
        finally:
            self._busy -= wanted
            self._freed.tell()


class _Rows:
    """The rows of a collection, one after the other, read in pages."""

    def __init__(self, index: Index, collection: Collection) -> None:
        self._index = index
        self._collection = collection
        self._page: list[Fingerprint] = []
        self._place = 0
        self._after = ""
        self._ended = False

    async def next(self) -> Fingerprint | None:
        while True:
            while self._place < len(self._page):
                row = self._page[self._place]
                self._place += 1
                # these only wait for their deletion
                if row.position != DISCARDED:
                    return row
            if self._ended:
                return None
            self._page = await self._index.fingerprints(self._collection, self._after, _PAGE)
            self._place = 0
            self._ended = not self._page
            if self._page:
                self._after = self._page[-1].key


def _picture(image: ProductImage) -> Picture:
    return image.sha256, image.region.as_tuple() if image.region else ()


async def _all_or_first_error(work: Sequence[Coroutine[Any, Any, int]]) -> list[int]:
    """What all of it gave; when one fails the others are stopped, and its error is raised."""
    tasks = [asyncio.create_task(each) for each in work]
    try:
        return list(await asyncio.gather(*tasks))
    except BaseException:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        raise
