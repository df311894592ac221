"""Our door to Triton: what it gives, and what it makes of Triton's refusals."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import numpy as np
import pytest

from services.backends.encoder import Encoder, EncoderSettings
from services.common.errors import DeadlineExceeded, InvalidArgument, Overloaded, Unavailable
from services.common.manifest import golden_pixels

pytestmark = pytest.mark.timeout(120)


@pytest.fixture(scope="module")
async def encoder(triton_url: str) -> AsyncIterator[Encoder]:
    async with Encoder(EncoderSettings(url=triton_url, timeout_s=60)) as encoder:
        yield encoder


async def test_pictures_become_unit_vectors(encoder: Encoder) -> None:
    pixels = np.stack([golden_pixels(seed, 224) for seed in (1, 2, 3)])
    vectors = await encoder.embed(pixels, 1)
    assert (vectors.shape, vectors.dtype) == ((3, 1024), np.float32)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-4)
    assert await encoder.is_ready(1)
    assert (await encoder.server_version())[0].isdigit()


async def test_a_full_queue_is_overloaded_and_the_others_are_answered(encoder: Encoder) -> None:
    pixels = golden_pixels(1, 224)[None]
    # the first keep it busy for longer than it takes to send the rest
    asked = [np.repeat(pixels, 32, axis=0)] * 20 + [pixels] * 400
    answers = await asyncio.gather(*(encoder.embed(each, 1) for each in asked), return_exceptions=True)
    refused = [answer for answer in answers if isinstance(answer, BaseException)]
    assert refused
    assert all(isinstance(error, Overloaded) and error.reason == "ENCODER_QUEUE_FULL" for error in refused)
    assert all(error.retry_after_s for error in refused if isinstance(error, Overloaded))
    assert sum(isinstance(answer, np.ndarray) for answer in answers) >= 256


async def test_refusals_have_their_own_errors(encoder: Encoder) -> None:
    pixels = golden_pixels(1, 224)[None]
    with pytest.raises(Unavailable):
        await encoder.embed(pixels, 999)
    assert not await encoder.is_ready(999)
    with pytest.raises(DeadlineExceeded):
        await encoder.embed(pixels, 1, timeout_s=0)
    with pytest.raises((InvalidArgument, Unavailable)):
        await encoder.embed(pixels[:, :100], 1)


async def test_nobody_there_is_unavailable() -> None:
    async with Encoder(EncoderSettings(url="127.0.0.1:1", timeout_s=5)) as encoder:
        with pytest.raises(Unavailable):
            await encoder.embed(golden_pixels(1, 224)[None], 1, timeout_s=2)
        with pytest.raises(Unavailable):
            await encoder.server_version()
