"""A client in another language against the running system: examples/node shares nothing with us but the protos."""

from __future__ import annotations

import asyncio
import json
import shutil
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from google.rpc import error_details_pb2
from grpc_status import rpc_status
from lookalike.v1 import catalog_pb2, catalog_pb2_grpc, search_pb2, search_pb2_grpc
from PIL import Image, ImageDraw

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = ROOT / "examples" / "node"
# in the environment, which nothing commits and `make clean` removes
CACHE = Path(sys.prefix) / "node"
INSTALL = ("npm", "install", "--no-package-lock", "--no-audit", "--no-fund", "--ignore-scripts")

pytestmark = pytest.mark.skipif(
    not (shutil.which("node") and shutil.which("npm")), reason="node and npm are not installed"
)


async def run(*command: str, cwd: Path, timeout_s: float = 60) -> tuple[int, str, str]:
    """Exit code, standard output and standard error."""
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(*command, cwd=cwd, stdout=pipe, stderr=pipe)
    try:
        out, err = await asyncio.wait_for(process.communicate(), timeout_s)
    except TimeoutError:
        process.kill()
        await process.wait()
        raise
    assert process.returncode is not None
    return process.returncode, out.decode(), err.decode()


@pytest.fixture(scope="module")
async def node() -> Path:
    """A copy of the example with its packages installed, beside the protos as in the repository."""
    folder = CACHE / "examples" / "node"
    shutil.copytree(EXAMPLE, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns("node_modules"))
    protos = CACHE / "protos"
    if not protos.exists():
        protos.symlink_to(ROOT / "protos", target_is_directory=True)
    wanted = (EXAMPLE / "package.json").read_text()
    installed = folder / "node_modules" / ".installed"
    if not installed.exists() or installed.read_text() != wanted:
        code, out, err = await run(*INSTALL, cwd=folder, timeout_s=240)
        assert code == 0, out + err
        installed.write_text(wanted)
    return folder


@pytest.fixture
async def pictures(stack: Any, tmp_path: Path) -> AsyncIterator[dict[str, Path]]:
    """Three pictures that an encoder can tell apart, and a file that is none. Their names become product ids; the
    products are removed afterwards."""
    files = {}
    for name, background, shape in (
        ("disc", "navy", "ellipse"),
        ("box", "olive", "rectangle"),
        ("bar", "pink", "line"),
    ):
        picture = Image.new("RGB", (160, 160), background)
        draw = getattr(ImageDraw.Draw(picture), shape)
        draw((30, 40, 130, 120), fill="white", **({"width": 12} if shape == "line" else {}))
        files[name] = tmp_path / f"node-{name}.png"
        picture.save(files[name])
    files["broken"] = tmp_path / "node-broken.png"
    files["broken"].write_bytes(b"this is not a picture")
    yield files
    async with grpc.aio.insecure_channel(stack.gateway_address) as channel:
        catalog = catalog_pb2_grpc.CatalogServiceStub(channel)
        for path in files.values():
            name = f"products/{path.stem}"
            await catalog.DeleteProduct(catalog_pb2.DeleteProductRequest(name=name, allow_missing=True))


async def test_a_product_written_by_node_is_read_by_python(stack: Any, node: Path, pictures: dict[str, Path]) -> None:
    files = [str(pictures[name]) for name in ("disc", "broken", "box")]
    command = ("node", "upsert.mjs", "--address", stack.gateway_address, "--category", "node-shapes", "--json", *files)
    code, out, err = await run(*command, cwd=node)
    answers = [json.loads(line) for line in out.splitlines()]
    assert [answer["name"] for answer in answers] == ["products/node-disc", "products/node-broken", "products/node-box"]
    assert code == 1, err  # for the broken one, which did not end the stream
    error = answers[1]["error"]
    assert (error["code"], error["reason"]) == ("INVALID_ARGUMENT", "IMAGE_NOT_RECOGNISED")
    assert error["fields"]

    async with grpc.aio.insecure_channel(stack.gateway_address) as channel:
        catalog = catalog_pb2_grpc.CatalogServiceStub(channel)
        view = catalog_pb2.PRODUCT_VIEW_FULL
        product = await catalog.GetProduct(catalog_pb2.GetProductRequest(name="products/node-disc", view=view))
    assert (product.title, product.category, product.etag) == ("node-disc", "node-shapes", answers[0]["etag"])
    assert product.images[0].content == pictures["disc"].read_bytes()


