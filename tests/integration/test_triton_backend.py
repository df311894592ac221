"""The real tritonserver with our backend answers what ONNX Runtime answers, whatever it puts into one batch."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np
import pytest
import tritonclient.grpc.aio as triton
from tritonclient.utils import InferenceServerException

from services.common.manifest import GOLDEN_COSINE, MODEL_FILE, MODEL_NAME, Manifest, golden_pixels
from services.evaluation.inference import embed, open_session

# as in config.pbtxt
MAX_BATCH, MAX_QUEUE = 32, 256


@pytest.fixture(scope="module")
def manifest(model_repository: Path) -> Manifest:
    return Manifest.read(model_repository / MODEL_NAME / "1")


@pytest.fixture(scope="module")
def pixels(manifest: Manifest) -> np.ndarray:
    """uint8 [16, S, S, 3], all different."""
    return np.stack([golden_pixels(seed, manifest.side) for seed in range(16)])


@pytest.fixture(scope="module")
def expected(model_repository: Path, pixels: np.ndarray) -> np.ndarray:
    return embed(open_session(model_repository / MODEL_NAME / "1" / MODEL_FILE), pixels)


@pytest.fixture(scope="module")
async def client(triton_url: str) -> AsyncIterator[triton.InferenceServerClient]:
    async with triton.InferenceServerClient(triton_url) as client:
        yield client


async def infer(client: triton.InferenceServerClient, pixels: np.ndarray, datatype: str = "UINT8") -> np.ndarray:
    image = triton.InferInput("image", list(pixels.shape), datatype)
    image.set_data_from_numpy(pixels)
    answer = await client.infer(MODEL_NAME, [image], model_version="1")
    return answer.as_numpy("embedding")


async def test_it_serves_the_config_unchanged(client: triton.InferenceServerClient) -> None:
    config = (await client.get_model_config(MODEL_NAME, as_json=True))["config"]
    assert config["backend"] == "onnxruntime"
    assert config["max_batch_size"] == MAX_BATCH
    # with one instance, a call that comes just as the one before ends may wait for half a second: see the README there
    assert config["instance_group"][0]["count"] >= 2


@pytest.mark.parametrize("count", [1, 2, 7, 16])
async def test_it_equals_onnx_runtime(
    client: triton.InferenceServerClient, pixels: np.ndarray, expected: np.ndarray, count: int
) -> None:
    vectors = await infer(client, pixels[:count])
    # an environment with numpy 2 would make this float32 [0] without an error
    assert vectors.shape == (count, expected.shape[1])
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(vectors, expected[:count], atol=1e-5)


async def test_requests_of_one_batch_get_their_own_answers(
    client: triton.InferenceServerClient, pixels: np.ndarray, expected: np.ndarray
) -> None:
    before = await executions(client)
    cuts = [(start, start + count) for count in (1, 3, 2, 5, 1) for start in range(0, 16 - count, 2)]
    answers = await asyncio.gather(*(infer(client, pixels[start:stop]) for start, stop in cuts))
    for (start, stop), vectors in zip(cuts, answers, strict=True):
        np.testing.assert_allclose(vectors, expected[start:stop], atol=1e-5)
    # otherwise nothing was put together, and this has shown nothing
    assert await executions(client) - before < len(cuts)


async def test_golden_vectors_are_reproduced(client: triton.InferenceServerClient, manifest: Manifest) -> None:
    pictures = np.stack([golden_pixels(golden.seed, manifest.side) for golden in manifest.golden])
    cosines = np.sum(await infer(client, pictures) * manifest.golden_embeddings(), axis=1)
    assert len(cosines) == 4
    assert cosines.min() >= GOLDEN_COSINE[manifest.served]


@pytest.mark.parametrize(
    ("shape", "datatype", "dtype"),
    [
        ((1, 100, 100, 3), "UINT8", np.uint8),
        ((1, 224, 224, 1), "UINT8", np.uint8),
        ((1, 224, 224, 3), "FP32", np.float32),
        ((MAX_BATCH + 1, 224, 224, 3), "UINT8", np.uint8),
    ],
)
async def test_the_wrong_input_is_refused(
    client: triton.InferenceServerClient, shape: tuple[int, ...], datatype: str, dtype: type
) -> None:
    with pytest.raises(InferenceServerException) as raised:
        await infer(client, np.zeros(shape, dtype), datatype)
    assert raised.value.status() == "StatusCode.INVALID_ARGUMENT"


async def test_a_bad_request_fails_alone(
    client: triton.InferenceServerClient, pixels: np.ndarray, expected: np.ndarray
) -> None:
    small = np.zeros((1, 64, 64, 3), np.uint8)
    calls = [infer(client, small if n % 4 == 1 else pixels[n : n + 1]) for n in range(16)]
    for n, answer in enumerate(await asyncio.gather(*calls, return_exceptions=True)):
        if n % 4 == 1:
            assert isinstance(answer, InferenceServerException)
        else:
            np.testing.assert_allclose(answer, expected[n : n + 1], atol=1e-5)


async def test_a_full_queue_refuses_at_once_and_loses_nothing(
    client: triton.InferenceServerClient, pixels: np.ndarray, expected: np.ndarray
) -> None:
    calls = [infer(client, pixels[n % 16][None]) for n in range(2 * MAX_QUEUE)]
    answers = await asyncio.gather(*calls, return_exceptions=True)
    refused = [answer for answer in answers if isinstance(answer, BaseException)]
    for n, answer in enumerate(answers):
        if not isinstance(answer, BaseException):
            np.testing.assert_allclose(answer[0], expected[n % 16], atol=1e-5)
    assert MAX_QUEUE <= len(answers) - len(refused) < len(answers)
    assert all("maximum queue size" in str(answer) for answer in refused)
    np.testing.assert_allclose(await infer(client, pixels[:1]), expected[:1], atol=1e-5)


async def executions(client: triton.InferenceServerClient) -> int:
    """How many batches version 1 has run."""
    statistics = await client.get_inference_statistics(MODEL_NAME, "1", as_json=True)
    return int(statistics["model_stats"][0].get("execution_count", 0))
