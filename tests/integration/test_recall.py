"""The whole path changes nothing about what the encoder finds: recall through the system equals recall without it."""

from __future__ import annotations

import asyncio
from pathlib import Path

import grpc
import numpy as np
import onnxruntime
import pytest

from services.common.images import decode_image
from services.common.manifest import MODEL_FILE, MODEL_NAME, Manifest
from services.evaluation.metrics import recall_at_k
from services.export.publish import versions_in
from tests.integration.shop import OK, Shop, product

pytestmark = pytest.mark.timeout(900)


def labelled(folder: Path, split: str) -> list[tuple[Path, str]]:
    lines = (folder / f"{split}.txt").read_text().splitlines()
    return [(folder / path.strip(), label.strip()) for path, label, _ in (line.split(",") for line in lines)]


def direct_recall(encoder: Path, grocery: Path) -> float:
    """recall@1 with ONNX Runtime and a matrix product alone."""
    side = Manifest.read(encoder).side
    session = onnxruntime.InferenceSession(encoder / MODEL_FILE, providers=["CPUExecutionProvider"])

    def embed(entries: list[tuple[Path, str]]) -> np.ndarray:
        batches = []
        for start in range(0, len(entries), 16):
            pixels = [decode_image(path.read_bytes(), side) for path, _ in entries[start : start + 16]]
            batches.append(session.run(["embedding"], {"image": np.stack(pixels)})[0])
        return np.concatenate(batches)

    gallery, queries = labelled(grocery, "train"), labelled(grocery, "val")
    return recall_at_k(
        embed(queries), [label for _, label in queries], embed(gallery), [label for _, label in gallery], ks=(1,)
    )[1]


@pytest.mark.parametrize(
    ("engine", "repository"),
    [("lite", "model_repository"), ("standalone", "kept_repository")],
    ids=["version 1 on Milvus Lite", "the kept encoder on Milvus standalone"],
)
async def test_recall_through_the_system(
    make_stack, engine: str, repository: str, grocery: Path, request: pytest.FixtureRequest
) -> None:
    models = request.getfixturevalue(repository)
    encoder = models / MODEL_NAME / str(max(versions_in(models / MODEL_NAME)))
    direct = direct_recall(encoder, grocery)
    if repository == "kept_repository":
        # what its manifest says; integers round in other places on other processors
        assert direct == pytest.approx(Manifest.read(encoder).metrics["recall@1"], abs=0.01)
    async with make_stack(milvus=engine, model_repository=models) as stack, Shop(stack.gateway_address) as shop:
        gallery = labelled(grocery, "train")
        # every photograph a product of its own, so that the nearest photograph decides here as it does there
        pending = [product(f"g{n}", path.read_bytes(), category=f"c{label}") for n, (path, label) in enumerate(gallery)]
        for _ in range(5):  # a busy machine may make the index late; what is unavailable is sent again
            answers = await shop.upsert(pending)
            assert {a.status.code for a in answers} <= {OK, grpc.StatusCode.UNAVAILABLE.value[0]}
            pending = [sent for sent, a in zip(pending, answers, strict=True) if a.status.code != OK]
        assert not pending
        free = asyncio.Semaphore(8)

        async def right(path: Path, label: str) -> bool:
            async with free:
                answer = await shop.search(path.read_bytes(), page_size=1)
            return answer.results[0].product.category == f"c{label}"

        found = await asyncio.gather(*(right(path, label) for path, label in labelled(grocery, "val")))
    assert np.mean(found) == pytest.approx(direct, abs=0.005)
