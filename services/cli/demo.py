"""`lookalike demo`: from nothing to four searches and a contact sheet."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import Annotated

import grpc
import typer
from lookalike.v1 import search_pb2
from rich.text import Text

from services.cli.client import TIMEOUT_S, Client
from services.cli.console import errors_as_lines, stderr, stdout, table
from services.cli.contact_sheet import Row, Tile, as_png, contact_sheet
from services.cli.demo_searches import TOP, DemoSearch, DemoShop, drawn_shop, grocery_shop
from services.cli.failures import Failure, from_rpc
from services.cli.import_products import import_entries, read_source
from services.cli.importer import Outcome
from services.cli.progress import progress_bar
from services.cli.search_query import QueryPart, make_request
from services.cli.sheet_rows import search_row
from services.common.errors import InvalidArgument
from services.photographs.grocery import read_classes

# photographs under way at a time when the right product is counted
CONCURRENT_SEARCHES = 8

Answer = search_pb2.SearchProductsResponse | Failure


def demo(
    data_set: Annotated[
        Path | None, typer.Option(help="Folder of the Grocery Store Dataset, for real photographs instead of drawings.")
    ] = None,
    data: Annotated[Path, typer.Option(help="Where the demo keeps its data.")] = Path(".lookalike-demo"),
    sheet: Annotated[Path, typer.Option(help="Where to write the contact sheet.")] = Path("demo-contact-sheet.png"),
    model_repository: Annotated[Path, typer.Option(help="Where the encoder is, or is built.")] = Path(
        "model_repository"
    ),
    keep: Annotated[bool, typer.Option("--keep", help="Leave the stack running until Ctrl-C.")] = False,
) -> None:
    """Import a demo catalogue into a stack of its own and search it four times.

    Installs the engines and builds the encoder when they are missing; the second run takes what the first one made.
    Exit code 1 when a search does not find what it must.

    Example: lookalike demo --keep
    """
    start = time.perf_counter()
    with errors_as_lines():
        if data_set is not None:
            read_classes(data_set)  # to be told at once when it is not there
        _prepare(model_repository, data_set)
        folder = data / ("drawings" if data_set is None else "grocery")
        shop = _shop(data_set, folder / "catalogue")
        problems = asyncio.run(_run(shop, folder / "stack", model_repository, sheet, keep))
    _go_on(folder / "stack", sheet, problems, time.perf_counter() - start)
    if problems:
        raise typer.Exit(1)


def _prepare(model_repository: Path, data_set: Path | None) -> None:
    from services.cli.models import init_models
    from services.local.engines import Engines
    from services.local.installing import install

    with _step("engines", spin=True):
        install(Engines.default(), report=lambda line: stdout().print(f"  {line}", style="dim", highlight=False))
    with _step("encoder version 1") as built:
        manifest, _ = init_models(model_repository, data_set)
        built(f"{manifest.served.upper()}, recall@1 {manifest.metrics['recall@1']:.1%} on {manifest.evaluated_on}")


def _shop(data_set: Path | None, folder: Path) -> DemoShop:
    with _step("catalogue"), progress_bar("pictures") as bar:
        if data_set is not None:
            return grocery_shop(data_set, folder)
        task = bar.add_task("drawing", total=None)
        return drawn_shop(folder, lambda done, total: bar.update(task, completed=done, total=total))


async def _run(shop: DemoShop, data: Path, model_repository: Path, sheet: Path, keep: bool) -> list[str]:
    """What went wrong in the searches."""
    from services.local.stack import LocalStack

    async with AsyncExitStack() as running:
        with _step("stack", spin=True) as started:
            stack = LocalStack(data_dir=data, model_repository=model_repository)
            await running.enter_async_context(stack)
            started(f"Triton, Milvus Lite, Redis and the gateway at {stack.gateway_address}")
        with _step("import") as imported:
            imported(await _import(shop, stack.gateway_address))
        async with Client(stack.gateway_address) as client:
            problems = await _search(client, shop, sheet)
            if shop.photographs:
                with _step("measure") as measured:
                    measured(await _measure(client, shop))
        if keep:
            stdout().print(f"\nrunning at {stack.gateway_address} until Ctrl-C", highlight=False)
            await asyncio.Event().wait()
    return problems


async def _import(shop: DemoShop, address: str) -> str:
    """Raises InvalidArgument when a product is rejected: the demo's catalogue has none that may be."""
    outcome = Outcome()
    await import_entries(read_source(shop.manifest), outcome, address)
    if outcome.rejects:
        reject = outcome.rejects[0]
        raise InvalidArgument(f"{reject.id}: {reject.message}", reason=reject.reason, field=reject.field)
    what = f"{outcome.products_total:,} products, {outcome.pictures_total:,} images"
    if not outcome.written:
        return f"{what}, all there already"
    return f"{what}, {outcome.pictures_per_s:.0f} images/s"


