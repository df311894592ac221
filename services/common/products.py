"""What a shop sells, as plain values: the one shape that the API, the index and the filters share."""

from __future__ import annotations

import enum
import json
import re
from dataclasses import dataclass, field, replace

from services.common.errors import InvalidArgument

PRODUCT_ID = re.compile(r"[a-z0-9][a-z0-9._-]{0,127}\Z")
IMAGE_ID = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}\Z")
ATTRIBUTE_KEY = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}\Z")
CURRENCY = re.compile(r"[A-Z]{3}\Z")

MAX_IMAGES = 32
MAX_LIST_VALUES = 32
MAX_ATTRIBUTES = 64
# as JSON in UTF-8
MAX_ATTRIBUTES_BYTES = 65_536
MAX_CHARS = {"title": 1000, "description": 8000, "category": 200, "brand": 200}
MAX_LIST_VALUE_CHARS = 100
MAX_ATTRIBUTE_CHARS = 1000
MAX_URI_CHARS = 2000


class FieldType(enum.Enum):
    """How a field compares in a filter."""

    STRING = "string"
    STRINGS = "list of strings"
    NUMBER = "number"
    BOOL = "boolean"


# Fields that a filter may name; `attributes.KEY` is a string too.
FILTER_FIELDS: dict[str, FieldType] = {
    "id": FieldType.STRING,
    "title": FieldType.STRING,
    "description": FieldType.STRING,
    "category": FieldType.STRING,
    "brand": FieldType.STRING,
    "colors": FieldType.STRINGS,
    "sizes": FieldType.STRINGS,
    "materials": FieldType.STRINGS,
    "price": FieldType.NUMBER,
    "currency": FieldType.STRING,
    "in_stock": FieldType.BOOL,
}


@dataclass(frozen=True, slots=True)
class Region:
    """A box in fractions of the upright picture's width and height, 0 <= left < right <= 1 and so for top, bottom."""

    left: float
    top: float
    right: float
    bottom: float

    def __post_init__(self) -> None:
        # written so that NaN fails too
        if not (0 <= self.left < self.right <= 1 and 0 <= self.top < self.bottom <= 1):
            raise InvalidArgument(
                "a region needs 0 <= left < right <= 1 and 0 <= top < bottom <= 1",
                reason="IMAGE_REGION_INVALID",
                field="region",
            )

    def as_tuple(self) -> tuple[float, float, float, float]:
        return (self.left, self.top, self.right, self.bottom)


@dataclass(frozen=True, slots=True)
class ProductImage:
    """One stored picture of a product. `sha256` is of the original bytes, 64 hexadecimal digits."""

    id: str
    sha256: str
    uri: str = ""
    region: Region | None = None


@dataclass(frozen=True, slots=True)
class Product:
    """A product as stored. `update_time_us` is in microseconds since 1970, 0 when not yet written."""

    id: str
    title: str = ""
    description: str = ""
    category: str = ""
    brand: str = ""
    colors: tuple[str, ...] = ()
    sizes: tuple[str, ...] = ()
    materials: tuple[str, ...] = ()
    price: float | None = None
    currency: str = ""
    in_stock: bool = True
    attributes: dict[str, str] = field(default_factory=dict)
    images: tuple[ProductImage, ...] = ()
    update_time_us: int = 0

    @property
    def etag(self) -> str:
        """Changes with every write: the update time is strictly increasing per product."""
        return f"{self.update_time_us:x}"

    def with_images(self, images: tuple[ProductImage, ...]) -> Product:
        return replace(self, images=images)


def check_product_id(product_id: str, field_path: str = "product.name") -> None:
    """Raises InvalidArgument unless the id is well formed."""
    if not PRODUCT_ID.match(product_id):
        raise InvalidArgument(
            f"product id {product_id[:140]!r} does not match [a-z0-9][a-z0-9._-]{{0,127}}",
            reason="PRODUCT_ID_INVALID",
            field=field_path,
        )


def check_product(product: Product) -> None:
    """Checks everything but the images. Raises InvalidArgument naming the field."""
    check_product_id(product.id)
    for name, limit in MAX_CHARS.items():
        _check_text(getattr(product, name), limit, f"product.{name}")
    for name in ("colors", "sizes", "materials"):
        values = getattr(product, name)
        if len(values) > MAX_LIST_VALUES:
            raise _invalid(f"product.{name}", f"has {len(values)} values, at most {MAX_LIST_VALUES} are allowed")
        for value in values:
            _check_text(value, MAX_LIST_VALUE_CHARS, f"product.{name}")
    if product.price is not None and not 0 <= product.price < float("inf"):
        raise _invalid("product.price", "must be a finite number that is not negative")
    if product.currency and not CURRENCY.match(product.currency):
        raise _invalid("product.currency", "must be an ISO 4217 code such as EUR")
    if len(product.attributes) > MAX_ATTRIBUTES:
        raise _invalid("product.attributes", f"has more than {MAX_ATTRIBUTES} entries")
    size = len(json.dumps(product.attributes, ensure_ascii=False).encode())
    if size > MAX_ATTRIBUTES_BYTES:
        raise _invalid(
            "product.attributes", f"takes {size:,} bytes as JSON, at most {MAX_ATTRIBUTES_BYTES:,} are allowed"
        )
    for key, value in product.attributes.items():
        check_attribute_key(key, "product.attributes")
        _check_text(value, MAX_ATTRIBUTE_CHARS, f"product.attributes.{key}")


def check_attribute_key(key: str, field_path: str) -> None:
    """Raises InvalidArgument unless it may be the key of an attribute."""
    if not ATTRIBUTE_KEY.match(key):
        raise _invalid(field_path, f"has the attribute key {key[:80]!r}, which is not [A-Za-z_][A-Za-z0-9_]{{0,63}}")


def _check_text(value: str, limit: int, field_path: str) -> None:
    if len(value) > limit:
        raise _invalid(field_path, f"has {len(value)} characters, at most {limit} are allowed")
    if "\x00" in value:
        raise _invalid(field_path, "holds a NUL character")


def _invalid(field_path: str, what: str) -> InvalidArgument:
    return InvalidArgument(f"{field_path} {what}", reason="PRODUCT_FIELD_INVALID", field=field_path)
