"""Product ids that are made of names."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.common.products import PRODUCT_ID
from services.photographs.slugs import slugify, with_suffix


@given(st.text())
def test_every_text_becomes_a_valid_id(text: str) -> None:
    slug = slugify(text)
    assert PRODUCT_ID.match(slug)
    assert PRODUCT_ID.match(with_suffix(slug, text))
    assert slugify(slug) == slug


@pytest.mark.parametrize(
    ("text", "slug"),
    [
        ("Red Shoe_01", "red-shoe_01"),
        ("man’s shoe", "mans-shoe"),
        ("Crème brûlée!", "creme-brulee"),
        ("v1.2", "v1.2"),
        ("--x--", "x"),
        ("x" * 200, "x" * 128),
        ("Straße", "strasse"),
    ],
)
def test_the_slug_reads_like_the_text(text: str, slug: str) -> None:
    assert slugify(text) == slug


def test_texts_without_latin_letters_stay_apart() -> None:
    assert slugify("靴") != slugify("帽子")
    assert slugify("靴").startswith("item-")
