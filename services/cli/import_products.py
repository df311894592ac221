"""`lookalike import`: a folder or a manifest into the catalogue."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from services.cli.addresses import DEFAULT_ADDRESS, Address
from services.cli.console import AsJson, print_json, run, stderr, stdout, table
from services.cli.entries import Entries
from services.cli.folder_source import read_folder
from services.cli.importer import Importer, Outcome
from services.cli.manifest_source import read_manifest
from services.cli.rejects import write_rejects
from services.common.errors import InvalidArgument

MANIFEST_SUFFIXES = (".csv", ".tsv", ".jsonl", ".ndjson")
REJECTS_SHOWN = 5


def import_products(
    path: Annotated[Path, typer.Argument(help="Folder of pictures, or manifest (.csv, .jsonl).", show_default=False)],
    rejects: Annotated[
        Path, typer.Option(help="Where to write what was not imported; a name in .csv makes it CSV.")
    ] = Path("import-rejects.jsonl"),
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Read and check everything, send nothing.")] = False,
    address: Address = DEFAULT_ADDRESS,
    as_json: AsJson = False,
) -> None:
    """Import a folder of pictures, or a CSV or JSONL manifest. What is unchanged is skipped.

    Of a folder, the sub-folder becomes the category and the file name the product. A manifest has a row a picture and
    the columns id, image, title, description, category, brand, colors, sizes, materials, price, currency, in_stock,
    attributes.KEY; only id and image are needed. Rows of one id are pictures of one product.

    Example: lookalike import products.csv --rejects rejects.csv
    """
    outcome = Outcome()
    try:
        run(_import(path, outcome, rejects, address, dry_run), address)
    finally:
        if outcome.took_s:
            _report(outcome, rejects, dry_run, as_json)
    if outcome.rejects:
        raise typer.Exit(1)


def read_source(path: Path) -> Entries:
    """Raises InvalidArgument when there is nothing that can be imported."""
    if path.is_dir():
        return read_folder(path)
    if not path.exists():
        raise InvalidArgument(f"there is no {path}", reason="IMPORT_SOURCE_MISSING")
    if path.suffix.lower() in MANIFEST_SUFFIXES:
        return read_manifest(path)
    raise InvalidArgument(f"{path} is neither a folder nor a .csv or .jsonl file", reason="IMPORT_SOURCE_INVALID")


async def import_entries(source: Entries, outcome: Outcome, address: str, *, dry_run: bool = False) -> None:
    """Imports with a progress bar on stderr.

    Args:
        outcome: is counted up, and right also when this is interrupted.
    """
    from services.cli.client import Client
    from services.cli.known_products import known_products
    from services.cli.progress import progress_bar
    from services.cli.upsert_stream import UpsertStream

    outcome.products_total = len(source.entries)
    outcome.pictures_total = source.picture_count
    outcome.rejects.extend(source.rejects)
    with progress_bar("images") as bar:
        task = bar.add_task("checking" if dry_run else "importing", total=source.picture_count)

        def advance(pictures: int) -> None:
            bar.advance(task, pictures)

        if dry_run:
            await Importer(None, {}, outcome, advance).run(source.entries)
            return
        async with Client(address) as client:
            known = await known_products(client, {entry.product.id for entry in source.entries})
            bar.reset(task)  # the rate counts from here
            async with UpsertStream(client) as stream:
                await Importer(stream, known, outcome, advance).run(source.entries)


async def _import(path: Path, outcome: Outcome, rejects: Path, address: str, dry_run: bool) -> None:
    source = read_source(path)
    for note in source.notes:
        stderr().print(note, style="dim", highlight=False)
    outcome.interrupted = True
    try:
        await import_entries(source, outcome, address, dry_run=dry_run)
        outcome.interrupted = False
    finally:
        outcome.rejects.sort(key=lambda reject: reject.line or 0)
        write_rejects(rejects, outcome.rejects)


def _report(outcome: Outcome, rejects: Path, dry_run: bool, as_json: bool) -> None:
    file = str(rejects) if outcome.rejects else None
    if as_json:
        print_json({**outcome.as_json(), "dry_run": dry_run, "rejects_file": file})
        return
    shown = table("", "products>", "images>")
    shown.add_row("checked" if dry_run else "written", f"{outcome.written:,}", f"{outcome.pictures_written:,}")
    shown.add_row("unchanged", f"{outcome.unchanged:,}", f"{outcome.pictures_unchanged:,}")
    shown.add_row("of", f"{outcome.products_total:,}", f"{outcome.pictures_total:,}")
    stdout().print(shown)
    stdout().print(f"{outcome.took_s:.1f} s, {outcome.pictures_per_s:.0f} images/s", highlight=False)
    errors = stderr()
    for reject in outcome.rejects[:REJECTS_SHOWN]:
        where = f"line {reject.line}" if reject.line else reject.file or reject.id
        errors.print(f"rejected {where}: {reject.message} (reason {reject.reason})", style="red", markup=False)
    if file:
        errors.print(f"{len(outcome.rejects):,} rejected; all of them are in {file}", style="red", markup=False)
    if outcome.interrupted:
        errors.print("not finished: run the same command again to go on", style="yellow")