async def test_node_and_python_get_the_same_answer(stack: Any, node: Path, pictures: dict[str, Path]) -> None:
    files = [str(pictures[name]) for name in ("disc", "box", "bar")]
    command = ("node", "upsert.mjs", "--address", stack.gateway_address, "--category", "node-shapes", *files)
    code, out, err = await run(*command, cwd=node)
    assert code == 0, out + err
    product_filter = 'category = "node-shapes"'
    command = ("node", "search.mjs", str(pictures["box"]), stack.gateway_address, "--json", "--filter", product_filter)
    code, out, err = await run(*command, cwd=node)
    assert code == 0, err
    by_node = json.loads(out)

    request = search_pb2.SearchProductsRequest(
        queries=[search_pb2.Query(image=pictures["box"].read_bytes())], filter=product_filter
    )
    async with grpc.aio.insecure_channel(stack.gateway_address) as channel:
        by_python = await search_pb2_grpc.SearchServiceStub(channel).SearchProducts(request)
    assert by_node["results"][0]["product"]["name"] == "products/node-box"
    assert [_facts(result) for result in by_node["results"]] == [
        (result.product.name, result.image_id, result.similarity, result.distance) for result in by_python.results
    ]
    assert by_node["provenance"]["model"] == by_python.provenance.model
    assert by_node["provenance"]["collection"] == by_python.provenance.collection


def _facts(result: dict[str, Any]) -> tuple[str, str, float, float]:
    return (result["product"]["name"], result["image_id"], result["similarity"], result["distance"])


async def test_node_reads_the_details_of_an_error(stack: Any, node: Path, pictures: dict[str, Path]) -> None:
    search = ("node", "search.mjs", str(pictures["disc"]), stack.gateway_address, "--filter", "colour = 'red'")
    code, out, err = await run(*search, "--json", cwd=node)
    assert (code, out) == (1, "")
    described = json.loads(err)

    query = search_pb2.Query(image=pictures["disc"].read_bytes())
    request = search_pb2.SearchProductsRequest(queries=[query], filter="colour = 'red'")
    async with grpc.aio.insecure_channel(stack.gateway_address) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as failed:
            await search_pb2_grpc.SearchServiceStub(channel).SearchProducts(request)
    info = error_details_pb2.ErrorInfo()
    assert any(detail.Unpack(info) for detail in rpc_status.from_call(failed.value).details)
    assert described["code"] == failed.value.code().name == "INVALID_ARGUMENT"
    assert described["reason"] == info.reason
    assert described["metadata"] == dict(info.metadata)
    assert described["fields"][0]["field"] == "filter"

    code, out, err = await run(*search, cwd=node)
    assert (code, out) == (1, "")
    assert err.startswith(f"{info.reason}: ")


async def test_the_python_example_finds_what_node_wrote(stack: Any, node: Path, pictures: dict[str, Path]) -> None:
    command = ("node", "upsert.mjs", "--address", stack.gateway_address, str(pictures["bar"]))
    code, out, err = await run(*command, cwd=node)
    assert code == 0, out + err
    example = (sys.executable, str(ROOT / "examples" / "python" / "search.py"))
    code, out, err = await run(*example, str(pictures["bar"]), stack.gateway_address, cwd=ROOT)
    assert code == 0, err
    assert out.splitlines()[0].split()[:2] == ["1.000", "products/node-bar"]
    code, out, err = await run(*example, str(pictures["broken"]), stack.gateway_address, cwd=ROOT)
    assert (code, out) == (1, "")
    assert err.startswith("IMAGE_NOT_RECOGNISED: ")
