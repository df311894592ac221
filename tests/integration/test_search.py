"""Searches through the running system: what is found, how it is ordered, paged, filtered, counted and refused."""

from __future__ import annotations

import itertools
import math
import uuid
from collections.abc import AsyncIterator

import grpc
import grpc.aio
import pytest
from lookalike.v1 import catalog_pb2, search_pb2

from tests.integration.shop import OK, Shop, details, ids, picture, product

pytestmark = pytest.mark.timeout(180)

COLORS = ("red", "green", "blue")


@pytest.fixture(scope="module")
async def shop(either_stack) -> AsyncIterator[Shop]:
    async with Shop(either_stack.gateway_address) as shop:
        yield shop


@pytest.fixture(scope="module")
async def tag(shop: Shop) -> str:
    """Sixty products of one category that no other test uses: the category's name."""
    tag = f"t{uuid.uuid4().hex[:10]}"
    answers = await shop.upsert(
        product(
            f"{tag}-{number:02}",
            *(picture(1000 + number * 3 + image) for image in range(1 + number % 3)),
            title=f"Number {number}",
            category=tag,
            colors=[COLORS[number % 3], "any"],
            price=float(number) if number % 10 else None,
            currency="EUR",
            in_stock=number % 2 == 0,
            attributes={"parity": "even" if number % 2 == 0 else "odd"},
        )
        for number in range(60)
    )
    assert [a.status.code for a in answers] == [OK] * 60
    return tag


def only(tag: str, more: str = "") -> str:
    return f'category = "{tag}"' + (f" AND {more}" if more else "")


async def test_a_product_is_found_by_each_of_its_images(shop: Shop, tag: str) -> None:
    for number in (0, 1, 2, 5):
        for image in range(1 + number % 3):
            answer = await shop.search(picture(1000 + number * 3 + image), filter=only(tag))
            first = answer.results[0]
            assert first.product.name == f"products/{tag}-{number:02}"
            assert first.similarity == pytest.approx(1.0, abs=1e-3)
            assert first.distance == pytest.approx(0.0, abs=0.05)
            assert [i.id for i in first.product.images] == [first.image_id]
            stored = await shop.get(first.product.name)
            assert stored.images[image].id == first.image_id


async def test_each_product_comes_once_in_order_with_its_provenance(shop: Shop, tag: str) -> None:
    answer = await shop.search(picture(1), filter=only(tag), page_size=60)
    assert sorted(ids(answer)) == [f"{tag}-{number:02}" for number in range(60)]
    similarities = [result.similarity for result in answer.results]
    assert similarities == sorted(similarities, reverse=True)
    assert all(0 <= s <= 1 for s in similarities)
    for result in answer.results:
        assert result.distance == pytest.approx(math.sqrt(max(0, 2 - 2 * result.similarity)), abs=1e-3)
    assert answer.provenance.model == "models/1"
    assert answer.provenance.collection == "products_m1"


async def test_a_selective_filter_still_gives_all_that_match(shop: Shop, tag: str) -> None:
    answer = await shop.search(picture(2), filter=only(tag, "price >= 57"), page_size=10)
    assert sorted(ids(answer)) == [f"{tag}-57", f"{tag}-58", f"{tag}-59"]
    assert not answer.next_page_token


@pytest.mark.parametrize(
    ("condition", "matches"),
    [
        ('colors:"red"', lambda n: n % 3 == 0),
        ('colors:"red" AND NOT in_stock = false', lambda n: n % 6 == 0),
        ('(colors:"green" OR price < 5)', lambda n: n % 3 == 1 or (n < 5 and n % 10 != 0)),
        ('attributes.parity = "odd"', lambda n: n % 2 == 1),
        ("NOT price > 10", lambda n: n % 10 == 0 or n <= 10),
        ('title = "Number 7"', lambda n: n == 7),
        ('title = "x\\" or id != \\""', lambda n: False),
    ],
)
async def test_filters(shop: Shop, tag: str, condition: str, matches) -> None:
    answer = await shop.search(picture(3), filter=only(tag, condition), page_size=200)
    assert sorted(ids(answer)) == [f"{tag}-{n:02}" for n in range(60) if matches(n)]


