"""What a compiled filter finds in Milvus equals what the filter means in plain Python."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, example, given, settings
from pymilvus import MilvusClient

from services.backends.filter_expressions import ascii_only, to_milvus
from services.backends.index_rows import Row, to_columns
from services.backends.index_schema import VECTOR, indexes, schema
from services.common.filter_tree import And, Comparison, Filter, Has, Not, Or, Prefix, Present
from services.common.filters import parse_filter
from services.common.products import Product, ProductImage
from tests.unit.filter_oracle import COMMON_TEXTS, NASTY_TEXTS, filters, matches, products

_MAX_ROWS = 1000


class Catalogue:
    """Products in a collection of their own."""

    def __init__(self, client: MilvusClient, collection: str, products: list[Product]) -> None:
        self.products = products
        self.lite = client.get_server_version().startswith("milvus_lite")
        self._client = client
        self._collection = collection

    def expected(self, filter: Filter) -> set[str]:
        return {product.id for product in self.products if matches(filter, product)}

    def found(self, expression: str) -> set[str]:
        rows = self._client.query(
            self._collection,
            filter=expression,
            output_fields=["product"],
            limit=_MAX_ROWS,
            consistency_level="Eventually",
        )
        return {row["product"] for row in rows}

    def nearest(self, expression: str) -> set[str]:
        (hits,) = self._client.search(
            self._collection,
            data=[[1.0, 0.0]],
            filter=expression,
            output_fields=["product"],
            limit=_MAX_ROWS,
            consistency_level="Eventually",
        )
        return {hit["entity"]["product"] for hit in hits}


@pytest.fixture(scope="module")
def catalogue(milvus_uri: str) -> Iterator[Catalogue]:
    client = MilvusClient(milvus_uri)
    collection = f"filters_{uuid.uuid4().hex}"
    stored = _random_products(150) + _products_with_each_text()
    assert len(stored) <= _MAX_ROWS
    try:
        _create(client, collection)
        # one half sealed and indexed, the other as it was just written: an engine evaluates them differently
        half = len(stored) // 2
        client.insert(collection, [_columns(product) for product in stored[:half]])
        client.flush(collection)
        client.insert(collection, [_columns(product) for product in stored[half:]])
        everything = client.query(collection, filter='product != ""', limit=_MAX_ROWS, consistency_level="Strong")
        assert len(everything) == len(stored)
        yield Catalogue(client, collection, stored)
    finally:
        client.drop_collection(collection)
        client.close()


def _random_products(count: int) -> list[Product]:
    stored: list[Product] = []

    @settings(max_examples=count, database=None, derandomize=True, phases=[Phase.generate])
    @given(products())
    def collect(product: Product) -> None:
        stored.append(replace(product, id=f"p{len(stored)}"))

    collect()
    return stored[:count]


def _products_with_each_text() -> list[Product]:
    """One product for each text, and for each ASCII character in the middle of one."""
    each = [*COMMON_TEXTS, *NASTY_TEXTS, *(f"a{chr(code)}b" for code in range(1, 128))]
    return [
        Product(id=f"each-{i}", title=text, description=text, colors=(text, "x"), attributes={"text": text})
        for i, text in enumerate(each)
    ]


def _create(client: MilvusClient, collection: str) -> None:
    client.create_collection(collection, schema=schema(dimension=2))
    made = indexes(client.get_server_version(), m=8, ef_construction=64)
    # exact, so that a search that misses a product can only be the filter's fault
    made[VECTOR] = client.prepare_index_params(VECTOR, index_type="FLAT", metric_type="COSINE")
    for params in made.values():
        client.create_index(collection, params)
    client.load_collection(collection)


def _columns(product: Product) -> dict[str, object]:
    return to_columns(Row(product, ProductImage("1", sha256="0" * 64), 0, np.array([1, 0], np.float32)))


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(filter=filters())
@example(filter=Not(Comparison("price", "!=", 50.0)))
@example(filter=Not(Comparison("attributes.fit", "!=", "slim")))
@example(filter=Not(Comparison("attributes.fit", "=", Prefix("s"))))
@example(filter=Comparison("attributes.fit", "!=", Prefix("s")))
@example(filter=Not(And((Present("attributes.exists"), Has("colors", "")))))
@example(filter=Or((Not(Present("colors")), Not(Present("price")), Not(Present("in_stock")))))
def test_random_filters_find_what_they_mean(catalogue: Catalogue, filter: Filter) -> None:
    expression, expected = to_milvus(filter), catalogue.expected(filter)
    assert catalogue.found(expression) == expected
    assert catalogue.nearest(expression) == expected
    if not catalogue.lite:
        assert catalogue.found(ascii_only(expression)) == expected


@pytest.mark.parametrize("field", ["title", "description", "attributes.text", "colors"])
def test_every_text_finds_itself_alone(catalogue: Catalogue, field: str) -> None:
    """Quotes, backslashes, control characters, each ASCII character: none is an operator, none is lost."""
    wrong = {}
    for product in catalogue.products[150:]:
        filter: Filter = Comparison(field, "=", product.title)
        if field == "colors":
            filter = Has(field, product.title)
        found = catalogue.found(to_milvus(filter))
        if found != catalogue.expected(filter):
            wrong[product.title] = found
    assert not wrong


def test_the_largest_filters_are_answered(catalogue: Catalogue) -> None:
    wide = parse_filter(" OR ".join(f"(attributes.fit={i} AND price<{i})" for i in range(100)))
    text = "price < 50"
    for _ in range(32):
        text = f"NOT (attributes.fit = slim AND category = shoes OR {text})"
    deep = parse_filter(text)
    for filter in (wide, deep):
        assert filter is not None
        assert catalogue.found(to_milvus(filter)) == catalogue.expected(filter)
