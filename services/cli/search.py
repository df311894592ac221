"""`lookalike search`: products that look like a picture."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Annotated

import typer
from lookalike.v1 import search_pb2
from rich.text import Text

from services.cli.addresses import DEFAULT_ADDRESS, Address
from services.cli.client import TIMEOUT_S, Client
from services.cli.console import AsJson, print_json, run, stderr, stdout, table
from services.cli.products import price
from services.cli.search_query import QueryPart, make_request, parse_part, parse_region

MODES = {
    search_pb2.SEARCH_MODE_APPROXIMATE: "approximate",
    search_pb2.SEARCH_MODE_EXACT: "exact",
}


def search(
    queries: Annotated[
        list[str],
        typer.Argument(
            help="Pictures or products/ID, up to 8, each with an optional weight: products/ID:-0.5", show_default=False
        ),
    ],
    filter_text: Annotated[str, typer.Option("--filter", help='For example: category = "shoes" AND price < 50')] = "",
    top: Annotated[int, typer.Option(min=1, max=200, help="How many products.")] = 10,
    facet: Annotated[list[str] | None, typer.Option(help="A field whose values are counted; may be repeated.")] = None,
    min_similarity: Annotated[float, typer.Option(min=0, max=1, help="Leave out what is less similar.")] = 0.0,
    region: Annotated[
        str | None, typer.Option(help="Part of the pictures to look at: left,top,right,bottom, from 0 to 1.")
    ] = None,
    sheet: Annotated[Path | None, typer.Option(help="Write the query and the best five as a PNG.")] = None,
    address: Address = DEFAULT_ADDRESS,
    as_json: AsJson = False,
) -> None:
    """Find the products that look like a picture, like a stored product, or like several of them.

    Example: lookalike search photo.jpg --filter 'colors:"red"' --top 5 --sheet found.png
    """
    run(_search(queries, filter_text, top, facet or [], min_similarity, region, sheet, address, as_json), address)


async def _search(
    queries: list[str],
    filter_text: str,
    top: int,
    facets: list[str],
    min_similarity: float,
    region: str | None,
    sheet: Path | None,
    address: str,
    as_json: bool,
) -> None:
    parts = [parse_part(query) for query in queries]
    request = make_request(
        parts,
        filter_text=filter_text,
        top=top,
        facets=facets,
        min_similarity=min_similarity,
        region=parse_region(region) if region else None,
    )
    async with Client(address) as client:
        answer = await client.search.SearchProducts(request, timeout=TIMEOUT_S)
        if sheet is not None:
            await _write_sheet(client, sheet, parts, filter_text, answer)
    if as_json:
        print_json(answer)
        return
    print_answer(answer)
    if sheet is not None:
        stderr().print(f"contact sheet: {sheet}", markup=False, highlight=False)


async def _write_sheet(
    client: Client, path: Path, parts: list[QueryPart], filter_text: str, answer: search_pb2.SearchProductsResponse
) -> None:
    from services.cli.contact_sheet import as_png, contact_sheet
    from services.cli.sheet_rows import search_row

    heading = " + ".join(part.label if part.weight == 1 else f"{part.weight:g} x {part.label}" for part in parts)
    if filter_text:
        heading += f", {filter_text}"
    row = await search_row(client, heading, parts[0], answer)
    await asyncio.to_thread(path.write_bytes, as_png(contact_sheet([row])))


def print_answer(answer: search_pb2.SearchProductsResponse) -> None:
    """Tables on stdout: the products, the facets, how the answer came about."""
    console = stdout()
    shown = table("#>", "product", "title", "category", "price>", "similarity>")
    for rank, result in enumerate(answer.results, start=1):
        product = result.product
        shown.add_row(
            str(rank),
            Text(product.name.removeprefix("products/")),
            Text(product.title),
            Text(product.category),
            price(product),
            f"{result.similarity:.3f}",
        )
    console.print(shown if answer.results else "nothing found")
    for facet in answer.facets:
        counts = table(facet.field, "products>")
        for value in facet.values:
            counts.add_row(Text(value.value), str(value.count))
        console.print()
        console.print(counts)
    provenance = answer.provenance
    facts = [provenance.model, provenance.collection, MODES.get(provenance.mode, "")]
    facts += ["cached answer"] if provenance.result_cached else []
    console.print("\n" + ", ".join(fact for fact in facts if fact), style="dim", markup=False, highlight=False)
