"""Reads pictures, leaves out what the catalogue has already, sends the rest."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from lookalike.v1 import catalog_pb2

from services.cli.client import MAX_MESSAGE_BYTES
from services.cli.entries import Entry, Picture, Reject
from services.cli.failures import Failure, from_error
from services.cli.messages import fingerprint, sha256, to_message
from services.cli.upsert_stream import UpsertStream
from services.cli.window import Window
from services.common.errors import InvalidImage
from services.common.images import MAX_BYTES, inspect_image
from services.common.products import MAX_IMAGES

MOST_PRODUCTS_IN_FLIGHT = 64
MOST_BYTES_IN_FLIGHT = 96 << 20
# the other fields need some of it too
MOST_BYTES_A_PRODUCT = MAX_MESSAGE_BYTES - (1 << 20)

_IMAGE_FIELD = re.compile(r"product\.images\[(\d+)\]")


@dataclass(slots=True)
class Outcome:
    """Counts up while the import runs; times are in seconds."""

    products_total: int = 0
    pictures_total: int = 0
    written: int = 0
    unchanged: int = 0
    pictures_written: int = 0
    pictures_unchanged: int = 0
    rejects: list[Reject] = field(default_factory=list)
    took_s: float = 0.0
    interrupted: bool = False

    @property
    def pictures_per_s(self) -> float:
        return self.pictures_written / self.took_s if self.took_s else 0.0

    def as_json(self) -> dict[str, Any]:
        return {
            "products": {"total": self.products_total, "written": self.written, "unchanged": self.unchanged},
            "images": {
                "total": self.pictures_total,
                "written": self.pictures_written,
                "unchanged": self.pictures_unchanged,
            },
            "rejected": len(self.rejects),
            "interrupted": self.interrupted,
            "seconds": round(self.took_s, 3),
            "images_per_second": round(self.pictures_per_s, 1),
        }


class Importer:
    """
    Args:
        stream: None for a dry run: everything is read and checked, nothing sent.
        known: fingerprints of what the catalogue has, by product id.
        advance: called with the number of pictures that are done with.
        outcome: is counted up.
    """

    def __init__(
        self,
        stream: UpsertStream | None,
        known: Mapping[str, bytes],
        outcome: Outcome,
        advance: Callable[[int], None] = lambda pictures: None,
    ) -> None:
        self._stream = stream
        self._known = known
        self._outcome = outcome
        self._advance = advance
        self._window = Window(MOST_PRODUCTS_IN_FLIGHT, MOST_BYTES_IN_FLIGHT)

    async def run(self, entries: Sequence[Entry]) -> None:
        """Imports all of them. Raises what ends the import as a whole."""
        start = time.perf_counter()
        queue = iter(entries)
        workers = [asyncio.create_task(self._work(queue)) for _ in range(min(MOST_PRODUCTS_IN_FLIGHT, len(entries)))]
        try:
            await asyncio.gather(*workers)
        finally:
            for worker in workers:
                worker.cancel()
            await asyncio.gather(*workers, return_exceptions=True)
            self._outcome.took_s += time.perf_counter() - start

    async def _work(self, queue: Iterator[Entry]) -> None:
        for entry in queue:
            sizes = self._sizes(entry)
            readable = replace(entry, pictures=tuple(sizes))
            if sizes and self._fits(readable, sum(sizes.values())):
                async with self._window.holding(sum(sizes.values())):
                    await self._import(readable)
            self._advance(len(entry.pictures))

    def _sizes(self, entry: Entry) -> dict[Picture, int]:
        """Bytes of the pictures that can be sent; the others are rejected."""
        sizes = {}
        for picture in entry.pictures:
            try:
                sizes[picture] = size = picture.path.stat().st_size
                if not picture.path.is_file():
                    raise InvalidImage(f"{picture.path} is not a file", reason="IMAGE_UNREADABLE")
                if not size:
                    raise InvalidImage(f"{picture.path} is empty", reason="IMAGE_EMPTY")
                if size > MAX_BYTES:
                    raise InvalidImage(f"{picture.path} has more than {MAX_BYTES:,} bytes", reason="IMAGE_TOO_LARGE")
            except FileNotFoundError:
                self._reject(entry, "IMAGE_NOT_FOUND", f"there is no {picture.path}", "image", picture)
            except (OSError, ValueError) as error:
                self._reject(entry, "IMAGE_UNREADABLE", f"{picture.path}: {error}", "image", picture)
            except InvalidImage as error:
                self._reject(entry, error.reason, error.message, "image", picture)
                del sizes[picture]
        return sizes

    def _fits(self, entry: Entry, size: int) -> bool:
        """Whether the product can be sent; it is rejected otherwise."""
        if len(entry.pictures) > MAX_IMAGES:
            message = f"has {len(entry.pictures)} images, at most {MAX_IMAGES} are allowed"
            self._reject(entry, "PRODUCT_IMAGES_COUNT", message, "image")
        elif size > MOST_BYTES_A_PRODUCT:
            message = f"its images have {size >> 20} MiB, at most {MOST_BYTES_A_PRODUCT >> 20} MiB go in one message"
            self._reject(entry, "PRODUCT_TOO_LARGE", message, "image")
        else:
            return True
        return False

    async def _import(self, entry: Entry) -> None:
        try:
            contents = await asyncio.to_thread(_read, entry)
        except OSError as error:
            self._reject(entry, "IMAGE_UNREADABLE", str(error), "image")
            return
        message = to_message(entry.product, contents)
        count = len(entry.pictures)
        if self._known.get(entry.product.id) == fingerprint(message):
            self._outcome.unchanged += 1
            self._outcome.pictures_unchanged += count
            return
        failure = await self._write(message)
        if failure is None:
            self._outcome.written += 1
            self._outcome.pictures_written += count
            return
        at_fault = _IMAGE_FIELD.match(failure.field)
        if at_fault is None or failure.transient:
            self._reject(entry, failure.reason, failure.message, failure.field)
            return
        # one bad picture shall not keep the product out
        bad = message.images[int(at_fault[1])].sha256
        good = []
        for picture, content in zip(entry.pictures, contents, strict=True):
            if sha256(content) == bad:
                self._reject(entry, failure.reason, failure.message, "image", picture)
            else:
                good.append(picture)
        if good:
            await self._import(replace(entry, pictures=tuple(good)))

    async def _write(self, message: catalog_pb2.Product) -> Failure | None:
        if self._stream is not None:
            return await self._stream.write(message)
        for number, image in enumerate(message.images):
            try:
                inspect_image(image.content)
            except InvalidImage as error:
                return replace(from_error(error), field=f"product.images[{number}]")
        return None

    def _reject(self, entry: Entry, reason: str, message: str, at: str, picture: Picture | None = None) -> None:
        line = picture.line if picture else entry.line
        file = str((picture or entry.pictures[0]).path)
        self._outcome.rejects.append(Reject(reason, message, entry.product.id, line, file, at))


def _read(entry: Entry) -> list[bytes]:
    return [picture.path.read_bytes() for picture in entry.pictures]
