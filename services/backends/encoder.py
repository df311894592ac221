"""Our door to Triton, which hosts the encoder: pixels in, unit vectors out. The only file that imports its SDK."""

from __future__ import annotations

import asyncio
from types import TracebackType

import numpy as np
import numpy.typing as npt
import tritonclient.grpc.aio as triton
from pydantic import Field
from tritonclient.utils import InferenceServerException

from services.common.errors import DeadlineExceeded, InvalidArgument, LookalikeError, Overloaded, Unavailable
from services.common.manifest import INPUT_NAME, MODEL_NAME, OUTPUT_NAME
from services.common.settings import SettingsGroup


class EncoderSettings(SettingsGroup):
    url: str = Field("127.0.0.1:8001", description="Triton's gRPC address, host:port")
    timeout_s: float = Field(
        5.0, gt=0, description="at most this long for one call; a shorter deadline of the caller wins"
    )


class Encoder:
    """Embeds pictures with a version pinned by number. Use as `async with`."""

    def __init__(self, settings: EncoderSettings) -> None:
        self._settings = settings
        self._client: triton.InferenceServerClient | None = None

    async def __aenter__(self) -> Encoder:
        self._client = triton.InferenceServerClient(
            self._settings.url,
            # reconnect within a second after Triton was restarted, not after gRPC's default of up to two minutes
            channel_args=[
                ("grpc.initial_reconnect_backoff_ms", 100),
                ("grpc.max_reconnect_backoff_ms", 1000),
                ("grpc.max_send_message_length", -1),
                ("grpc.max_receive_message_length", -1),
            ],
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        if self._client:
            await self._client.close()

    async def embed(
        self, pixels: npt.NDArray[np.uint8], version: int, timeout_s: float | None = None
    ) -> npt.NDArray[np.float32]:
        """Embeds a batch.

        Args:
            pixels: uint8 [n, S, S, 3], RGB.
            version: of the encoder; never "the latest".
            timeout_s: what is left of the caller's deadline.

        Returns:
            float32 [n, D], unit length.

        Raises:
            Unavailable, Overloaded (the queue is full), DeadlineExceeded.
        """
        limit_s = self._settings.timeout_s if timeout_s is None else min(self._settings.timeout_s, timeout_s)
        if limit_s <= 0:
            raise DeadlineExceeded("the deadline passed before the picture was embedded")
        batch = triton.InferInput(INPUT_NAME, list(pixels.shape), "UINT8")
        batch.set_data_from_numpy(pixels)
        try:
            async with asyncio.timeout(limit_s):
                result = await self._connected.infer(
                    MODEL_NAME,
                    [batch],
                    model_version=str(version),
                    outputs=[triton.InferRequestedOutput(OUTPUT_NAME)],
                    client_timeout=limit_s,
                )
        except (InferenceServerException, TimeoutError) as error:
            raise _translated(error, version) from error
        vectors: npt.NDArray[np.float32] | None = result.as_numpy(OUTPUT_NAME)
        # Triton answers empty tensors without an error when its backend's numpy is not the one it was built for
        if vectors is None or vectors.shape[0] != pixels.shape[0] or not np.isfinite(vectors).all():
            raise Unavailable(f"encoder version {version} gave no usable vectors", reason="ENCODER_UNAVAILABLE")
        return vectors

    async def server_version(self) -> str:
        """Triton's version. Raises Unavailable."""
        try:
            async with asyncio.timeout(self._settings.timeout_s):
                metadata = await self._connected.get_server_metadata(client_timeout=self._settings.timeout_s)
        except (InferenceServerException, TimeoutError) as error:
            raise _translated(error, None) from error
        return str(metadata.version)

    async def is_ready(self, version: int) -> bool:
        """Whether Triton has this version loaded."""
        try:
            async with asyncio.timeout(self._settings.timeout_s):
                return bool(
                    await self._connected.is_model_ready(
                        MODEL_NAME, str(version), client_timeout=self._settings.timeout_s
                    )
                )
        except (InferenceServerException, TimeoutError):
            return False

    @property
    def _connected(self) -> triton.InferenceServerClient:
        if self._client is None:
            raise RuntimeError("Encoder is used outside `async with`")
        return self._client


def _translated(error: InferenceServerException | TimeoutError, version: int | None) -> LookalikeError:
    if isinstance(error, TimeoutError):
        return Unavailable("the encoder did not answer in time", reason="ENCODER_UNAVAILABLE")
    status, message = str(error.status() or ""), str(error.message() or "")
    # a full queue is reported as UNAVAILABLE: the same call again at once would only make it fuller
    if "maximum queue size" in message.lower():
        return Overloaded("the encoder's queue is full", reason="ENCODER_QUEUE_FULL")
    if "DEADLINE_EXCEEDED" in status:
        return Unavailable("the encoder did not answer in time", reason="ENCODER_UNAVAILABLE")
    if "INVALID_ARGUMENT" in status:
        return InvalidArgument(f"encoder version {version} does not take this picture's size", reason="IMAGE_SIZE")
    return Unavailable("the encoder does not answer", reason="ENCODER_UNAVAILABLE")
