"""The running catalogue as training data."""

from __future__ import annotations

import hashlib
import uuid
from pathlib import Path

import pytest
from lookalike.v1 import catalog_pb2

from services.common.errors import InvalidArgument, Unavailable
from services.common.products import Region
from services.photographs import catalogue as module
from services.photographs.catalogue import fetch_catalogue
from services.photographs.checks import check_files
from services.photographs.splits import split_images
from tests.integration.shop import OK, Shop, picture, product

pytestmark = pytest.mark.timeout(240)


def kept(cache: Path) -> dict[str, int]:
    """Name and inode of every file."""
    return {path.name: path.stat().st_ino for path in cache.rglob("*") if path.is_file()}


@pytest.fixture
async def shop(stack):
    async with Shop(stack.gateway_address) as shop:
        yield shop


async def test_products_become_photographs(stack, shop: Shop, tmp_path: Path, monkeypatch) -> None:
    # small pages, so that there are several
    monkeypatch.setattr(module, "PAGE_SIZE", 3)
    tag = uuid.uuid4().hex[:8]
    originals = {f"{tag}-{n}": [picture(1000 + 10 * n + i) for i in range(4)] for n in range(8)}
    products = [product(name, *pictures, category=f"cat-{tag}") for name, pictures in originals.items()]
    region = catalog_pb2.BoundingBox(left=0.25, top=0, right=1, bottom=0.5)
    products[2].images[1].region.CopyFrom(region)
    assert {a.status.code for a in await shop.upsert(products)} == {OK}

    told: list[int] = []
    cache = tmp_path / "cache"
    store = stack.image_store_url
    found = await fetch_catalogue(stack.gateway_address, store, cache, lambda done, total: told.append(total))
    # the stack is shared with other tests
    ours = [p for p in found if p.product in originals]
    assert len(ours) == 32
    assert told == [len({p.path for p in found})] * len({p.path for p in found})
    for name, pictures in originals.items():
        own = [p for p in ours if p.product == name]
        assert [p.path.read_bytes() for p in own] == pictures
        assert [p.path.name for p in own] == [hashlib.sha256(data).hexdigest() for data in pictures]
        assert [p.catalogue for p in own] == [True, False, False, False]
        assert {(p.category, p.split) for p in own} == {(f"cat-{tag}", "")}
    assert [p.region for p in ours if p.region] == [Region(0.25, 0, 1, 0.5)]

    # a new product is all that the next reading fetches
    before = kept(cache)
    name = f"{tag}-new"
    assert {a.status.code for a in await shop.upsert([product(name, picture(5), picture(6))])} == {OK}
    again = await fetch_catalogue(stack.gateway_address, store, cache)
    assert [p for p in again if p.product in originals] == ours
    assert [p.path.read_bytes() for p in again if p.product == name] == [picture(5), picture(6)]
    assert kept(cache).items() >= before.items()

    # and it is data to train on
    checked = check_files(ours)
    splits = split_images(checked.photographs, checked.fingerprints, validation_share=0.25)
    assert len(splits.validation) == 8
    assert sum(p.catalogue for p in splits.train) == 8


async def test_the_second_time_nothing_is_fetched(stack, shop: Shop, tmp_path: Path) -> None:
    name = f"once-{uuid.uuid4().hex[:8]}"
    assert {a.status.code for a in await shop.upsert([product(name, picture(77))])} == {OK}
    found = await fetch_catalogue(stack.gateway_address, stack.image_store_url, tmp_path / "cache")
    # a store without a single picture serves as well, since all of them are here
    empty = tmp_path / "empty"
    empty.mkdir()
    assert await fetch_catalogue(stack.gateway_address, empty.as_uri(), tmp_path / "cache") == found
    # and what it lost is a broken file, not a failure of all
    lost = await fetch_catalogue(stack.gateway_address, empty.as_uri(), tmp_path / "other")
    assert lost
    assert not any(photograph.path.exists() for photograph in lost)
    with pytest.raises(InvalidArgument) as raised:
        check_files(lost)
    assert raised.value.reason == "DATA_BROKEN"


async def test_nobody_answers(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match=r"127\.0\.0\.1:9 does not answer") as raised:
        await fetch_catalogue("127.0.0.1:9", tmp_path.as_uri(), tmp_path / "cache")
    assert raised.value.reason == "CATALOGUE_UNAVAILABLE"


async def test_a_store_that_fails(stack, shop: Shop, tmp_path: Path) -> None:
    name = f"far-{uuid.uuid4().hex[:8]}"
    assert {a.status.code for a in await shop.upsert([product(name, picture(78))])} == {OK}
    # a file where the store's folder should be
    (tmp_path / "file").write_text("")
    with pytest.raises(Unavailable) as raised:
        await fetch_catalogue(stack.gateway_address, (tmp_path / "file").as_uri(), tmp_path / "cache")
    assert raised.value.reason == "IMAGE_STORE_UNAVAILABLE"
