"""Queries as they are typed."""

from __future__ import annotations

from pathlib import Path

import pytest

from services.cli.search_query import QueryPart, make_request, parse_part, parse_region
from services.common.errors import InvalidArgument


def test_parts_and_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("a.png").write_bytes(b"a")
    Path("odd:2").write_bytes(b"odd")
    assert parse_part("a.png") == QueryPart("a.png", picture=b"a")
    assert parse_part("a.png:0.5") == QueryPart("a.png", picture=b"a", weight=0.5)
    assert parse_part("odd:2") == QueryPart("odd:2", picture=b"odd")
    assert parse_part("odd:2:3") == QueryPart("odd:2", picture=b"odd", weight=3)
    assert parse_part("products/x") == QueryPart("products/x", product="products/x")
    assert parse_part("products/x:-.5") == QueryPart("products/x", product="products/x", weight=-0.5)


@pytest.mark.parametrize("text", ["none.png", "none.png:2", "."])
def test_what_is_not_there_is_named(text: str) -> None:
    with pytest.raises(InvalidArgument, match="give a picture's path"):
        parse_part(text)


def test_an_empty_file_is_sent_as_a_picture() -> None:
    request = make_request([QueryPart("empty")])
    assert request.queries[0].WhichOneof("source") == "image"


def test_a_region_belongs_to_the_pictures() -> None:
    region = parse_region("0,0.25, 1,0.5")
    request = make_request([QueryPart("a", b"a"), QueryPart("p", product="products/p", weight=-1)], region=region)
    assert request.queries[0].region.top == 0.25
    assert not request.queries[1].HasField("region")
    with pytest.raises(InvalidArgument, match="needs a picture"):
        make_request([QueryPart("p", product="products/p")], region=region)
    with pytest.raises(InvalidArgument, match="left,top,right,bottom"):
        parse_region("1,2,3")
