"""Rows of a contact sheet from answers of the gateway."""

from __future__ import annotations

import asyncio

import grpc.aio
from lookalike.v1 import catalog_pb2, search_pb2

from services.cli.client import TIMEOUT_S, Client
from services.cli.contact_sheet import RESULTS_A_ROW, Row, Tile
from services.cli.search_query import QueryPart


async def search_row(client: Client, heading: str, query: QueryPart, answer: search_pb2.SearchProductsResponse) -> Row:
    """The query beside its best results, each shown by the image that was found."""
    best = list(answer.results)[:RESULTS_A_ROW]
    pictures = await asyncio.gather(*(stored_picture(client, r.product.name, r.image_id) for r in best))
    tiles = [
        Tile(picture, result.product.title or result.product.name, result.product.name, f"{result.similarity:.2f}")
        for result, picture in zip(best, pictures, strict=True)
    ]
    shown = query.picture or await stored_picture(client, query.product)
    return Row(heading, Tile(shown, "Query", query.label), tiles)


async def stored_picture(client: Client, name: str, image_id: str = "") -> bytes | None:
    """Bytes of a product's image, of the first one without `image_id`; None when it is gone by now."""
    request = catalog_pb2.GetProductRequest(name=name, view=catalog_pb2.PRODUCT_VIEW_FULL)
    try:
        product = await client.catalog.GetProduct(request, timeout=TIMEOUT_S)
    except grpc.aio.AioRpcError:
        return None
    images = [image for image in product.images if image.id == image_id] or list(product.images)
    return bytes(images[0].content) if images else None
