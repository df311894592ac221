"""When two products say the same."""

from __future__ import annotations

import pytest
from lookalike.v1 import catalog_pb2

from services.cli.messages import fingerprint, sha256, to_message
from services.common.products import Product

PRODUCT = Product(id="a", title="A", colors=("red",), price=1.5, attributes={"k": "v", "a": "b"})


def as_stored(message: catalog_pb2.Product) -> catalog_pb2.Product:
    """As the gateway would answer it."""
    stored = catalog_pb2.Product()
    stored.CopyFrom(message)
    stored.update_time.GetCurrentTime()
    stored.etag = "e"
    for image in stored.images:
        image.ClearField("source")
        image.id = image.sha256[:16]
    return stored


def test_a_product_is_the_same_when_it_comes_back() -> None:
    message = to_message(PRODUCT, [b"1", b"2", b"1"])
    assert [image.sha256 for image in message.images] == [sha256(b"1"), sha256(b"2")]
    assert fingerprint(as_stored(message)) == fingerprint(message)
    stored = as_stored(message)
    stored.ClearField("in_stock")
    assert fingerprint(stored) == fingerprint(message)


@pytest.mark.parametrize(
    "field",
    ["title", "description", "category", "brand", "colors", "sizes", "materials", "price", "currency", "in_stock"],
)
def test_every_field_counts(field: str) -> None:
    message = to_message(PRODUCT, [b"1"])
    changed = as_stored(message)
    if field in ("colors", "sizes", "materials"):
        getattr(changed, field).append("x")
    else:
        setattr(changed, field, {"price": 2.5, "in_stock": False}.get(field, "x"))
    assert fingerprint(changed) != fingerprint(message)


def test_pictures_their_order_regions_and_attributes_count() -> None:
    message = to_message(PRODUCT, [b"1", b"2"])
    with_region = as_stored(message)
    with_region.images[0].region.right = 0.5
    others = [
        to_message(PRODUCT, [b"2", b"1"]),
        to_message(PRODUCT, [b"1"]),
        to_message(Product(id="a", title="A", colors=("red",), price=1.5, attributes={"k": "v"}), [b"1", b"2"]),
        with_region,
    ]
    assert len({fingerprint(other) for other in [message, *others]}) == 5
