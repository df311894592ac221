"""What an encoder file shows only when it is read and run."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from google.protobuf.message import DecodeError

from services.common.errors import FailedPrecondition
from services.evaluation.inference import Pixels, embed, open_session
from services.evaluation.metrics import Vectors


def parse(serialized: bytes, file: Path) -> onnx.ModelProto:
    """Raises FailedPrecondition: MODEL_DAMAGED, MODEL_CONTRACT_BROKEN when its weights are in other files."""
    try:
        model = onnx.load_from_string(serialized)
    except DecodeError:
        raise FailedPrecondition(f"{file} is not ONNX", reason="MODEL_DAMAGED") from None
    if any(tensor.data_location == onnx.TensorProto.EXTERNAL for tensor in model.graph.initializer):
        raise FailedPrecondition(f"{file} has weights in other files; save it as one", reason="MODEL_CONTRACT_BROKEN")
    return model


def answers(model: Path, pixels: Pixels) -> Vectors:
    """float32 [n, D] of uint8 [n, S, S, 3], by ONNX Runtime on the CPU.

    Raises FailedPrecondition (MODEL_CONTRACT_BROKEN) when it can't be run, or they are not finite and of unit length.
    """
    try:
        vectors = embed(open_session(model), pixels)
    except Exception as error:  # ONNX Runtime's have no base of their own
        raise FailedPrecondition(f"the encoder can't be run: {error}", reason="MODEL_CONTRACT_BROKEN") from None
    if not np.isfinite(vectors).all():
        raise FailedPrecondition("the encoder's answers hold NaN or infinity", reason="MODEL_CONTRACT_BROKEN")
    if not np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-3):
        raise FailedPrecondition("the encoder's answers do not have unit length", reason="MODEL_CONTRACT_BROKEN")
    return vectors
