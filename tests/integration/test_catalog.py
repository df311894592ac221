"""Products through the running system: written, read, changed in part, listed, deleted, and refused one by one."""

from __future__ import annotations

import asyncio
import hashlib
import signal
import uuid
from collections.abc import AsyncIterator

import grpc
import grpc.aio
import pytest
from google.protobuf import field_mask_pb2
from lookalike.v1 import catalog_pb2, search_pb2

from tests.integration.shop import OK, Shop, details, ids, picture, product, status_details

pytestmark = pytest.mark.timeout(120)


@pytest.fixture(scope="module")
async def shop(either_stack) -> AsyncIterator[Shop]:
    async with Shop(either_stack.gateway_address) as shop:
        yield shop


@pytest.fixture
def new_id() -> str:
    return f"p{uuid.uuid4().hex[:12]}"


async def update(shop: Shop, message: catalog_pb2.Product, *paths: str, **fields) -> catalog_pb2.Product:
    mask = field_mask_pb2.FieldMask(paths=paths)
    request = catalog_pb2.UpdateProductRequest(product=message, update_mask=mask, **fields)
    return await shop.catalog.UpdateProduct(request, timeout=20)


async def test_a_product_comes_back_as_it_was_written(shop: Shop, new_id: str) -> None:
    data = picture(1)
    written = product(
        new_id,
        data,
        title='Quotes " and \\ and 日本語 🧦',
        description="two\nlines",
        category="c",
        brand="b",
        colors=["red", "blue"],
        sizes=["S"],
        materials=["wool"],
        price=12.5,
        currency="EUR",
        in_stock=False,
        attributes={"fit": "slim", "k": ""},
    )
    written.images[0].region.CopyFrom(catalog_pb2.BoundingBox(left=0.25, top=0, right=1, bottom=0.5))
    (answer,) = await shop.upsert([written])
    assert answer.status.code == OK
    stored = await shop.get(f"products/{new_id}")
    assert answer.etag == stored.etag
    assert stored.update_time.seconds > 1_600_000_000
    assert stored.images[0].sha256 == hashlib.sha256(data).hexdigest()
    assert stored.images[0].id == stored.images[0].sha256[:16]
    assert not stored.images[0].content
    full = await shop.get(f"products/{new_id}", view=catalog_pb2.PRODUCT_VIEW_FULL)
    assert full.images[0].content == data
    for field in ("update_time", "etag"):
        stored.ClearField(field)
    stored.images[0].ClearField("sha256")
    stored.images[0].ClearField("id")
    stored.images[0].content = data
    assert stored == written


async def test_defaults_of_what_is_not_set(shop: Shop, new_id: str) -> None:
    await shop.upsert([product(new_id, picture(1))])
    stored = await shop.get(f"products/{new_id}")
    assert not stored.HasField("price")
    assert stored.in_stock


async def test_an_attribute_update_embeds_nothing_and_keeps_the_rest(shop: Shop, either_stack, new_id: str) -> None:
    await shop.upsert(
        [product(new_id, picture(11), picture(12), title="old", brand="b", attributes={"a": "1", "b": "2"})]
    )
    before = await shop.get(f"products/{new_id}")
    # with the encoder stopped an embedding would fail
    await either_stack.stop("triton")
    try:
        changed = await update(
            shop,
            catalog_pb2.Product(name=f"products/{new_id}", title="new", price=3, attributes={"a": "9"}),
            *("title", "price", "attributes.a", "attributes.b"),
        )
    finally:
        await either_stack.start("triton")
        # the gateway connects again within a second
        await shop.answered(picture(11))
    assert (changed.title, changed.brand, changed.price) == ("new", "b", 3)
    assert dict(changed.attributes) == {"a": "9"}
    assert [i.sha256 for i in changed.images] == [i.sha256 for i in before.images]
    assert changed.etag != before.etag
    answer = await shop.search(picture(12), filter='title = "new" AND brand = "b"', page_size=1)
    assert answer.results[0].product.name == f"products/{new_id}"
    assert answer.results[0].similarity > 0.99


