"""Rows of the index as values, and how they are written down in Milvus' columns."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from services.backends.index_schema import MAX_JSON_BYTES, MAX_URI_BYTES, VECTOR
from services.common.errors import InvalidArgument
from services.common.products import Product, ProductImage, Region

Vector = npt.NDArray[np.float32]

_NO_PRICE = -1.0


@dataclass(frozen=True, slots=True)
class Row:
    """One image of a product.

    Args:
        product: its fields; `images` is left empty.
        position: place of the image in the product, from 0.
        vector: float32 [D], unit length; None when it was not read.
    """

    product: Product
    image: ProductImage
    position: int
    vector: Vector | None = None

    @property
    def key(self) -> str:
        return key(self.product.id, self.image.id)


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """What tells one content of a row from another, without its vector: the update time rises with every write."""

    key: str
    product_id: str
    sha256: str
    region: tuple[float, ...]
    position: int
    update_time_us: int


@dataclass(frozen=True, slots=True)
class Hit:
    """An image that a search found.

    Args:
        cosine: of the angle between the query and the image, in [-1, 1].
        product: its fields, `images` empty.
    """

    product_id: str
    image_id: str
    cosine: float
    product: Product
    image: ProductImage


def key(product_id: str, image_id: str) -> str:
    """The primary key of an image. Neither id can hold a slash."""
    return f"{product_id}/{image_id}"


def to_columns(row: Row) -> dict[str, Any]:
    """Raises InvalidArgument when the product is larger than Milvus can store."""
    product, image = row.product, row.image
    if row.vector is None:
        raise ValueError(f"the row {row.key} has no vector")
    _check_json(product)
    _check_uri(image)
    return {
        "id": row.key,
        VECTOR: row.vector,
        "product": product.id,
        "title": product.title,
        "description": product.description,
        "category": product.category,
        "brand": product.brand,
        "colors": list(product.colors),
        "sizes": list(product.sizes),
        "materials": list(product.materials),
        "price": _NO_PRICE if product.price is None else product.price,
        "currency": product.currency,
        "in_stock": product.in_stock,
        "attributes": product.attributes,
        "update_time": product.update_time_us,
        "image": image.id,
        "sha256": image.sha256,
        "uri": image.uri,
        "region": list(image.region.as_tuple()) if image.region else [],
        "position": row.position,
    }


def to_rows(found: Any) -> list[Row]:
    """The rows of what a query answered, with vectors if they were asked for."""
    vectors = _take_vectors(found)
    if vectors is None:
        return [to_row(columns) for columns in found]
    return [to_row(columns, vector) for columns, vector in zip(found, vectors, strict=True)]


def to_fingerprints(found: Any) -> list[Fingerprint]:
    """Of the rows of what a query answered."""
    return [
        Fingerprint(
            key=columns["id"],
            product_id=columns["product"],
            sha256=columns["sha256"],
            region=tuple(columns["region"]),
            position=int(columns["position"]),
            update_time_us=int(columns["update_time"]),
        )
        for columns in found
    ]


def _take_vectors(found: Any) -> Vector | None:
    """Takes the vectors out of an answer as one array, float32 [n, D].

    pymilvus makes a Python object of every component first: 0.2 us each, half a second for 2,600 vectors, in which
    nothing else runs. The packed floats of the message are the array's bytes already. Should a later pymilvus keep
    them elsewhere, this finds nothing and its own way is taken.
    """
    fields = getattr(found, "_lazy_field_data", None)
    if not isinstance(fields, list):
        return None
    for field in fields:
        if field.field_name == VECTOR:
            fields.remove(field)
            size = 4 * field.vectors.dim * len(found)
            message = field.vectors.float_vector.SerializeToString()
            return np.frombuffer(message, "<f4", offset=len(message) - size).reshape(len(found), field.vectors.dim)
    return None


def to_row(columns: Mapping[str, Any], vector: Vector | None = None) -> Row:
    if vector is None and columns.get(VECTOR) is not None:
        vector = np.asarray(columns[VECTOR], np.float32)
    return Row(
        product=to_product(columns),
        image=to_image(columns),
        position=columns["position"],
        vector=vector,
    )


def to_product(columns: Mapping[str, Any]) -> Product:
    price = columns["price"]
    return Product(
        id=columns["product"],
        title=columns["title"],
        description=columns["description"],
        category=columns["category"],
        brand=columns["brand"],
        colors=tuple(columns["colors"]),
        sizes=tuple(columns["sizes"]),
        materials=tuple(columns["materials"]),
        price=None if price == _NO_PRICE else price,
        currency=columns["currency"],
        in_stock=columns["in_stock"],
        attributes=columns["attributes"],
        update_time_us=columns["update_time"],
    )


def to_image(columns: Mapping[str, Any]) -> ProductImage:
    region = columns["region"]
    return ProductImage(
        id=columns["image"],
        sha256=columns["sha256"],
        uri=columns["uri"],
        region=Region(*region) if len(region) else None,
    )


def by_product(rows: Iterable[Row]) -> dict[str, list[Row]]:
    """The rows of every product in the order of their positions.

    A crash of an engine without transactions can leave an older row of the same key, or rows of an older state of the
    product, beside the newer ones: what is not of the product's newest write is left out.
    """
    newest: dict[str, int] = {}
    found: dict[str, dict[str, Row]] = {}
    for row in rows:
        product_id, written = row.product.id, row.product.update_time_us
        if written > newest.get(product_id, -1):
            newest[product_id], found[product_id] = written, {}
        if written == newest[product_id]:
            found[product_id][row.image.id] = row
    return {
        product_id: sorted(images.values(), key=lambda row: (row.position, row.image.id))
        for product_id, images in found.items()
    }


def chunks(rows: Sequence[Row], max_bytes: int) -> Iterator[list[dict[str, Any]]]:
    """The columns of `rows` in parts of about `max_bytes`; a product's rows stay in one part.

    Rows of one product must follow each other.
    """
    part: list[dict[str, Any]] = []
    part_bytes = 0
    start = 0
    while start < len(rows):
        end = start + 1
        while end < len(rows) and rows[end].product.id == rows[start].product.id:
            end += 1
        columns = [to_columns(row) for row in rows[start:end]]
        size = sum(_size(row) for row in rows[start:end])
        if part and part_bytes + size > max_bytes:
            yield part
            part, part_bytes = [], 0
        part += columns
        part_bytes += size
        start = end
    if part:
        yield part


def _size(row: Row) -> int:
    """Bytes that a row takes on the wire, roughly and rather too many than too few."""
    product = row.product
    texts = [product.title, product.description, product.category, product.brand, row.image.uri]
    lists = [*product.colors, *product.sizes, *product.materials, *product.attributes, *product.attributes.values()]
    vector_bytes = row.vector.nbytes if row.vector is not None else 0
    return vector_bytes + 512 + 4 * sum(map(len, texts)) + sum(4 * len(value) + 8 for value in lists)


def _check_json(product: Product) -> None:
    # most products are far below; only then is it worth while to write the JSON twice
    if sum(len(k) + len(v) + 8 for k, v in product.attributes.items()) * 4 <= MAX_JSON_BYTES:
        return
    size = len(json.dumps(product.attributes, ensure_ascii=False, separators=(",", ":")).encode())
    if size > MAX_JSON_BYTES:
        raise InvalidArgument(
            f"product.attributes take {size:,} bytes as JSON, at most {MAX_JSON_BYTES:,} are allowed",
            reason="PRODUCT_FIELD_INVALID",
            field="product.attributes",
        )


def _check_uri(image: ProductImage) -> None:
    if len(image.uri.encode()) > MAX_URI_BYTES:
        raise InvalidArgument(
            f"an image's uri takes more than {MAX_URI_BYTES:,} bytes",
            reason="PRODUCT_FIELD_INVALID",
            field="product.images.uri",
        )
