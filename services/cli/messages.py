"""Products as messages of the API, and how to tell that two of them say the same."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from lookalike.v1 import catalog_pb2

from services.common.products import Product


def to_message(product: Product, pictures: Sequence[bytes]) -> catalog_pb2.Product:
    """The product with its pictures' bytes; equal pictures are sent once."""
    images = [catalog_pb2.ProductImage(content=content, sha256=sha256(content)) for content in dict.fromkeys(pictures)]
    return catalog_pb2.Product(
        name=f"products/{product.id}",
        title=product.title,
        description=product.description,
        category=product.category,
        brand=product.brand,
        colors=product.colors,
        sizes=product.sizes,
        materials=product.materials,
        price=product.price,
        currency=product.currency,
        in_stock=product.in_stock,
        attributes=product.attributes,
        images=images,
    )


def fingerprint(product: catalog_pb2.Product) -> bytes:
    """Equal for two products that have the same fields and the same pictures in the same order."""
    plain = catalog_pb2.Product()
    plain.CopyFrom(product)
    plain.ClearField("update_time")
    plain.ClearField("etag")
    plain.in_stock = product.in_stock if product.HasField("in_stock") else True
    for image in plain.images:
        image.ClearField("id")
        image.ClearField("source")
    return hashlib.sha256(plain.SerializeToString(deterministic=True)).digest()


def sha256(content: bytes) -> str:
    """Hexadecimal."""
    return hashlib.sha256(content).hexdigest()