async def _search(client: Client, shop: DemoShop, sheet: Path) -> list[str]:
    shown = table("#>", "search", "filter", f"best {TOP}", "ms>")
    rows, problems = [], []
    for number, search in enumerate(shop.searches, start=1):
        start = time.perf_counter()
        answer = await _ask(client, search)
        took_ms = (time.perf_counter() - start) * 1e3
        problem = search.check(answer)
        if problem:
            problems.append(f"search {number}: {problem}")
        shown.add_row(str(number), search.heading, Text(search.filter_text), _best(answer), f"{took_ms:.0f}")
        rows.append(await _row(client, f"{number}  {search.heading}", search, answer))
    stdout().print()
    stdout().print(shown)
    stdout().print()
    await asyncio.to_thread(sheet.write_bytes, as_png(contact_sheet(rows, shop.credit)))
    return problems


async def _ask(client: Client, search: DemoSearch) -> Answer:
    request = make_request([search.query], filter_text=search.filter_text, top=TOP)
    try:
        answer: search_pb2.SearchProductsResponse = await client.search.SearchProducts(request, timeout=TIMEOUT_S)
        return answer
    except grpc.RpcError as error:
        return from_rpc(error, client.address)


async def _row(client: Client, heading: str, search: DemoSearch, answer: Answer) -> Row:
    if search.filter_text:
        heading += f":   {search.filter_text}"
    if isinstance(answer, Failure):
        return Row(heading, Tile(search.query.picture, "Query", search.query.label), (), str(answer))
    return await search_row(client, heading, search.query, answer)


def _best(answer: Answer) -> Text:
    if isinstance(answer, Failure):
        return Text(f"{answer.code.name}: {answer}", style="yellow")
    return Text(", ".join(f"{r.product.title} {r.similarity:.2f}" for r in answer.results))


async def _measure(client: Client, shop: DemoShop) -> str:
    """How often the photographs find their product."""
    first = among_five = 0
    limit = asyncio.Semaphore(CONCURRENT_SEARCHES)

    async def search(path: Path, product_id: str) -> None:
        nonlocal first, among_five
        async with limit:
            picture = await asyncio.to_thread(path.read_bytes)
            request = make_request([QueryPart(path.name, picture)], top=TOP)
            answer = await client.search.SearchProducts(request, timeout=TIMEOUT_S)
        ids = [result.product.name.removeprefix("products/") for result in answer.results]
        first += ids[:1] == [product_id]
        among_five += product_id in ids
        bar.advance(task)

    with progress_bar("searches") as bar:
        task = bar.add_task("searching", total=len(shop.photographs))
        await asyncio.gather(*(search(path, product_id) for path, product_id in shop.photographs))
    total = len(shop.photographs)
    return f"{total} photographs: {first / total:.0%} find their product first, {among_five / total:.0%} among five"


def _go_on(data: Path, sheet: Path, problems: list[str], took_s: float) -> None:
    console = stdout()
    for problem in problems:
        console.print(f"not as it must be: {problem}", style="red", markup=False, highlight=False)
    console.print(f"contact sheet: {sheet}", markup=False, highlight=False)
    console.print(f"\nGo on:\n  lookalike up --data {data}", markup=False, highlight=False)
    console.print("  lookalike search photo.jpg --top 5 --sheet found.png", markup=False, highlight=False)
    console.print("  lookalike import your-pictures/", markup=False, highlight=False)
    console.print(f"\n{took_s:.1f} s in all", style="dim", highlight=False)


@contextmanager
def _step(name: str, *, spin: bool = False) -> Iterator[Callable[[str], None]]:
    """Prints the step with the time it took; the yielded function sets what else is said.

    Args:
        spin: show that something happens, for steps without a progress bar.
    """
    said: list[str] = []
    start = time.perf_counter()
    with stderr().status(name) if spin else nullcontext():
        yield said.append
    line = Text.assemble(("✓ ", "green"), f"{name:<18}", (f"{time.perf_counter() - start:6.1f} s", "cyan"))
    for text in said:
        line.append(f"  {text}")
    stdout().print(line, soft_wrap=True)
