"""Folders and manifests as they are read for an import."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.cli.entries import Entries
from services.cli.folder_source import read_folder
from services.cli.import_products import read_source
from services.cli.manifest_source import read_manifest
from services.common.errors import InvalidArgument
from services.common.products import Product


def manifest(folder: Path, text: str, name: str = "products.csv") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def reasons(entries: Entries) -> list[tuple[int | None, str, str]]:
    return [(reject.line, reject.reason, reject.field) for reject in entries.rejects]


def test_a_folder_gives_category_id_and_title(tmp_path: Path) -> None:
    for name in ("top.jpg", "shoes/Red Shoe_01.PNG", "shoes/new/b.webp", "shoes/read.me", ".hidden.png", ".git/x.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    read = read_folder(tmp_path)
    assert [(e.product.id, e.product.title, e.product.category) for e in read.entries] == [
        ("top", "Top", ""),
        ("red-shoe_01", "Red Shoe 01", "shoes"),
        ("b", "B", "shoes/new"),
    ]
    assert [e.pictures[0].path for e in read.entries][1] == tmp_path / "shoes/Red Shoe_01.PNG"
    assert read.notes == ["passed over 1 file of another kind"]


def test_files_of_one_name_become_different_products_the_same_ones_each_time(tmp_path: Path) -> None:
    for name in ("a/x.jpg", "b/x.jpg", "b/X.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    first = [e.product.id for e in read_folder(tmp_path).entries]
    assert first[0] == "x"
    assert len(set(first)) == 3
    (tmp_path / "b" / "y.jpg").write_bytes(b"x")
    assert set(first) < {e.product.id for e in read_folder(tmp_path).entries}


def test_rows_of_one_id_are_pictures_of_one_product(tmp_path: Path) -> None:
    path = manifest(
        tmp_path,
        "id,image,title,colors,price,in_stock,attributes.fit\n"
        'g,a.png,"Guitar, red",red|blue,12.5,no,slim\n'
        "b,b.png,Banjo,,,,\n"
        "g,/abs/c.png,,,,,\n",
    )
    read = read_manifest(path)
    assert not read.rejects
    guitar, banjo = read.entries
    assert guitar.product == Product(
        id="g",
        title="Guitar, red",
        colors=("red", "blue"),
        price=12.5,
        in_stock=False,
        attributes={"fit": "slim"},
    )
    assert [(p.path, p.line) for p in guitar.pictures] == [(tmp_path / "a.png", 2), (Path("/abs/c.png"), 4)]
    assert banjo.product == Product(id="b", title="Banjo")


def test_jsonl_may_have_arrays(tmp_path: Path) -> None:
    row = {"id": "g", "image": ["a.png", "b.png"], "sizes": ["S", "M"], "price": 3, "attributes": {"fit": "x"}}
    (entry,) = read_manifest(manifest(tmp_path, json.dumps(row) + "\n\n", "p.jsonl")).entries
    assert entry.product == Product(id="g", sizes=("S", "M"), price=3.0, attributes={"fit": "x"})
    assert [p.path.name for p in entry.pictures] == ["a.png", "b.png"]


def test_bad_rows_are_rejected_by_line_and_the_others_are_read(tmp_path: Path) -> None:
    path = manifest(
        tmp_path,
        "\ufeffid;image;title;price;in_stock;currency\n"
        "g;a.png;Guitar;;;\n"
        "g;b.png;Banjo;;;\n"
        "Bad Id;a.png;;;;\n"
        "p;a.png;;cheap;;\n"
        "p;a.png;;-3;;\n"
        "p;a.png;;;maybe;\n"
        'p;a.png;"two\nlines";;;euro\n'
        "p;;;;;\n"
        "p;a.png;a;1;1;EUR;extra\n",
    )
    read = read_manifest(path)
    assert reasons(read) == [
        (3, "IMPORT_ROWS_DIFFER", "title"),
        (4, "PRODUCT_ID_INVALID", "id"),
        (5, "IMPORT_ROW_INVALID", "price"),
        (6, "PRODUCT_FIELD_INVALID", "price"),
        (7, "IMPORT_ROW_INVALID", "in_stock"),
        (8, "PRODUCT_FIELD_INVALID", "currency"),
        (10, "IMPORT_ROW_INVALID", "image"),
        (11, "IMPORT_ROW_INVALID", ""),
    ]
    assert [e.product.id for e in read.entries] == ["g"]


def test_bad_lines_of_jsonl_are_rejected(tmp_path: Path) -> None:
    lines = [
        "{bad",
        "[1]",
        '{"id": "k"}',
        '{"id": "k", "image": "x", "foo": 1}',
        '{"id": "k", "image": "x", "price": NaN}',
        '{"id": "k", "image": "x", "title": ["a"]}',
    ]
    read = read_manifest(manifest(tmp_path, "\n".join(lines), "p.jsonl"))
    assert not read.entries
    assert reasons(read) == [
        (1, "IMPORT_ROW_INVALID", ""),
        (2, "IMPORT_ROW_INVALID", ""),
        (3, "IMPORT_ROW_INVALID", "image"),
        (4, "IMPORT_COLUMN_UNKNOWN", "foo"),
        (5, "PRODUCT_FIELD_INVALID", "price"),
        (6, "IMPORT_ROW_INVALID", "title"),
    ]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("id,image,colour\na,x.png,red\n", "did you mean 'colors'"),
        ("name,image\na,x.png\n", "has no column 'id'"),
        ("id\na\n", "has no column 'image'"),
        ("id,image,id\na,x.png,b\n", "twice"),
        ("id,image\n", "has no rows"),
        ("", "has no column"),
        ('id,image\n"a,x.png\n', "line 2: unexpected end of data"),
    ],
)
def test_a_manifest_that_is_wrong_as_a_whole_is_refused(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(InvalidArgument, match=said):
        read_manifest(manifest(tmp_path, text))


def test_what_is_no_source_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_bytes(b"\xff\xfe\x00")
    (tmp_path / "x.txt").touch()
    (tmp_path / "empty").mkdir()
    for name, said in (
        ("x.csv", "not UTF-8"),
        ("x.txt", "neither a folder nor"),
        ("empty", "no picture in"),
        ("none", "there is no"),
    ):
        with pytest.raises(InvalidArgument, match=said):
            read_source(tmp_path / name)


values = st.text(st.characters(exclude_categories=["Cs", "Cc", "Z"], exclude_characters="|;"), min_size=1, max_size=20)


@given(title=values, colors=st.lists(values, max_size=5), price=st.none() | st.floats(0, 1e9), in_stock=st.booleans())
def test_csv_and_jsonl_say_the_same(
    tmp_path_factory: pytest.TempPathFactory, title: str, colors: list[str], price: float | None, in_stock: bool
) -> None:
    folder = tmp_path_factory.mktemp("sources")
    with (folder / "p.csv").open("w", encoding="utf-8", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["id", "image", "title", "colors", "price", "in_stock"])
        rows.writerow(["p", "a.png", title, "|".join(colors), "" if price is None else price, str(in_stock)])
    row = {"id": "p", "image": "a.png", "title": title, "colors": colors, "price": price, "in_stock": in_stock}
    jsonl = manifest(folder, json.dumps(row), "p.jsonl")
    wanted = Product(id="p", title=title, colors=tuple(colors), price=price, in_stock=in_stock)
    for path in (folder / "p.csv", jsonl):
        (entry,) = read_manifest(path).entries
        assert entry.product == wanted