async def test_images_can_be_replaced_kept_by_hash_and_reordered(shop: Shop, new_id: str) -> None:
    first, second, third = picture(21), picture(22), picture(23)
    await shop.upsert([product(new_id, first, second)])
    kept = catalog_pb2.ProductImage(sha256=hashlib.sha256(second).hexdigest())
    changed = await update(
        shop,
        catalog_pb2.Product(
            name=f"products/{new_id}", images=[catalog_pb2.ProductImage(id="front", content=third), kept]
        ),
        "images",
    )
    assert [i.sha256 for i in changed.images] == [hashlib.sha256(d).hexdigest() for d in (third, second)]
    assert (await shop.get(changed.name)).images[0].id == "front"
    # the picture that was taken away no longer finds the product
    here = f'id = "{new_id}"'
    assert (await shop.search(first, filter=here)).results[0].similarity < 0.99
    assert (await shop.search(third, filter=here)).results[0].image_id == "front"
    assert (await shop.search(second, filter=here)).results[0].similarity > 0.99


async def test_etags_guard_against_lost_updates(shop: Shop, new_id: str) -> None:
    await shop.upsert([product(new_id, picture(1), title="1")])
    stored = await shop.get(f"products/{new_id}")
    mine = catalog_pb2.Product(name=stored.name, title="mine", etag=stored.etag)
    await update(shop, mine, "title")
    for attempt in (update(shop, mine, "title"), shop.delete(stored.name, etag=stored.etag)):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await attempt
        assert caught.value.code() == grpc.StatusCode.ABORTED
        assert details(caught.value)["ErrorInfo"].reason == "ETAG_MISMATCH"


async def test_concurrent_updates_of_one_product_all_take_effect(shop: Shop, new_id: str) -> None:
    await shop.upsert([product(new_id, picture(1))])
    await asyncio.gather(
        *(
            update(
                shop,
                catalog_pb2.Product(name=f"products/{new_id}", attributes={f"k{n}": str(n)}),
                f"attributes.k{n}",
            )
            for n in range(12)
        )
    )
    assert dict((await shop.get(f"products/{new_id}")).attributes) == {f"k{n}": str(n) for n in range(12)}


async def test_update_and_delete_of_what_is_missing(shop: Shop, new_id: str) -> None:
    name = f"products/{new_id}"
    for attempt in (
        update(shop, product(new_id, picture(1)), "title"),
        shop.delete(name),
        shop.get(name),
    ):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await attempt
        assert caught.value.code() == grpc.StatusCode.NOT_FOUND
        assert details(caught.value)["ErrorInfo"].reason == "PRODUCT_NOT_FOUND"
    await shop.delete(name, allow_missing=True)
    await update(shop, product(new_id, picture(1), title="t"), "title", allow_missing=True)
    assert (await shop.get(name)).title == "t"
    await shop.delete(name)
    assert new_id not in ids(await shop.search(picture(1), page_size=200))


async def test_one_bad_product_never_ends_the_stream(shop: Shop, new_id: str) -> None:
    good = [product(f"{new_id}-{n}", picture(30 + n)) for n in range(3)]
    bad = [
        (product("Upper", picture(1)), "PRODUCT_ID_INVALID"),
        (product(f"{new_id}-x"), "PRODUCT_IMAGES_COUNT"),
        (product(f"{new_id}-x", b"junk"), "IMAGE_NOT_RECOGNISED"),
        (product(f"{new_id}-x", picture(1), price=-1), "PRODUCT_FIELD_INVALID"),
        (product(f"{new_id}-x", picture(1), title="x" * 1001), "PRODUCT_FIELD_INVALID"),
        (product(f"{new_id}-x", picture(1), currency="euro"), "PRODUCT_FIELD_INVALID"),
        (product(f"{new_id}-x", picture(1), attributes={"not ok": "1"}), "PRODUCT_FIELD_INVALID"),
        # each value is within its limit, all together are more than the index holds
        (
            product(f"{new_id}-x", picture(1), attributes={f"k{n}": "🧦" * 1000 for n in range(20)}),
            "PRODUCT_FIELD_INVALID",
        ),
        (product(f"{new_id}-x", *[picture(1)] * 2), "IMAGE_ID_DUPLICATE"),
        (
            catalog_pb2.Product(
                name=f"products/{new_id}-x", images=[catalog_pb2.ProductImage(uri="file:///etc/passwd")]
            ),
            "IMAGE_URI_NOT_ALLOWED",
        ),
        (
            catalog_pb2.Product(name=f"products/{new_id}-x", images=[catalog_pb2.ProductImage(sha256="0" * 64)]),
            "IMAGE_EMPTY",
        ),
        (
            catalog_pb2.Product(
                name=f"products/{new_id}-x",
                images=[catalog_pb2.ProductImage(content=picture(1), sha256="0" * 64)],
            ),
            "IMAGE_CORRUPT",
        ),
    ]
    messages = [good[0], *(message for message, _ in bad), *good[1:]]
    answers = await shop.upsert(messages)
    assert [a.request_id for a in answers] == [str(n) for n in range(len(messages))]
    assert [a.status.code for a in (answers[0], *answers[-2:])] == [OK] * 3
    for answer, (_, reason) in zip(answers[1:-2], bad, strict=True):
        assert answer.status.code == grpc.StatusCode.INVALID_ARGUMENT.value[0], answer
        assert status_details(answer.status)["ErrorInfo"].reason == reason
        assert not answer.etag
    with pytest.raises(grpc.aio.AioRpcError):
        await shop.get(f"products/{new_id}-x")


