"""`lookalike products`: reading, listing and deleting single products."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Annotated, Any

import typer
from lookalike.v1 import catalog_pb2
from rich.text import Text

from services.cli.addresses import DEFAULT_ADDRESS, Address
from services.cli.client import TIMEOUT_S, Client, product_name
from services.cli.console import AsJson, print_json, run, stdout, table, to_plain

PAGE_SIZE = 200
IMAGES_SHOWN = 8

app = typer.Typer(no_args_is_help=True, help="Read, list and delete products.", pretty_exceptions_enable=False)

Name = Annotated[str, typer.Argument(help="ID or products/ID", show_default=False)]


@app.command()
def get(name: Name, address: Address = DEFAULT_ADDRESS, as_json: AsJson = False) -> None:
    """Show one product with all its fields.

    Example: lookalike products get guitar
    """
    run(_get(product_name(name), address, as_json), address)


@app.command("list")
def list_products(
    filter_text: Annotated[str, typer.Option("--filter", help='For example: category = "shoes" AND price < 50')] = "",
    limit: Annotated[int, typer.Option(min=0, help="At most so many; 0: all.")] = 50,
    address: Address = DEFAULT_ADDRESS,
    as_json: AsJson = False,
) -> None:
    """List products in the order of their names.

    Example: lookalike products list --filter 'colors:"red"' --limit 10
    """
    run(_list(filter_text, limit, address, as_json), address)


@app.command()
def delete(
    names: Annotated[list[str], typer.Argument(help="IDs or products/ID", show_default=False)],
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    address: Address = DEFAULT_ADDRESS,
    as_json: AsJson = False,
) -> None:
    """Delete products with all their images.

    Example: lookalike products delete guitar banjo --yes
    """
    full_names = [product_name(name) for name in names]
    if not yes:
        what = full_names[0] if len(full_names) == 1 else f"{len(full_names)} products"
        typer.confirm(f"Delete {what}?", abort=True, err=True)
    run(_delete(full_names, address, as_json), address)


async def _get(name: str, address: str, as_json: bool) -> None:
    async with Client(address) as client:
        product = await client.catalog.GetProduct(catalog_pb2.GetProductRequest(name=name), timeout=TIMEOUT_S)
    if as_json:
        print_json(product)
        return
    shown = table("field", "value")
    for field, value in _fields(product):
        shown.add_row(field, Text(value))
    stdout().print(shown)


async def _list(filter_text: str, limit: int, address: str, as_json: bool) -> None:
    shown = table("product", "title", "category", "price>", "stock", "images>")
    plain: list[dict[str, Any]] = []
    more = False
    async with Client(address) as client:
        async for product in listed(client, filter_text):
            if limit and len(plain) == limit:
                more = True
                break
            plain.append(to_plain(product))
            shown.add_row(
                Text(product.name.removeprefix("products/")),
                Text(product.title),
                Text(product.category),
                price(product),
                "yes" if in_stock(product) else "no",
                str(len(product.images)),
            )
    if as_json:
        print_json(plain)
        return
    stdout().print(shown)
    stdout().print(f"{len(plain):,} products{', and there are more: see --limit' if more else ''}", style="dim")


async def _delete(names: list[str], address: str, as_json: bool) -> None:
    deleted: list[str] = []
    async with Client(address) as client:
        try:
            for name in names:
                await client.catalog.DeleteProduct(catalog_pb2.DeleteProductRequest(name=name), timeout=TIMEOUT_S)
                deleted.append(name)
        finally:
            if as_json:
                print_json({"deleted": deleted})
            else:
                for name in deleted:
                    stdout().print(f"deleted {name}", markup=False, highlight=False)


async def listed(client: Client, filter_text: str = "") -> AsyncIterator[catalog_pb2.Product]:
    """All products that match, page by page."""
    request = catalog_pb2.ListProductsRequest(page_size=PAGE_SIZE, filter=filter_text)
    while True:
        page: Any = await client.catalog.ListProducts(request, timeout=TIMEOUT_S)
        for product in page.products:
            yield product
        if not page.next_page_token:
            return
        request.page_token = page.next_page_token


def price(product: catalog_pb2.Product) -> str:
    """For a table; empty when it is not known."""
    return f"{product.price:,.2f} {product.currency}".strip() if product.HasField("price") else ""


def in_stock(product: catalog_pb2.Product) -> bool:
    return product.in_stock if product.HasField("in_stock") else True


def _fields(product: catalog_pb2.Product) -> list[tuple[str, str]]:
    fields = [("name", product.name)]
    fields += [(name, getattr(product, name)) for name in ("title", "description", "category", "brand")]
    fields += [(name, ", ".join(getattr(product, name))) for name in ("colors", "sizes", "materials")]
    fields += [("price", price(product)), ("in_stock", "true" if in_stock(product) else "false")]
    fields += [(f"attributes.{key}", value) for key, value in sorted(product.attributes.items())]
    fields += [("images", str(len(product.images)))]
    fields += [(f"  {image.id}", f"sha256 {image.sha256[:16]}…") for image in product.images[:IMAGES_SHOWN]]
    if len(product.images) > IMAGES_SHOWN:
        fields.append(("  …", f"and {len(product.images) - IMAGES_SHOWN} more"))
    fields += [("update_time", product.update_time.ToJsonString()), ("etag", product.etag)]
    return [(name, value) for name, value in fields if value]
