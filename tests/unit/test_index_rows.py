"""Rows of the index: what a crash of an engine can leave behind, and how writes are cut into parts."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.backends.index_rows import Row, by_product, chunks, to_columns, to_rows
from services.backends.index_schema import both
from services.common.errors import InvalidArgument
from services.common.products import Product, ProductImage

VECTOR = np.ones(4, np.float32)


def row(product_id: str, image_id: str, position: int = 0, written: int = 1) -> Row:
    return Row(Product(product_id, update_time_us=written), ProductImage(image_id, "0" * 64), position, VECTOR)


def test_rows_of_an_older_state_are_left_out() -> None:
    old, new = row("a", "gone", 0, written=1), [row("a", "i1", 1, written=2), row("a", "i0", 0, written=2)]
    other = row("b", "i0", 0, written=1)
    for rows in ([old, *new, other], [*new, other, old]):
        assert by_product(rows) == {"a": [new[1], new[0]], "b": [other]}


def test_a_row_that_comes_twice_counts_once() -> None:
    assert by_product([row("a", "i0"), row("a", "i0")]) == {"a": [row("a", "i0")]}


def test_no_rows_no_products() -> None:
    assert by_product([]) == {}


@given(st.lists(st.integers(1, 5), max_size=20), st.integers(1, 20_000))
def test_parts_hold_every_row_once_and_no_product_is_split(images: list[int], max_bytes: int) -> None:
    rows = [row(f"p{product:02}", f"i{n}", n) for product, count in enumerate(images) for n in range(count)]
    parts = list(chunks(rows, max_bytes))
    assert [columns["id"] for part in parts for columns in part] == [r.key for r in rows]
    products = [{columns["product"] for columns in part} for part in parts]
    assert sum(map(len, products)) == len(images)
    # only a product that is too large by itself exceeds the limit
    assert all(len(part) * 528 <= max_bytes or len(names) == 1 for part, names in zip(parts, products, strict=True))


def test_what_milvus_can_not_store_is_refused() -> None:
    fits = Product("a", attributes={f"key{n}": "x" * 1000 for n in range(64)})
    assert len(list(chunks([replace(row("a", "i0"), product=fits)], 10**6))) == 1
    wide = Product("a", attributes={f"key{n}": "é" * 1000 for n in range(64)})
    with pytest.raises(InvalidArgument) as error:
        list(chunks([replace(row("a", "i0"), product=wide)], 10**6))
    assert error.value.field == "product.attributes"
    with pytest.raises(InvalidArgument) as error:
        list(chunks([replace(row("a", "i0"), image=ProductImage("i0", "0" * 64, uri="é" * 5000))], 10**6))
    assert error.value.field == "product.images.uri"


def test_vectors_are_read_without_the_shortcut_too() -> None:
    written = row("a", "i0", 3)
    assert to_rows([to_columns(written)])[0].vector.tolist() == VECTOR.tolist()
    assert to_rows([{**to_columns(written), "vector": None}]) == [replace(written, vector=None)]


def test_expressions_are_joined_as_wholes() -> None:
    assert both("a == 1 or b == 2", "c == 3") == "(a == 1 or b == 2) and (c == 3)"
    assert both("", "c == 3") == both("c == 3", "") == "c == 3"
