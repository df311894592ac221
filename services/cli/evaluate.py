"""`lookalike evaluate`: measures any encoder on any labelled photographs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from services.cli.console import AsJson, errors_as_lines, fail, print_json, stderr, stdout
from services.cli.evaluation_tables import (
    as_plain,
    print_categories,
    print_compatibilities,
    print_results,
    print_robustness,
    print_sizes,
)
from services.cli.progress import progress_bar
from services.common.errors import FailedPrecondition, NotFound
from services.common.images import PREPROCESSING
from services.common.manifest import MODEL_FILE, MODEL_NAME, Manifest
from services.evaluation.compatibility import Compatibility, check_dimensions, compatibility
from services.evaluation.inference import (
    Encoder,
    Progress,
    decode_photographs,
    embed_protocols,
    open_encoder,
    pictures_of,
)
from services.evaluation.metrics import Vectors
from services.evaluation.protocols import Protocol, protocols
from services.evaluation.results import measure
from services.evaluation.robustness import Robustness, pictures_to_embed, robustness
from services.evaluation.sizes import sizes
from services.export.adding import manifest_beside
from services.export.publish import verify, versions_in
from services.photographs.checks import BrokenFile, check_files, check_overlap
from services.photographs.dataset import find_photographs, guess_source
from services.photographs.photograph import Photograph, Splits


class SourceOption(StrEnum):
    FOLDER = "folder"
    MANIFEST = "manifest"
    GROCERY = "grocery"


class SplitOption(StrEnum):
    TRAIN = "train"
    VALIDATION = "validation"
    TEST = "test"
    ALL = "all"


def evaluate(
    model: Annotated[str, typer.Option(help="Number of a version, or an ONNX file.")],
    data: Annotated[Path, typer.Option(help="Folder of photographs, CSV or JSONL file, or Grocery Store Dataset.")],
    against: Annotated[
        str | None,
        typer.Option(help="Number of an older version, or an ONNX file: search in what it has embedded too."),
    ] = None,
    source: Annotated[SourceOption | None, typer.Option(help="How to read it. Default: by what is there.")] = None,
    split: Annotated[
        SplitOption | None,
        typer.Option(help="Photographs to ask with. Default: validation; all, when the data has no splits."),
    ] = None,
    by_category: Annotated[bool, typer.Option("--by-category", help="A table of every category too.")] = False,
    with_sizes: Annotated[
        bool, typer.Option("--sizes", help="Recall of shorter, 8-bit and one-bit vectors too.")
    ] = False,
    with_robustness: Annotated[
        bool, typer.Option("--robustness", help="Ask with corrupted photographs too; takes minutes.")
    ] = False,
    queries: Annotated[int, typer.Option(min=0, help="Corrupt at most so many photographs; 0: all.")] = 0,
    severities: Annotated[str, typer.Option(help="Of the corruptions, 1 to 5, with commas.")] = "1,2,3,4,5",
    repository: Annotated[Path, typer.Option(help="Triton's model repository.")] = Path("model_repository"),
    as_json: AsJson = False,
) -> None:
    """Measure an encoder on photographs of which the product is known.

    Photographs are looked for among the training photographs (without splits, each among all others), and among one
    catalogue picture of each product where there are any. Folders are PRODUCT/1.jpg or CATEGORY/PRODUCT/1.jpg, below
    train, validation, test and catalogue if wanted; a file has the columns path, product, split, category, catalogue.

    With --against, queries of the model are looked for in the older one's vectors too: how well a new version finds
    before the collection has been embedded again.

    Example: lookalike evaluate --model 2 --data ../shared/data/grocery --by-category
    """
    strengths = _severities(severities)
    with errors_as_lines():
        name, encoder = _open(model, repository)
        older = _open(against, repository) if against else None
        if older:
            check_dimensions(older[1].dimension, encoder.dimension, older[0])
        photographs, broken = _read(data, source or SourceOption(guess_source(data)))
        asked = split or _default_split(photographs)
        found = protocols(photographs, asked.value)
        vectors = _embed(found, encoder)
        results = [measure(protocol, *both) for protocol, both in zip(found, vectors, strict=True)]
        compatible = _compatibilities(found, older[1], vectors) if older else []
        main, (asked_with, gallery) = found[0], vectors[0]
        sized = sizes(asked_with, main.query_ids, gallery, main.gallery_ids, main.own) if with_sizes else []
        robust = _robustness(main, gallery, encoder, queries, strengths) if with_robustness else None
    if as_json:
        facts: dict[str, Any] = {
            "model": name,
            "side": encoder.side,
            "dimension": encoder.dimension,
            "data": str(data),
            "split": asked.value,
        }
        if older:
            facts["against"] = {"model": older[0], "side": older[1].side, "dimension": older[1].dimension}
        files = [{"path": str(file.path), "reason": file.reason} for file in broken]
        print_json(facts | {"broken": files} | as_plain(results, sized, robust, compatible))
        return
    for file in broken:
        stderr().print(f"passed over {file.path}: {file.reason}", markup=False, highlight=False, soft_wrap=True)
    stdout().print(
        f"{name}, S {encoder.side}, D {encoder.dimension}; {asked.value} photographs of {data}", highlight=False
    )
    print_results(results)
    if older:
        print_compatibilities(compatible, older[0], name)
    if by_category:
        for result in results:
            print_categories(result)
    if sized:
        print_sizes(sized)
    if robust:
        print_robustness(robust)


def _severities(text: str) -> tuple[int, ...]:
    numbers = [part.strip() for part in text.split(",")]
    if not all(number in ("1", "2", "3", "4", "5") for number in numbers):
        fail(f"--severities {text!r} is not a list of numbers from 1 to 5, such as 1,3,5")
    return tuple(sorted(set(map(int, numbers))))


def _open(model: str, repository: Path) -> tuple[str, Encoder]:
    """Name for people, and the encoder. Raises NotFound, FailedPrecondition."""
    if model.isdecimal():
        folder = repository / MODEL_NAME / model
        if not folder.is_dir():
            there = ", ".join(map(str, versions_in(repository / MODEL_NAME))) or "none"
            raise NotFound(f"{repository} has no version {model}; there are: {there}", reason="MODEL_NOT_FOUND")
        manifest = verify(folder)
        _check_preprocessing(manifest, str(folder))
        return f"version {model} ({manifest.backbone}, {manifest.served.upper()})", open_encoder(folder / MODEL_FILE)
    file = Path(model)
    if not file.is_file():
        raise NotFound(f"there is no file {file}, and it is no number of a version", reason="MODEL_NOT_FOUND")
    beside = manifest_beside(file)
    if beside is not None:
        _check_preprocessing(Manifest.read_file(beside), str(file))
    return str(file), open_encoder(file)


def _check_preprocessing(manifest: Manifest, name: str) -> None:
    if manifest.preprocessing != PREPROCESSING:
        raise FailedPrecondition(
            f"{name} was made for preprocessing {manifest.preprocessing!r}; this system does {PREPROCESSING!r}",
            reason="PREPROCESSING_MISMATCH",
        )


def _read(data: Path, source: SourceOption) -> tuple[Sequence[Photograph], Sequence[BrokenFile]]:
    photographs = find_photographs(source, path=data)
    with _bar("checking", len(photographs)) as progress:
        checked = check_files(photographs, lambda done, total: progress(done))
    parts = [[p for p in checked.photographs if p.split == name] for name in ("train", "validation", "test")]
    check_overlap(Splits(*parts), checked.fingerprints)
    return checked.photographs, checked.broken


def _default_split(photographs: Sequence[Photograph]) -> SplitOption:
    return SplitOption.VALIDATION if any(p.split for p in photographs) else SplitOption.ALL


def _embed(found: Sequence[Protocol], encoder: Encoder) -> list[tuple[Vectors, Vectors]]:
    """Query and gallery vectors of each protocol."""
    with _bar("embedding", len(pictures_of(found))) as progress:
        return embed_protocols(found, encoder.side, encoder, progress=progress)


def _compatibilities(
    found: Sequence[Protocol], older: Encoder, vectors: Sequence[tuple[Vectors, Vectors]]
) -> list[Compatibility]:
    """Args:
    vectors: query and gallery vectors of each protocol by the new encoder.
    """
    return [
        compatibility(old, new, one.query_ids, one.gallery_ids, one.own)
        for one, old, new in zip(found, _embed(found, older), vectors, strict=True)
    ]


def _robustness(
    protocol: Protocol, gallery: Vectors, encoder: Encoder, queries: int, severities: Sequence[int]
) -> Robustness:
    with _bar("decoding", len(protocol.queries)) as progress:
        pixels = decode_photographs(protocol.queries, encoder.side, progress)
    total = pictures_to_embed(len(pixels), severities=len(severities), queries=queries)
    with _bar("corrupting and embedding", total) as progress:
        return robustness(
            encoder,
            pixels,
            protocol.query_ids,
            gallery,
            protocol.gallery_ids,
            own=protocol.own,
            severities=severities,
            queries=queries,
            progress=progress,
        )


@contextmanager
def _bar(what: str, total: int) -> Iterator[Progress]:
    with progress_bar("pictures") as bar:
        task = bar.add_task(what, total=total)
        yield lambda done: bar.advance(task, done)
