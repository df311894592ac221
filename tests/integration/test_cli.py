"""The command against the running system, as a person would use it."""

from __future__ import annotations

import asyncio
import csv
import io
import json
import shutil
import sys
import uuid
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from services.cli.client import Client
from services.cli.import_products import import_entries, read_source
from services.cli.importer import Outcome
from services.cli.products import listed

LOOKALIKE = Path(sys.prefix) / "bin" / "lookalike"

pytestmark = pytest.mark.timeout(240)

Ran = tuple[int, str, str]
Cli = Callable[..., Awaitable[Ran]]


def picture(seed: int, side: int = 96) -> Image.Image:
    """Coloured rectangles, different for every seed."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (6, 6, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((side, side), Image.Resampling.NEAREST)


@pytest.fixture
def cli(stack, tmp_path: Path) -> Cli:
    """Runs `lookalike` in tmp_path: exit code, standard output, standard error."""

    async def run(*arguments: str | Path) -> Ran:
        process = await asyncio.create_subprocess_exec(
            LOOKALIKE,
            *map(str, arguments),
            cwd=tmp_path,
            env={"LOOKALIKE_ADDRESS": stack.gateway_address, "PATH": "", "COLUMNS": "200"},
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        out, err = await asyncio.wait_for(process.communicate(), 120)
        assert b"Traceback" not in err, err.decode()
        return process.returncode or 0, out.decode(), err.decode()

    return run


async def json_of(cli: Cli, *arguments: str | Path) -> Any:
    code, out, err = await cli(*arguments, "--json")
    assert code == 0, err
    return json.loads(out)


def manifest(folder: Path, rows: list[dict[str, Any]]) -> Path:
    path = folder / "products.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(dict.fromkeys(name for row in rows for name in row)))
        writer.writeheader()
        writer.writerows(rows)
    return path


@pytest.fixture
def tag() -> str:
    """Makes the products of a test its own: the stack is shared."""
    return uuid.uuid4().hex[:8]


async def test_a_manifest_is_imported_found_changed_and_deleted(cli: Cli, tmp_path: Path, tag: str) -> None:
    for seed in range(4):
        picture(int(tag, 16) + seed).save(tmp_path / f"{seed}.png")
    rows = [
        {"id": f"{tag}-a", "image": "0.png", "title": "Café 靴", "category": tag, "colors": "red|blue", "price": "10"},
        {"id": f"{tag}-b", "image": "1.png", "title": "B", "category": tag, "in_stock": "no", "attributes.fit": "slim"},
        {"id": f"{tag}-a", "image": "2.png"},
    ]
    path = manifest(tmp_path, rows)

    summary = await json_of(cli, "import", path)
    assert summary["products"] == {"total": 2, "written": 2, "unchanged": 0}
    assert summary["images"]["written"] == 3

    product = await json_of(cli, "products", "get", f"{tag}-a")
    assert (product["title"], product["colors"], product["price"]) == ("Café 靴", ["red", "blue"], 10)
    assert len(product["images"]) == 2

    answer = await json_of(cli, "search", tmp_path / "2.png", "--filter", f'category = "{tag}"', "--top", "1")
    assert answer["results"][0]["product"]["name"] == f"products/{tag}-a"
    assert answer["results"][0]["similarity"] > 0.99

    # nothing changed: nothing is sent
    summary = await json_of(cli, "import", path)
    assert summary["products"] == {"total": 2, "written": 0, "unchanged": 2}

    # one field of one product, and one picture of the other
    rows[1]["title"] = "B2"
    picture(int(tag, 16) + 9).save(tmp_path / "2.png")
    summary = await json_of(cli, "import", manifest(tmp_path, rows))
    assert summary["products"]["written"] == 2
    assert (await json_of(cli, "products", "get", f"products/{tag}-b"))["title"] == "B2"

    # what was deleted behind the importer's back comes again, whatever a run before remembers
    code, out, err = await cli("products", "delete", f"{tag}-a", "--yes")
    assert (code, out.strip()) == (0, f"deleted products/{tag}-a"), err
    code, _, err = await cli("products", "get", f"{tag}-a")
    assert code == 1
    assert "NOT_FOUND" in err
    assert (await json_of(cli, "import", path))["products"] == {"total": 2, "written": 1, "unchanged": 1}


async def test_rejects_are_written_with_line_and_reason_and_the_rest_is_imported(
    cli: Cli, tmp_path: Path, tag: str
) -> None:
    picture(int(tag, 16)).save(tmp_path / "good.png")
    (tmp_path / "text.png").write_bytes(b"this is no picture")
    path = manifest(
        tmp_path,
        [
            {"id": f"{tag}-a", "image": "good.png", "price": "1"},
            {"id": f"{tag}-a", "image": "text.png", "price": ""},
            {"id": f"{tag}-b", "image": "text.png", "price": ""},
            {"id": f"{tag}-c", "image": "none.png", "price": ""},
            {"id": f"{tag}-d", "image": "good.png", "price": "cheap"},
        ],
    )
    code, _, err = await cli("import", path, "--rejects", "rejects.csv")
    assert code == 1
    assert "4 rejected; all of them are in rejects.csv" in err
    with (tmp_path / "rejects.csv").open(encoding="utf-8") as file:
        rejects = [(row["id"].removeprefix(tag), row["line"], row["reason"]) for row in csv.DictReader(file)]
    assert rejects == [
        ("-a", "3", "IMAGE_NOT_RECOGNISED"),
        ("-b", "4", "IMAGE_NOT_RECOGNISED"),
        ("-c", "5", "IMAGE_NOT_FOUND"),
        ("-d", "6", "IMPORT_ROW_INVALID"),
    ]
    assert len((await json_of(cli, "products", "get", f"{tag}-a"))["images"]) == 1

    (tmp_path / "text.png").unlink()
    code, _, _ = await cli("import", manifest(tmp_path, [{"id": f"{tag}-a", "image": "good.png", "price": "1"}]))
    assert code == 0


async def test_a_folder_is_imported_and_listed(cli: Cli, tmp_path: Path, tag: str) -> None:
    folder = tmp_path / "shop" / tag
    folder.mkdir(parents=True)
    for seed in range(3):
        picture(int(tag, 16) + seed).save(folder / f"{tag} Shoe {seed}.jpg")
    code, out, err = await cli("import", tmp_path / "shop")
    assert code == 0, err
    assert "3" in out
    products = await json_of(cli, "products", "list", "--filter", f'category = "{tag}"')
    assert [product["name"] for product in products] == [f"products/{tag}-shoe-{seed}" for seed in range(3)]
    code, out, _ = await cli("products", "list", "--filter", f'category = "{tag}"', "--limit", "2")
    assert "2 products, and there are more" in out

    sheet = tmp_path / "sheet.png"
    code, out, err = await cli("search", f"products/{tag}-shoe-0", "--facet", "category", "--sheet", sheet)
    assert code == 0, err
    assert f"{tag}-shoe-0 " not in out
    assert "models/1" in out
    assert Image.open(io.BytesIO(sheet.read_bytes())).width > 1000


async def test_errors_of_the_gateway_come_with_reason_and_field(cli: Cli, tmp_path: Path) -> None:
    picture(1).save(tmp_path / "a.png")
    (tmp_path / "half.png").write_bytes((tmp_path / "a.png").read_bytes()[:-80])
    for arguments, said in (
        (["search", "half.png"], "IMAGE_TRUNCATED"),
        (["search", "a.png", "--filter", "colour = 1"], "FILTER_UNKNOWN_FIELD, field filter"),
        (["search", "products/no-such-product"], "NOT_FOUND"),
        (["products", "list", "--filter", 'title = "'], "FILTER_SYNTAX"),
        (["products", "get", "Not An Id"], "PRODUCT_ID_INVALID"),
    ):
        code, out, err = await cli(*arguments)
        assert (code, out) == (1, "")
        assert said in err
        assert len(err.strip().splitlines()) == 1


async def test_status_tells_each_part(cli: Cli) -> None:
    status = await json_of(cli, "status")
    assert {"gateway", "triton", "milvus", "redis"} <= {part["name"] for part in status["components"]}
    assert status["serving_model"] == "models/1"
    code, out, _ = await cli("status")
    assert code == 0
    assert "products_m1" in out


async def test_an_import_outlives_the_gateway(make_stack: Any, tmp_path: Path) -> None:
    """SIGKILL of the gateway and of Milvus in the middle: the import goes on, and nothing is missing afterwards."""
    count = 120
    (tmp_path / "shop").mkdir()
    for seed in range(count):
        picture(seed).save(tmp_path / "shop" / f"p{seed}.png")
    outcome = Outcome()
    async with make_stack() as stack:
        importing = asyncio.create_task(import_entries(read_source(tmp_path / "shop"), outcome, stack.gateway_address))
        for part, written in (("gateway", 10), ("milvus", 50)):
            while outcome.written < written:
                await asyncio.sleep(0.02)
                assert not importing.done(), importing.exception()
            await stack.kill(part)
        await importing
        assert (outcome.written, outcome.rejects) == (count, [])
        async with Client(stack.gateway_address) as client:
            assert len([product async for product in listed(client)]) == count
        again = Outcome()
        await import_entries(read_source(tmp_path / "shop"), again, stack.gateway_address)
        assert (again.written, again.unchanged) == (0, count)
    shutil.rmtree(tmp_path / "shop")