async def test_pages_cover_everything_once_while_products_are_written(shop: Shop, tag: str) -> None:
    query, condition = picture(4), only(tag)
    whole = ids(await shop.search(query, filter=condition, page_size=200))
    seen: list[str] = []
    token = ""
    for page in itertools.count():
        answer = await shop.search(query, filter=condition, page_size=7, page_token=token)
        seen += ids(answer)
        token = answer.next_page_token
        if not token:
            break
        # one that stands in front of everything, and one more of the same picture as the query's
        await shop.upsert([product(f"{tag}-new{page}", query, category=tag)])
        if page == 3:
            await shop.delete(f"products/{tag}-new0")
    assert [i for i in seen if "new" not in i] == whole
    for page in range(1, 10):
        await shop.delete(f"products/{tag}-new{page}", allow_missing=True)


async def test_page_tokens_that_do_not_fit_are_refused(shop: Shop, tag: str) -> None:
    answer = await shop.search(picture(4), filter=only(tag), page_size=5)
    token = answer.next_page_token
    for fields, reason in (
        ({"page_size": 6, "page_token": token, "filter": only(tag)}, "PAGE_TOKEN_MISMATCH"),
        ({"page_size": 5, "page_token": token}, "PAGE_TOKEN_MISMATCH"),
        ({"page_size": 5, "page_token": "???", "filter": only(tag)}, "PAGE_TOKEN_INVALID"),
        ({"page_size": 5, "page_token": token[:-6], "filter": only(tag)}, "PAGE_TOKEN_INVALID"),
    ):
        await refused(shop, [picture(4)], reason, **fields)


async def test_min_similarity_cuts(shop: Shop, tag: str) -> None:
    whole = await shop.search(picture(5), filter=only(tag), page_size=60)
    threshold = whole.results[10].similarity
    answer = await shop.search(picture(5), filter=only(tag), page_size=60, min_similarity=threshold)
    assert ids(answer) == ids(whole)[:11]
    between = (threshold + whole.results[11].similarity) / 2
    assert ids(await shop.search(picture(5), filter=only(tag), page_size=60, min_similarity=between)) == ids(whole)[:11]
    assert not (await shop.search(picture(5), filter=only(tag), min_similarity=1.0)).results


async def test_facets_count_products_over_all_pages(shop: Shop, tag: str) -> None:
    answer = await shop.search(
        picture(6), filter=only(tag), page_size=3, facets=["colors", "in_stock", "attributes.parity", "brand"]
    )
    counted = {facet.field: {v.value: v.count for v in facet.values} for facet in answer.facets}
    assert counted == {
        "colors": {"any": 60, "red": 20, "green": 20, "blue": 20},
        "in_stock": {"true": 30, "false": 30},
        "attributes.parity": {"even": 30, "odd": 30},
        "brand": {},
    }
    assert [v.value for v in answer.facets[0].values] == ["any", "blue", "green", "red"]


async def test_a_stored_product_finds_its_neighbours_but_not_itself(shop: Shop, tag: str) -> None:
    name = f"products/{tag}-04"
    answer = await shop.search(name, filter=only(tag), page_size=200)
    assert f"{tag}-04" not in ids(answer)
    assert len(answer.results) == 59
    assert answer.provenance.embedding_cached
    by_picture = await shop.search(picture(1012), picture(1013), filter=only(tag), page_size=200)
    assert [i for i in ids(by_picture) if i != f"{tag}-04"] == ids(answer)


async def test_a_negative_part_pushes_its_neighbours_down(shop: Shop, tag: str) -> None:
    wanted, unwanted = picture(1003), picture(1009)
    plain = ids(await shop.search(wanted, filter=only(tag), page_size=60))
    mixed = ids(
        await shop.search(
            search_pb2.Query(image=wanted, weight=1.0),
            search_pb2.Query(image=unwanted, weight=-0.8),
            filter=only(tag),
            page_size=60,
        )
    )
    assert mixed.index(f"{tag}-03") > plain.index(f"{tag}-03")
    both = ids(await shop.search(wanted, unwanted, filter=only(tag), page_size=2))
    assert set(both) == {f"{tag}-01", f"{tag}-03"}


