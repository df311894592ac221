"""Our door to Triton, which hosts the encoder: pixels in, unit vectors out; versions are loaded and let go of."""

from __future__ import annotations

import asyncio
import enum
from collections.abc import Collection
from pathlib import Path
from types import TracebackType

import numpy as np
import numpy.typing as npt
import tritonclient.grpc.aio as triton
from pydantic import Field
from tritonclient.utils import InferenceServerException

from services.backends.triton_config import config_of
from services.common.errors import (
    DeadlineExceeded,
    FailedPrecondition,
    InvalidArgument,
    LookalikeError,
    Overloaded,
    Unavailable,
)
from services.common.manifest import INPUT_NAME, MODEL_NAME, OUTPUT_NAME
from services.common.settings import SettingsGroup


class EncoderSettings(SettingsGroup):
    url: str = Field("127.0.0.1:8001", description="Triton's gRPC address, host:port")
    timeout_s: float = Field(
        5.0, gt=0, description="at most this long for one call; a shorter deadline of the caller wins"
    )
    patience_s: float = Field(300.0, gt=0, description="at most this long for a call of a backfill, which waits")
    load_timeout_s: float = Field(120.0, gt=0, description="for loading a version")


class Priority(enum.IntEnum):
    """Triton's, see config.pbtxt: each has its own queue, and the second is served while the first is empty."""

    QUERY = 1
    BACKFILL = 2


class NotFinite(Unavailable):
    """An answer with NaN or infinity in it."""

    reason = "ENCODER_UNAVAILABLE"


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
        self,
        pixels: npt.NDArray[np.uint8],
        version: int,
        timeout_s: float | None = None,
        *,
        priority: Priority = Priority.QUERY,
    ) -> npt.NDArray[np.float32]:
        """Embeds a batch.

        Args:
            pixels: uint8 [n, S, S, 3], RGB.
            version: of the encoder; never "the latest".
            timeout_s: what is left of the caller's deadline.
            priority: BACKFILL waits behind all queries, as long as the settings' `patience_s`, in a queue of its own.

        Returns:
            float32 [n, D], unit length.

        Raises:
            Unavailable (NotFinite among it), Overloaded (the queue is full), DeadlineExceeded.
        """
        most_s = self._settings.timeout_s if priority is Priority.QUERY else self._settings.patience_s
        limit_s = most_s if timeout_s is None else min(most_s, timeout_s)
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
                    priority=int(priority),
                    client_timeout=limit_s,
                )
        except (InferenceServerException, TimeoutError) as error:
            raise _translated(error, version) from error
        vectors: npt.NDArray[np.float32] | None = result.as_numpy(OUTPUT_NAME)
        # Triton answers empty tensors without an error when its backend's numpy is not the one it was built for
        if vectors is None or vectors.shape[0] != pixels.shape[0]:
            raise Unavailable(f"encoder version {version} gave no usable vectors", reason="ENCODER_UNAVAILABLE")
        if not np.isfinite(vectors).all():
            raise NotFinite(f"encoder version {version} gave vectors with numbers that are not finite")
        return vectors

    async def load(self, models: Path, versions: Collection[int]) -> None:
        """Serves these versions beside those that it serves; nothing is asked of Triton when it serves all of them.

        None that is served stops answering for it, whatever is wrong with the new one. One process at a time may load
        and let go: what two name at once, one of them overrules.

        Args:
            models: the model's folder as we see it, where config.pbtxt and the versions are.

        Raises:
            FailedPrecondition: MODEL_MISSING, or MODEL_LOAD_FAILED with Triton's words.
            Unavailable: Triton does not answer.
        """
        loaded = await self.loaded_versions()
        if not set(versions) <= loaded:
            await self._serve(models, {*versions, *loaded})
        missing = set(versions) - await self.loaded_versions()
        if missing:
            raise FailedPrecondition(
                f"Triton does not serve the versions {sorted(missing)}", reason="MODEL_LOAD_FAILED"
            )

    async def keep_only(self, models: Path, versions: Collection[int]) -> None:
        """Lets go of the versions that are not named: calls that wait are answered still, new ones are Unavailable.

        The others answer without a break. Raises as `load`, and ValueError when none is named.
        """
        if not versions:
            raise ValueError("Triton can't serve no version at all")
        loaded = await self.loaded_versions()
        if loaded - set(versions):
            await self._serve(models, loaded & set(versions) or set(versions))

    async def loaded_versions(self) -> set[int]:
        """Versions that answer. Raises Unavailable."""
        try:
            async with asyncio.timeout(self._settings.timeout_s):
                index = await self._connected.get_model_repository_index(client_timeout=self._settings.timeout_s)
        except (InferenceServerException, TimeoutError) as error:
            raise _translated(error, None) from error
        return {
            int(each.version)
            for each in index.models
            if each.name == MODEL_NAME and each.state == "READY" and each.version.isdigit()
        }

    async def _serve(self, models: Path, versions: Collection[int]) -> None:
        """Exactly these.

        They are named in a configuration that goes with the call: so what stands in a folder that nobody named (half
        copied, damaged) does not matter, and Triton knows no other way to let go of one version while others serve.
        """
        # Triton would pass over a version without a folder, and so let go of one that serves
        if gone := [version for version in versions if not (models / str(version)).is_dir()]:
            raise FailedPrecondition(f"{models} has no version {gone[0]}", reason="MODEL_MISSING")
        limit_s = self._settings.load_timeout_s
        config = await asyncio.to_thread(config_of, models, versions)
        try:
            async with asyncio.timeout(limit_s):
                await self._connected.load_model(MODEL_NAME, config=config, client_timeout=limit_s)
        except TimeoutError as error:
            raise Unavailable(
                f"Triton did not load the versions {sorted(versions)} within {limit_s:g} s",
                reason="ENCODER_UNAVAILABLE",
            ) from error
        except InferenceServerException as error:
            if "INVALID_ARGUMENT" in str(error.status()) or "INTERNAL" in str(error.status()):
                raise FailedPrecondition(
                    f"Triton can't load it: {_first_words(str(error.message()))}", reason="MODEL_LOAD_FAILED"
                ) from None
            raise _translated(error, None) from error

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


def _first_words(message: str) -> str:
    """Without the traceback of a Python backend."""
    return " ".join(message.split("\n\nAt:")[0].split())[:500]


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
