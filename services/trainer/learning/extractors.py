"""Any feature extractor in ONNX as a backbone: what it expects to see, and its graph up to the last features."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
from google.protobuf.message import DecodeError
from onnx import TensorProto, helper, numpy_helper, version_converter

from services.common.errors import InvalidArgument
from services.common.manifest import FEATURES_NAME
from services.export.contract import HEAD_NODES, OPSET, TAIL_NODES, Normalisation


@dataclass(frozen=True, slots=True)
class Extractor:
    """Args:
    model: opset 17; float32 [N, 3, H, W], normalised -> float32 [N, C, h, w] or [N, C].
    normalisation: what it expects, where the file says so.
    """

    model: onnx.ModelProto
    normalisation: Normalisation | None


def read_extractor(path: Path) -> Extractor:
    """An encoder that keeps the contract, without its head and tail; or any file with one picture [N, 3, H, W] as its
    input, whose first output is taken. Quantised files can't be trained.

    Raises InvalidArgument (BACKBONE_UNSUITABLE).
    """
    try:
        model = onnx.load(path)
    except (OSError, DecodeError) as error:
        raise InvalidArgument(f"{path} can't be read: {error}", reason="BACKBONE_UNSUITABLE") from None
    if any(node.op_type in ("QuantizeLinear", "DequantizeLinear") for node in model.graph.node):
        raise InvalidArgument(f"{path} is quantised; train from its FP32 file", reason="BACKBONE_UNSUITABLE")
    opset = next((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), 0)
    if opset != OPSET:
        model = version_converter.convert_version(model, OPSET)
    if any(node.name in HEAD_NODES for node in model.graph.node):
        return without_contract(model)
    initial = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in initial]
    dims = inputs[0].type.tensor_type.shape.dim
    if len(inputs) != 1 or len(dims) != 4 or dims[1].dim_value != 3:
        raise InvalidArgument(f"{path} needs one input float32 [N, 3, H, W]", reason="BACKBONE_UNSUITABLE")
    del model.graph.output[1:]
    return Extractor(model, None)


def without_contract(model: onnx.ModelProto) -> Extractor:
    """The backbone of an encoder that keeps the contract: from normalised pixels to its last feature map, where that is
    an output, or else to what is before its pooling."""
    graph = model.graph
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    nodes = {node.name: node for node in graph.node}
    _, centred, scaled, nchw = HEAD_NODES
    mean = constants[nodes[centred].input[1]][0]
    std = constants[nodes[scaled].input[1]][0] if scaled in nodes else np.ones(3)
    pixels, features = nodes[nchw].output[0], nodes[TAIL_NODES[0]].input[0]
    ends = {*HEAD_NODES, *TAIL_NODES}
    kept = [node for node in graph.node if node.name not in ends]
    # the pool before the tail goes too: a backbone ends in a feature map
    if any(output.name == FEATURES_NAME for output in graph.output):
        features = FEATURES_NAME
        kept = _before(kept, features)
    elif kept[-1].op_type == "GlobalAveragePool" and kept[-1].output[0] == features:
        features = kept.pop().input[0]
    used = {name for node in kept for name in node.input}
    shape: list[str | int | None] = ["N", 3, "H", "W"]
    made = helper.make_graph(
        kept,
        "extractor",
        [helper.make_tensor_value_info(pixels, TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info(features, TensorProto.FLOAT, None)],
        [tensor for tensor in graph.initializer if tensor.name in used],
    )
    normalisation = Normalisation(_three(mean), _three(std))
    return Extractor(helper.make_model(made, opset_imports=[helper.make_opsetid("", OPSET)]), normalisation)


def _before(nodes: Sequence[onnx.NodeProto], name: str) -> list[onnx.NodeProto]:
    """Those that the tensor of that name is made by, in their order."""
    wanted, found = {name}, []
    for node in reversed(nodes):
        if wanted & set(node.output):
            wanted |= set(node.input)
            found.append(node)
    return found[::-1]


def _three(values: npt.NDArray[np.floating]) -> tuple[float, float, float]:
    first, second, third = (float(value) for value in values)
    return first, second, third
