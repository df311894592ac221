"""Page tokens name a place by similarity: what stood on earlier pages does not come again, whatever rounding does."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.backends.index import Hit
from services.common.errors import InvalidArgument
from services.common.products import Product, ProductImage
from services.gateway.nearest import best_of_each, order
from services.gateway.page_tokens import PageToken


def hit(product_id: str, cosine: float, image_id: str = "i") -> Hit:
    image = ProductImage(id=image_id, sha256="0" * 64)
    return Hit(product_id=product_id, image_id=image_id, cosine=cosine, product=Product(id=product_id), image=image)


def test_a_token_survives_its_text() -> None:
    token = PageToken("products_m1", "abc", 10, 0.25, frozenset({"a", "b"}))
    assert PageToken.parse(str(token)) == token


@given(st.text(max_size=60))
def test_other_texts_are_refused(text: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        PageToken.parse(text)
    assert caught.value.reason == "PAGE_TOKEN_INVALID"


def test_a_deeply_nested_token_is_refused() -> None:
    import base64

    with pytest.raises(InvalidArgument):
        PageToken.parse(base64.urlsafe_b64encode(b"[" * 100_000).decode())


# few values, so that ties are common
cosines = st.sampled_from([0.1, 0.5, 0.5 + 1e-7, 0.500_000_9, 0.9, 0.900_01])


@given(st.lists(cosines, max_size=30), st.integers(1, 7), st.lists(st.integers(-3, 3), min_size=30, max_size=30))
def test_pages_show_everything_once_although_rounding_differs_from_page_to_page(
    values: list[float], page_size: int, noise: list[int]
) -> None:
    token = None
    shown: list[str] = []
    for number in range(len(values) + 2):
        # each page computes the cosines anew, not to the last bit the same
        jittered = [hit(f"p{i}", value + noise[(i + number) % 30] * 1e-8) for i, value in enumerate(values)]
        rest = [h for h in best_of_each(jittered, frozenset()) if not (token and token.is_shown(h))]
        page = rest[:page_size]
        if not page:
            break
        shown += [h.product_id for h in page]
        token = PageToken.after(page, "c", "r", token)
    assert sorted(shown) == sorted(f"p{i}" for i in range(len(values)))


def test_the_best_image_stands_for_its_product_and_the_excluded_are_left_out() -> None:
    hits = [hit("a", 0.2, "1"), hit("b", 0.9), hit("a", 0.5, "2"), hit("c", 0.5), hit("x", 1.0)]
    best = best_of_each(hits, frozenset({"x"}))
    assert [(h.product_id, h.image_id) for h in best] == [("b", "i"), ("a", "2"), ("c", "i")]
    assert list(best) == sorted(best, key=order)