async def test_a_region_looks_at_a_part_of_the_picture(shop: Shop, tag: str) -> None:
    import io

    from PIL import Image

    canvas = Image.new("RGB", (640, 320), "white")
    canvas.paste(Image.open(io.BytesIO(picture(1006))).resize((320, 320)), (320, 0))
    out = io.BytesIO()
    canvas.save(out, "PNG")
    right_half = catalog_pb2.BoundingBox(left=0.5, top=0, right=1, bottom=1)
    answer = await shop.search(search_pb2.Query(image=out.getvalue(), region=right_half), filter=only(tag))
    assert ids(answer)[0] == f"{tag}-02"


async def refused(shop: Shop, queries, reason: str, **fields) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await shop.search(*queries, **fields)
    error = caught.value
    found = details(error)
    assert error.code() == grpc.StatusCode.INVALID_ARGUMENT, error
    assert found["ErrorInfo"].reason == reason
    assert found["ErrorInfo"].domain == "lookalike"
    assert found["RequestInfo"].request_id
    return error


@pytest.mark.parametrize(
    ("queries", "fields", "reason", "field"),
    [
        ([], {}, "QUERIES_COUNT", "queries"),
        ([b"x"] * 9, {}, "QUERIES_COUNT", "queries"),
        ([search_pb2.Query()], {}, "QUERY_EMPTY", "queries[0]"),
        ([b""], {}, "IMAGE_EMPTY", "image"),
        ([b"not a picture"], {}, "IMAGE_NOT_RECOGNISED", "image"),
        ([picture(1)[:-2000]], {}, "IMAGE_TRUNCATED", "image"),
        ([picture(1)], {"page_size": 201}, "PAGE_SIZE_INVALID", "page_size"),
        ([picture(1)], {"page_size": -1}, "PAGE_SIZE_INVALID", "page_size"),
        ([picture(1)], {"min_similarity": 1.5}, "MIN_SIMILARITY_INVALID", "min_similarity"),
        ([picture(1)], {"min_similarity": float("nan")}, "MIN_SIMILARITY_INVALID", "min_similarity"),
        ([picture(1)], {"facets": ["nope"]}, "FACET_UNKNOWN", "facets"),
        ([picture(1)], {"filter": "nope = 1"}, "FILTER_UNKNOWN_FIELD", "filter"),
        ([picture(1)], {"filter": 'price = "cheap"'}, "FILTER_TYPE_MISMATCH", "filter"),
        ([picture(1)], {"filter": "price <"}, "FILTER_SYNTAX", "filter"),
        (["products/UPPER"], {}, "PRODUCT_ID_INVALID", "queries[0].product"),
        (["x"], {}, "PRODUCT_NAME_INVALID", "queries[0].product"),
        ([search_pb2.Query(image=b"x", weight=0.0)], {}, "WEIGHT_INVALID", "queries[0].weight"),
        ([search_pb2.Query(image=b"x", weight=-1)], {}, "QUERY_EMPTY", "queries"),
        (
            [search_pb2.Query(image=b"x", region=catalog_pb2.BoundingBox(left=0.5, right=0.4, bottom=1))],
            {},
            "IMAGE_REGION_INVALID",
            "region",
        ),
    ],
)
async def test_bad_requests_name_their_reason_and_field(shop: Shop, queries, fields, reason: str, field: str) -> None:
    error = await refused(shop, queries, reason, **fields)
    assert details(error)["BadRequest"].field_violations[0].field == field


async def test_an_unknown_product_as_a_query_is_not_found(shop: Shop) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await shop.search("products/there-is-none")
    assert caught.value.code() == grpc.StatusCode.NOT_FOUND
    assert details(caught.value)["ErrorInfo"].reason == "PRODUCT_NOT_FOUND"


async def test_a_filter_error_names_the_place(shop: Shop) -> None:
    error = await refused(shop, [picture(1)], "FILTER_UNKNOWN_FIELD", filter='brand = "x" AND colour = "red"')
    assert details(error)["ErrorInfo"].metadata["position"] == "16"
    assert "character 17" in (error.details() or "")


async def test_the_second_time_comes_from_the_cache(shop: Shop, tag: str) -> None:
    query = picture(int(uuid.uuid4().int % 2**31))
    first = await shop.search(query, filter=only(tag))
    assert not first.provenance.result_cached
    again = await shop.search(query, filter=only(tag))
    assert again.provenance.result_cached
    assert ids(again) == ids(first)
    other = await shop.search(query, filter=only(tag), page_size=3)
    assert not other.provenance.result_cached
    assert other.provenance.embedding_cached