async def test_listing_pages_through_every_product_once(shop: Shop, new_id: str) -> None:
    await shop.upsert(
        product(f"{new_id}-{n:02}", *(picture(n + i) for i in range(1 + n % 4)), brand=new_id) for n in range(23)
    )
    # ids that sort around the separator of a row's key
    await shop.upsert(product(f"{new_id}{end}", picture(1), brand=new_id) for end in ("", "-", ".a", "0", "_"))
    seen: list[str] = []
    token = ""
    while True:
        request = catalog_pb2.ListProductsRequest(page_size=5, page_token=token, filter=f'brand = "{new_id}"')
        page = await shop.catalog.ListProducts(request, timeout=20)
        assert len(page.products) <= 5
        seen += [p.name for p in page.products]
        for found in page.products:
            if found.name.count("-") == 1 and found.name[-2:].isdigit():
                assert len(found.images) == 1 + int(found.name[-2:]) % 4
        token = page.next_page_token
        if not token:
            break
    assert len(seen) == 28
    assert len(set(seen)) == 28


async def test_listing_refuses_bad_pages(shop: Shop) -> None:
    for fields, reason in (
        ({"page_size": 1001}, "PAGE_SIZE_INVALID"),
        ({"page_token": "x"}, "PAGE_TOKEN_INVALID"),
        ({"filter": "nope = 1"}, "FILTER_UNKNOWN_FIELD"),
    ):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await shop.catalog.ListProducts(catalog_pb2.ListProductsRequest(**fields), timeout=20)
        assert details(caught.value)["ErrorInfo"].reason == reason


async def test_a_stream_holds_a_bounded_number_in_flight(shop: Shop, either_stack, new_id: str) -> None:
    """While nothing gets done, a client can't make the gateway take in more than its bound and what gRPC buffers."""
    sent = 0

    async def requests() -> AsyncIterator[catalog_pb2.UpsertProductsRequest]:
        nonlocal sent
        for number in range(200):
            # half a megabyte behind the picture's end
            data = picture(4000 + number) + bytes(2**19)
            yield catalog_pb2.UpsertProductsRequest(product=product(f"{new_id}-{number}", data))
            sent += 1

    either_stack.signal("triton", signal.SIGSTOP)
    try:
        call = shop.catalog.UpsertProducts(requests(), timeout=60)
        await asyncio.sleep(3)
        assert 8 < sent < 80
        call.cancel()
    finally:
        either_stack.signal("triton", signal.SIGCONT)
    async with asyncio.timeout(30):  # what was in flight is let go, and the next write is served
        while (await shop.upsert([product(new_id, picture(41))]))[0].status.code != OK:
            await asyncio.sleep(0.1)


async def test_searches_see_every_acknowledged_write_at_once(shop: Shop, new_id: str) -> None:
    data = picture(50)
    here = f'brand = "{new_id}"'
    assert not (await shop.search(data, filter=here)).results
    for round_number in range(8):
        await shop.upsert([product(f"{new_id}-{round_number}", data, brand=new_id, title=str(round_number))])
        assert len((await shop.search(data, filter=here)).results) == round_number + 1
        await update(shop, catalog_pb2.Product(name=f"products/{new_id}-0", title=f"t{round_number}"), "title")
        titles = {r.product.title for r in (await shop.search(data, filter=here)).results}
        assert f"t{round_number}" in titles
    await shop.delete(f"products/{new_id}-0")
    assert f"{new_id}-0" not in ids(await shop.search(search_pb2.Query(image=data), filter=here))


async def test_unknown_paths_of_the_mask_are_refused(shop: Shop, new_id: str) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await update(shop, product(new_id, picture(1)), "colour")
    assert details(caught.value)["ErrorInfo"].reason == "UPDATE_MASK_INVALID"
