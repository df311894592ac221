"""Vectors from ONNX Runtime: encoders that keep the contract, on pictures in memory or in files."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnxruntime

from services.common.errors import FailedPrecondition
from services.common.images import decode_image
from services.common.manifest import INPUT_NAME, OUTPUT_NAME
from services.evaluation.metrics import Vectors
from services.evaluation.protocols import Protocol
from services.photographs.photograph import Photograph

BATCH = 8

Pixels = npt.NDArray[np.uint8]
Progress = Callable[[int], None]  # pictures done since the last call
# uint8 [n, S, S, 3] to float32 [n, D], unit length
Embed = Callable[[Pixels], Vectors]


@dataclass(frozen=True, slots=True)
class Encoder:
    """An encoder file that keeps the contract; call it with pixels. side: S, in pixels. dimension: D."""

    session: onnxruntime.InferenceSession
    side: int
    dimension: int

    def __call__(self, pixels: Pixels) -> Vectors:
        return embed(self.session, pixels)


def open_session(model: Path | bytes, threads: int = 0) -> onnxruntime.InferenceSession:
    """ONNX Runtime on the CPU.

    Args:
        threads: 0: one for each core.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    # threads that wait by spinning take the cores from whoever else has work
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    source = model if isinstance(model, bytes) else str(model)
    return onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])


def open_encoder(model: Path | bytes, threads: int = 0) -> Encoder:
    """Raises FailedPrecondition (MODEL_CONTRACT_BROKEN) when it is no encoder in ONNX."""
    name = "the model" if isinstance(model, bytes) else str(model)
    try:
        session = open_session(model, threads)
    except Exception as error:  # ONNX Runtime's have no base of their own
        raise FailedPrecondition(f"{name} can't be loaded: {error}", reason="MODEL_CONTRACT_BROKEN") from None
    inputs = {one.name: (one.type, one.shape) for one in session.get_inputs()}
    outputs = {one.name: (one.type, one.shape) for one in session.get_outputs()}
    match inputs, outputs.get(OUTPUT_NAME):
        case {"image": ("tensor(uint8)", [_, int(side), int(width), 3])}, ("tensor(float)", [_, int(dimension)]):
            if side == width and len(inputs) == 1:
                return Encoder(session, side, dimension)
    raise FailedPrecondition(
        f"{name} is no encoder: it needs one input {INPUT_NAME!r}, uint8 [N, S, S, 3], and an output "
        f"{OUTPUT_NAME!r}, float32 [N, D]; it has {inputs} and {outputs}",
        reason="MODEL_CONTRACT_BROKEN",
    )


def embed(
    session: onnxruntime.InferenceSession, pixels: Pixels, batch: int = BATCH, progress: Progress = lambda done: None
) -> Vectors:
    """float32 [n, D] of uint8 [n, S, S, 3]."""
    parts = []
    for start in range(0, len(pixels), batch):
        part = pixels[start : start + batch]
        parts.append(session.run([OUTPUT_NAME], {INPUT_NAME: part})[0])
        progress(len(part))
    return np.concatenate(parts)


def embed_photographs(
    photographs: Sequence[Photograph],
    side: int,
    embed: Embed,
    batch: int = BATCH,
    progress: Progress = lambda done: None,
) -> Vectors:
    """float32 [n, D]; each file is decoded at S while others are embedded, and few are in memory at a time.

    Raises InvalidImage for one that can't be decoded: `services.photographs.checks` finds them first.
    """
    parts = []
    for pixels in _batches(photographs, side, batch):
        parts.append(embed(pixels))
        progress(len(pixels))
    return np.concatenate(parts)


def embed_protocols(
    protocols: Sequence[Protocol],
    side: int,
    embed: Embed,
    batch: int = BATCH,
    progress: Progress = lambda done: None,
) -> list[tuple[Vectors, Vectors]]:
    """Query and gallery vectors, float32 [n, D], of each protocol; a picture that is in several is embedded once.

    Args:
        progress: called with pictures embedded since the last call, `len(pictures_of(protocols))` in all.
    """
    needed = pictures_of(protocols)
    vectors = embed_photographs(needed, side, embed, batch, progress)
    row = {photograph: number for number, photograph in enumerate(needed)}
    return [(vectors[[row[p] for p in each.queries]], vectors[[row[p] for p in each.gallery]]) for each in protocols]


def pictures_of(protocols: Sequence[Protocol]) -> list[Photograph]:
    """Queries and galleries of all of them, each picture once."""
    return list(dict.fromkeys(p for protocol in protocols for p in (*protocol.queries, *protocol.gallery)))


def decode_photographs(photographs: Sequence[Photograph], side: int, progress: Progress = lambda done: None) -> Pixels:
    """uint8 [n, S, S, 3], all in memory. Raises InvalidImage."""
    pixels = np.empty((len(photographs), side, side, 3), np.uint8)
    done = 0
    for part in _batches(photographs, side, BATCH):
        pixels[done : done + len(part)] = part
        done += len(part)
        progress(len(part))
    return pixels


def milliseconds_per_image(
    sessions: Sequence[onnxruntime.InferenceSession], pixels: Pixels, rounds: int = 7
) -> list[float]:
    """Median time of one picture for each session, in batches of 8.

    They take turns, so that whatever else the machine does slows all of them alike.
    """
    times: list[list[float]] = [[] for _ in sessions]
    for turn in range(rounds + 1):
        for session, taken in zip(sessions, times, strict=True):
            start = time.perf_counter()
            embed(session, pixels[:BATCH])
            if turn:  # the first makes buffers
                taken.append((time.perf_counter() - start) * 1000 / len(pixels[:BATCH]))
    return [float(np.median(taken)) for taken in times]


def _batches(photographs: Sequence[Photograph], side: int, batch: int) -> Iterator[Pixels]:
    """uint8 [batch, S, S, 3]; the next one is decoded while the caller works on this one."""

    def decode(photograph: Photograph) -> Pixels:
        return decode_image(photograph.path.read_bytes(), side, photograph.region)

    with ThreadPoolExecutor() as pool:
        coming = [pool.submit(decode, photograph) for photograph in photographs[:batch]]
        for start in range(0, len(photographs), batch):
            ready, coming = coming, [pool.submit(decode, p) for p in photographs[start + batch : start + 2 * batch]]
            yield np.stack([future.result() for future in ready])
