"""A version with the second output `features` is served by the same Triton with the same configuration."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import tritonclient.grpc.aio as triton
from tritonclient.utils import InferenceServerException

from services.common.manifest import MODEL_FILE, MODEL_NAME, golden_pixels
from services.evaluation.inference import embed, open_session
from services.export.publish import Candidate, publish
from services.local.engines import Engines
from services.local.ports import PortPicker
from services.local.supervisor import Supervisor
from services.local.triton import TritonPorts, program
from tests.unit.test_export import ORIGIN, tiny

CONFIG = Path(__file__).parents[2] / "model_repository" / MODEL_NAME / "config.pbtxt"


async def test_only_the_embedding_is_answered(engines: Engines, tmp_path: Path) -> None:
    models = tmp_path / "models" / MODEL_NAME
    for version, features in ((1, ""), (2, "r")):
        publish(models, version, (Candidate("fp32", tiny(seed=version, features=features)),), "fp32", ORIGIN)
    shutil.copy(CONFIG, models)
    picker = PortPicker()
    ports = TritonPorts(*(picker.pick("Triton") for _ in range(3)))
    pixels = np.stack([golden_pixels(seed, 16) for seed in range(5)])
    server = program(engines, models.parent, MODEL_NAME, tmp_path / "data", tmp_path / "log", ports)
    async with Supervisor(server), triton.InferenceServerClient(f"127.0.0.1:{ports.grpc}") as client:
        image = triton.InferInput("image", list(pixels.shape), "UINT8")
        image.set_data_from_numpy(pixels)
        for version in ("1", "2"):
            answer = await client.infer(MODEL_NAME, [image], model_version=version)
            expected = embed(open_session(models / version / MODEL_FILE), pixels)
            np.testing.assert_allclose(answer.as_numpy("embedding"), expected, atol=1e-5)
            assert [output["name"] for output in answer.get_response(as_json=True)["outputs"]] == ["embedding"]
        with pytest.raises(InferenceServerException, match="features"):
            await client.infer(
                MODEL_NAME, [image], model_version="2", outputs=[triton.InferRequestedOutput("features")]
            )
