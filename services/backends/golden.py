"""Whether Triton answers with a version what that version answered at its export: no other may serve."""

from __future__ import annotations

import numpy as np

from services.backends.encoder import Encoder, NotFinite
from services.common.errors import FailedPrecondition, InvalidArgument
from services.common.manifest import GOLDEN_COSINE, Manifest, golden_pixels

_UNIT_TOLERANCE = 1e-2


async def check_golden(encoder: Encoder, manifest: Manifest) -> float:
    """The least cosine between a version's golden vectors and what Triton answers for those pictures now.

    Raises:
        FailedPrecondition: GOLDEN_MISMATCH (other vectors, or none of finite numbers and unit length),
            DIMENSION_MISMATCH (another S or D than the manifest's), MODEL_MANIFEST_INVALID (no golden vectors).
        Unavailable, Overloaded: Triton does not answer.
    """
    version = manifest.version
    try:
        golden = manifest.golden_embeddings()
    except ValueError as error:
        raise _invalid(version, f"can't be read: {error}") from None
    if len(golden) == 0 or golden.shape[1] != manifest.dimension:
        raise _invalid(version, f"are {len(golden)} of {golden.shape[-1]} numbers, not some of {manifest.dimension}")
    pixels = np.stack([golden_pixels(each.seed, manifest.side) for each in manifest.golden])
    try:
        answered = await encoder.embed(pixels, version)
    except NotFinite as error:
        raise FailedPrecondition(error.message, reason="GOLDEN_MISMATCH") from None
    except InvalidArgument:
        raise FailedPrecondition(
            f"encoder version {version} does not answer to pictures of {manifest.side} pixels, as its manifest says",
            reason="DIMENSION_MISMATCH",
        ) from None
    if answered.ndim != 2 or answered.shape[1] != manifest.dimension:
        raise FailedPrecondition(
            f"encoder version {version} gives {answered.shape[-1]} dimensions, its manifest says {manifest.dimension}",
            reason="DIMENSION_MISMATCH",
        )
    lengths = np.linalg.norm(answered, axis=1)
    if np.abs(lengths - 1).max() > _UNIT_TOLERANCE:
        raise FailedPrecondition(
            f"encoder version {version} gives vectors of length {lengths.max():.4g}, not 1", reason="GOLDEN_MISMATCH"
        )
    cosine = float(np.min(np.sum(answered * golden, axis=1)))
    if not cosine >= GOLDEN_COSINE[manifest.served]:
        raise FailedPrecondition(
            f"encoder version {version} does not reproduce its golden vectors: cosine {cosine:.4f}",
            reason="GOLDEN_MISMATCH",
        )
    return cosine


def _invalid(version: int, what: str) -> FailedPrecondition:
    return FailedPrecondition(
        f"the golden vectors in the manifest of version {version} {what}", reason="MODEL_MANIFEST_INVALID"
    )
