"""`lookalike models`: lists the encoder versions, builds version 1, takes in and hands out single files, retires."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from services.cli import model_versions
from services.cli.addresses import DEFAULT_ROLLOUT_ADDRESS, RolloutAddress
from services.cli.console import AsJson, errors_as_lines, fail, print_json, stdout, table
from services.cli.evaluation_pictures import demo_pictures, find_grocery, grocery_pictures
from services.cli.progress import progress_bar
from services.common.errors import FailedPrecondition
from services.common.images import PREPROCESSING
from services.common.manifest import MODEL_NAME, Manifest
from services.evaluation.inference import Progress
from services.export import adding, bundled
from services.export.precision import MAX_RECALL_DROP, compare
from services.export.publish import Origin, publish, verify, versions_in

VERSION = 1

app = typer.Typer(invoke_without_command=True, pretty_exceptions_enable=False)

Repository = Annotated[Path, typer.Option("--repository", help="Triton's model repository.")]


@app.callback()
def models(
    context: typer.Context,
    repository: Annotated[
        Path, typer.Option("--repository", help="Triton's model repository; looked at when no rollout service runs.")
    ] = Path("model_repository"),
    address: RolloutAddress = DEFAULT_ROLLOUT_ADDRESS,
    as_json: AsJson = False,
) -> None:
    """List the encoder versions: what each is to the system now, and how well it finds. Or one of the commands below.

    Without a running rollout service the files alone are looked at.

    Example: lookalike models
    """
    if context.invoked_subcommand is None:
        model_versions.show(repository, address, as_json)


@app.command()
def retire(
    version: Annotated[int, typer.Argument(min=1, help="Number of the version.")],
    address: RolloutAddress = DEFAULT_ROLLOUT_ADDRESS,
    as_json: AsJson = False,
) -> None:
    """Give up a version that does not serve: its collection goes, Triton unloads it, its files stay.

    When it is the one that served before, there is no way back to it but another rollout.

    Example: lookalike models retire 1
    """
    model_versions.retire(version, address, as_json)


def init_models(
    repository: Path, data: Path | None = None, *, full: bool = False, force: bool = False
) -> tuple[Manifest, bool]:
    """Builds encoder version 1 unless it is there and intact; shows a progress bar.

    Args:
        repository: Triton's model repository.
        data: folder of the Grocery Store Dataset to measure on; None: where it is expected, else the demo's drawings.
        full: measure on all pictures, not on a sample.
        force: build it in any case.

    Returns:
        Its manifest, and whether it was built now. Raises FailedPrecondition (MODEL_DAMAGED, MODEL_MANIFEST_INVALID)
        when there is one that is not intact.
    """
    models = repository / MODEL_NAME
    if not force and (models / str(VERSION)).exists():
        return verify(models / str(VERSION)), False
    grocery = find_grocery(repository, data)
    with _bar("decoding") as progress:
        side = bundled.SIDE
        pictures = (
            grocery_pictures(grocery, side, full=full, progress=progress)
            if grocery
            else demo_pictures(side, full=full, progress=progress)
        )
    with _bar("embedding twice", 2 * len(pictures)) as progress:
        comparison = compare(bundled.build(), pictures, progress)
    origin = Origin(PREPROCESSING, bundled.BACKBONE, training_run="", evaluated_on=pictures.name)
    candidates = (comparison.fp32, comparison.int8)
    return publish(models, VERSION, candidates, comparison.served, origin, replace=force), True


@contextmanager
def _bar(what: str, total: int | None = None) -> Iterator[Progress]:
    with progress_bar("pictures") as bar:
        task = bar.add_task(what, total=total)
        yield lambda done: bar.advance(task, done)


@app.command()
def init(
    repository: Repository = Path("model_repository"),
    data: Annotated[
        Path | None,
        typer.Option(help="Folder of the Grocery Store Dataset, to measure on. Default: the demo's drawings."),
    ] = None,
    full: Annotated[bool, typer.Option("--full", help="Measure on all pictures, not on a sample.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Build it again in the place of the one there.")] = False,
    as_json: AsJson = False,
) -> None:
    """Build encoder version 1 from the packaged network, in FP32 and INT8, and choose which one serves.

    Does nothing when it is there and intact.

    Example: lookalike models init
    """
    with errors_as_lines():
        manifest, built = init_models(repository, data, full=full, force=force)
    if as_json:
        print_json(asdict(manifest) | {"built": built})
        return
    _print_comparison(manifest)
    folder = repository / MODEL_NAME / str(manifest.version)
    stdout().print(f"{folder} {'built' if built else 'is there and intact; --force builds it again'}", highlight=False)


@app.command("list")
def list_models(repository: Repository = Path("model_repository"), as_json: AsJson = False) -> None:
    """Show the versions in the model repository, and whether their files are intact.

    Example: lookalike models list
    """
    rows = []
    for version in versions_in(repository / MODEL_NAME):
        try:
            rows.append(asdict(verify(repository / MODEL_NAME / str(version))) | {"intact": True})
        except FailedPrecondition as error:
            rows.append({"version": version, "intact": False, "problem": error.message})
    if as_json:
        print_json(rows)
        return
    shown = table("version>", "served", "S>", "D>", "recall@1>", "preprocessing", "backbone", "created", "files")
    for row in rows:
        if row["intact"]:
            facts = ("served", "side", "dimension")
            recall = row["metrics"].get("recall@1")
            percent = "" if recall is None else f"{recall:.1%}"
            origin = (row["preprocessing"], row["backbone"], row["created"])
            shown.add_row(str(row["version"]), *(str(row[fact]) for fact in facts), percent, *origin, "intact")
        else:
            shown.add_row(str(row["version"]), *[""] * 7, row["problem"])
    stdout().print(shown)


@app.command()
def add(
    file: Annotated[Path, typer.Argument(help="An encoder as one ONNX file.")],
    manifest: Annotated[
        Path | None, typer.Option(help="What is said about it. Default: the file of its name that ends in .json.")
    ] = None,
    repository: Repository = Path("model_repository"),
    version: Annotated[int | None, typer.Option(min=1, help="Default: the one after the highest there.")] = None,
    as_json: AsJson = False,
) -> None:
    """Put an encoder file into the model repository as a version.

    Checked first: input and output, the sha256 and the preprocessing that its manifest says, and that it answers as it
    did when it was made. Does nothing when a version serves the same file.

    Example: lookalike models add recipes/grocery-encoder.onnx
    """
    with errors_as_lines():
        beside = manifest or adding.manifest_beside(file)
        added = adding.add(repository / MODEL_NAME, file, beside, version)
    if as_json:
        print_json(asdict(added.manifest) | {"added": added.added})
        return
    known = (
        "" if beside else " There was no manifest: no metrics are known, and this preprocessing is taken for its own."
    )
    number = added.manifest.version
    stdout().print(
        f"{file} is version {number} now.{known}" if added.added else f"{file} is version {number} already.",
        markup=False,
        highlight=False,
    )


@app.command()
def export(
    version: Annotated[int, typer.Argument(min=1, help="Number of the version.")],
    out: Annotated[Path, typer.Argument(help="Where to write it, as NAME.onnx; NAME.json gets its manifest.")],
    repository: Repository = Path("model_repository"),
    force: Annotated[bool, typer.Option("--force", help="Replace a file that is there.")] = False,
    as_json: AsJson = False,
) -> None:
    """Copy the served file of a version, with a manifest beside it, to be added elsewhere.

    Example: lookalike models export 2 recipes/grocery-encoder.onnx
    """
    with errors_as_lines():
        if out.suffix != ".onnx":
            fail(f"{out} does not end in .onnx")
        there = [path for path in (out, out.with_suffix(".json")) if path.exists()]
        if there and not force:
            fail(f"{there[0]} exists; --force replaces it")
        manifest = adding.write_standalone(repository / MODEL_NAME / str(version), out)
    if as_json:
        print_json(asdict(manifest))
        return
    size = f"{out.stat().st_size / 1e6:.1f} MB"
    stdout().print(
        f"{out} and {out.with_suffix('.json')} hold version {version}: {manifest.served.upper()}, {size}",
        markup=False,
        highlight=False,
    )


def _print_comparison(manifest: Manifest) -> None:
    variants = manifest.variants
    shown = table("", *(f"{variant.precision.upper()}>" for variant in variants))
    for name, metric, layout in (
        ("recall@1", "recall@1", "{:.1%}"),
        ("recall@5", "recall@5", "{:.1%}"),
        ("size, MB", "size_mb", "{:.1f}"),
        ("ms an image", "ms_per_image", "{:.1f}"),
        ("cosine to FP32", "cosine_to_fp32", "{:.4f}"),
    ):
        values = [variant.metrics.get(metric) for variant in variants]
        shown.add_row(name, *("" if value is None else layout.format(value) for value in values))
    stdout().print(shown)
    recall = {v.precision: v.metrics["recall@1"] for v in variants if "recall@1" in v.metrics}
    if recall.keys() != {"fp32", "int8"}:  # one that was added as a file
        return
    stdout().print(
        f"{manifest.served.upper()} is served: INT8 changes recall@1 by {(recall['int8'] - recall['fp32']) * 100:+.1f} "
        f"points, {-MAX_RECALL_DROP * 100:+.1f} are allowed.\nMeasured on: {manifest.evaluated_on}.",
        highlight=False,
    )
