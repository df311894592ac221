"""Small encoders for pictures of 64 pixels, some of which break the contract: versions for a real Triton."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from services.common.images import PREPROCESSING
from services.common.manifest import MODEL_FILE, MODEL_NAME, Manifest, Variant, sha256_file
from services.export import contract
from services.export.publish import Candidate, Origin, publish
from services.local import triton
from services.local.engines import Engines
from services.local.ports import PortPicker
from services.local.supervisor import Supervisor

CONFIG = Path(__file__).parents[2] / "model_repository" / MODEL_NAME / "config.pbtxt"
SIDE = 64
# colours of 8 x 8 tiles
DIMENSION = 192
MEAN = contract.Normalisation((120.0, 118.0, 115.0), (64.0, 64.0, 64.0))
ORIGIN = Origin(PREPROCESSING, "tiles", "", "")


def tiles(
    project: np.ndarray | None = None, slow_layers: int = 0, scale: float | None = None, name: str = "tiles"
) -> onnx.ModelProto:
    """Embeds a picture as the mean colours of its tiles: no network, and yet it finds a picture that was altered a bit.

    Args:
        project: float32 [192, D], applied to them.
        slow_layers: convolutions that take a few milliseconds each and change nothing.
        scale: what the unit vectors are multiplied by.
    """
    dimension = DIMENSION if project is None else project.shape[1]
    nodes = [
        helper.make_node("AveragePool", ["x"], ["tiles"], "tiles", kernel_shape=[8, 8], strides=[8, 8]),
        helper.make_node("Flatten", ["tiles"], ["colours"], "colours", axis=1),
    ]
    weights, last = [], "colours"
    if project is not None:
        weights.append(numpy_helper.from_array(project.astype(np.float32), "project"))
        nodes.append(helper.make_node("MatMul", [last, "project"], ["projected"], "projected"))
        last = "projected"
    if slow_layers:
        more, extra = _slow(slow_layers)
        nodes += [*more, helper.make_node("Add", [last, "nothing"], ["delayed"], "delayed")]
        weights += extra
        last = "delayed"
    graph = helper.make_graph(
        nodes,
        name,
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3, SIDE, SIDE])],
        [helper.make_tensor_value_info(last, TensorProto.FLOAT, ["N", dimension])],
        weights,
    )
    model = contract.wrap(helper.make_model(graph, opset_imports=[helper.make_opsetid("", contract.OPSET)]), MEAN)
    if scale is not None:
        model.graph.node[-1].output[0] = "unit"
        model.graph.initializer.append(numpy_helper.from_array(np.float32(scale), "scale"))
        model.graph.node.append(helper.make_node("Mul", ["unit", "scale"], ["embedding"], "scaled"))
    return model


def _slow(layers: int) -> tuple[list[onnx.NodeProto], list[onnx.TensorProto]]:
    rng = np.random.default_rng(0)
    weights = [
        numpy_helper.from_array(rng.normal(0, 0.1, (64, 3, 3, 3)).astype(np.float32), "slow_first"),
        numpy_helper.from_array(rng.normal(0, 0.04, (64, 64, 3, 3)).astype(np.float32), "slow_next"),
        numpy_helper.from_array(np.array([1, 2, 3], np.int64), "slow_axes"),
        numpy_helper.from_array(np.float32(0), "zero"),
    ]
    nodes = [helper.make_node("Conv", ["x", "slow_first"], ["slow0"], "slow0", pads=[1, 1, 1, 1])]
    nodes += [
        helper.make_node("Conv", [f"slow{n}", "slow_next"], [f"slow{n + 1}"], f"slow{n + 1}", pads=[1, 1, 1, 1])
        for n in range(layers)
    ]
    nodes += [
        helper.make_node("GlobalAveragePool", [f"slow{layers}"], ["slow_pool"], "slow_pool"),
        helper.make_node("ReduceMean", ["slow_pool"], ["slow_mean"], "slow_mean", axes=[1, 2], keepdims=0),
        helper.make_node("Mul", ["slow_mean", "zero"], ["nothing"], "nothing"),
    ]
    return nodes, [each for each in weights if each.name != "slow_axes"]


def publish_version(models: Path, version: int, model: onnx.ModelProto) -> Manifest:
    return publish(models, version, (Candidate("fp32", model),), "fp32", ORIGIN)


def replace_served(models: Path, version: int, change: Callable[[bytes], bytes]) -> Manifest:
    """Other bytes for a version's file, and a manifest that agrees with them: the hashes tell nothing."""
    folder = models / str(version)
    manifest = Manifest.read(folder)
    served = manifest.served_variant
    changed = change((folder / MODEL_FILE).read_bytes())
    for name in (served.file, MODEL_FILE):
        (folder / name).unlink()
        (folder / name).write_bytes(changed)
    variant = Variant(served.precision, served.file, sha256_file(folder / MODEL_FILE))
    manifest = dataclasses.replace(manifest, variants=(variant,))
    manifest.write(folder)
    return manifest


def make_repository(root: Path) -> Path:
    """A model repository with the real configuration and no version; its model's folder."""
    models = root / "models" / MODEL_NAME
    models.mkdir(parents=True)
    shutil.copy(CONFIG, models / "config.pbtxt")
    return models


def triton_of(engines: Engines, models: Path, data: Path) -> tuple[Supervisor, str]:
    """A Triton that serves these models, not started, and its gRPC address."""
    picker = PortPicker()
    ports = triton.TritonPorts(*(picker.pick("Triton") for _ in range(3)))
    program = triton.program(engines, models.parent, MODEL_NAME, data, data / "log", ports)
    return Supervisor(program), f"127.0.0.1:{ports.grpc}"
