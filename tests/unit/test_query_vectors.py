"""Query vectors of several parts, and facets: against values computed by hand."""

from __future__ import annotations

import numpy as np
import pytest

from services.backends.index import Hit
from services.common.errors import InvalidArgument
from services.common.products import Product, ProductImage
from services.gateway.nearest import similar_enough, similarity
from services.gateway.search import combine, count_facets


def unit(*values: float) -> np.ndarray:
    vector = np.asarray(values, np.float32)
    return vector / np.linalg.norm(vector)


def test_one_part_is_its_vector_whatever_its_weight() -> None:
    np.testing.assert_array_equal(combine([unit(3, 4)], [7.0]), unit(3, 4))


def test_parts_are_added_by_weight() -> None:
    np.testing.assert_allclose(combine([unit(1, 0), unit(0, 1)], [1.0, 1.0]), [2**-0.5, 2**-0.5], rtol=1e-6)
    # 3 * (1, 0) - 1 * (0.6, 0.8) = (2.4, -0.8)
    np.testing.assert_allclose(combine([unit(1, 0), unit(3, 4)], [3.0, -1.0]), unit(2.4, -0.8), rtol=1e-6)


def test_parts_that_cancel_out_are_refused() -> None:
    with pytest.raises(InvalidArgument) as caught:
        combine([unit(1, 0), unit(1, 0)], [1.0, -1.0])
    assert caught.value.reason == "QUERY_EMPTY"


def test_similarity_is_clipped() -> None:
    assert [similarity(c) for c in (-0.5, 0.0, 0.25, 1.0000001)] == [0.0, 0.0, 0.25, 1.0]


@pytest.mark.parametrize("cosine", [0.1, 0.7123456789, 0.9999999, 1.0])
def test_a_similarity_that_was_sent_as_float32_finds_its_result_again(cosine: float) -> None:
    hit = Hit(
        product_id="a",
        image_id="1",
        cosine=cosine,
        product=Product(id="a"),
        image=ProductImage(id="1", sha256="0" * 64),
    )
    assert similar_enough(hit, float(np.float32(cosine)))
    assert similar_enough(hit, float(np.nextafter(np.float32(cosine), np.float32(2))))
    assert not similar_enough(hit, cosine + 1e-5)


def test_facets_count_products_not_values_and_leave_out_what_is_not_set() -> None:
    products = [
        Product(id="a", category="x", colors=("red", "red", "blue"), in_stock=False, attributes={"fit": "slim"}),
        Product(id="b", category="", colors=("red",), attributes={"fit": ""}),
    ]
    assert count_facets(["category", "colors", "in_stock", "attributes.fit", "attributes.none"], products) == {
        "category": [("x", 1)],
        "colors": [("red", 2), ("blue", 1)],
        "in_stock": [("false", 1), ("true", 1)],
        "attributes.fit": [("slim", 1)],
        "attributes.none": [],
    }
