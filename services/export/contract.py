"""The encoder contract in ONNX: how any backbone becomes a file that the system can serve.

Input `image`: uint8 [N, S, S, 3], RGB, 0..255. Output `embedding`: float32 [N, D], unit length. N is free, S and D
are fixed in the file. Everything between pixels and unit vectors is inside the graph, so that a client in any
language, on any engine, cannot normalise differently.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from services.common.errors import FailedPrecondition
from services.common.manifest import INPUT_NAME, OUTPUT_NAME

OPSET = 17
# What opset 17 needs: engines refuse a file that states more than they know, whatever it holds.
IR_VERSION = 8
# Nodes before and after the backbone; `quantize` keeps them in float.
HEAD_NODES = ("image_float", "image_centred", "image_scaled", "image_nchw")
TAIL_NODES = ("features_flat", "features_unit")


@dataclass(frozen=True, slots=True)
class Normalisation:
    """What a backbone was trained on: (pixel - mean) / std with a value for R, G and B each, in the scale 0..255."""

    mean: tuple[float, float, float]
    std: tuple[float, float, float] = (1.0, 1.0, 1.0)


@dataclass(frozen=True, slots=True)
class Shape:
    """side: S, in pixels. dimension: D."""

    side: int
    dimension: int


def wrap(backbone: onnx.ModelProto, normalisation: Normalisation) -> onnx.ModelProto:
    """Puts the contract's head and tail around a backbone.

    Args:
        backbone: opset 17; one input float32 [N, 3, S, S], RGB, normalised; one output float32 [N, D] or [N, D, 1, 1].
        normalisation: what its input has been through.

    Returns:
        A checked model. Raises FailedPrecondition (MODEL_CONTRACT_BROKEN) when it does not keep the contract.
    """
    pixels, features = backbone.graph.input[0], backbone.graph.output[0]
    side = pixels.type.tensor_type.shape.dim[2].dim_value
    constants = [_a_row("pixel_mean", normalisation.mean, side), _a_row("pixel_std", normalisation.std, side)]
    as_float, centred, scaled, nchw = HEAD_NODES
    nodes = [
        helper.make_node("Cast", [INPUT_NAME], [as_float], as_float, to=TensorProto.FLOAT),
        helper.make_node("Sub", [as_float, "pixel_mean"], [centred], centred),
        helper.make_node("Div", [centred, "pixel_std"], [scaled], scaled),
        helper.make_node("Transpose", [scaled], [pixels.name], nchw, perm=[0, 3, 1, 2]),
    ]
    if normalisation.std == (1.0, 1.0, 1.0):
        constants.pop()
        del nodes[2]
        nodes[2].input[0] = centred
    nodes.extend(backbone.graph.node)
    flat, unit = TAIL_NODES
    nodes.append(helper.make_node("Flatten", [features.name], [flat], flat, axis=1))
    nodes.append(helper.make_node("LpNormalization", [flat], [OUTPUT_NAME], unit, axis=1, p=2))
    dimension = features.type.tensor_type.shape.dim[1].dim_value
    graph = helper.make_graph(
        nodes,
        "image_encoder",
        [helper.make_tensor_value_info(INPUT_NAME, TensorProto.UINT8, ["N", side, side, 3])],
        [helper.make_tensor_value_info(OUTPUT_NAME, TensorProto.FLOAT, ["N", dimension])],
        [*backbone.graph.initializer, *constants],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], producer_name="lookalike")
    model.ir_version = IR_VERSION
    check(model)
    return model


def check(model: onnx.ModelProto) -> Shape:
    """The model's shape. Raises FailedPrecondition (MODEL_CONTRACT_BROKEN) when it does not keep the contract."""
    try:
        onnx.checker.check_model(model, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise _broken(f"is not valid ONNX: {error}") from None
    if len(model.graph.input) != 1 or len(model.graph.output) != 1:
        raise _broken("must have exactly one input and one output")
    (image,), (embedding,) = model.graph.input, model.graph.output
    image_dims, embedding_dims = _dims(image), _dims(embedding)
    side = image_dims[1] if len(image_dims) == 4 else 0
    dimension = embedding_dims[1] if len(embedding_dims) == 2 else 0
    if (image.name, image.type.tensor_type.elem_type, image_dims) != (
        INPUT_NAME,
        TensorProto.UINT8,
        [0, side, side, 3],
    ):
        raise _broken(f"needs one input {INPUT_NAME!r}, uint8 [N, S, S, 3]; it has {image.name!r} {image_dims}")
    found = (embedding.name, embedding.type.tensor_type.elem_type, embedding_dims)
    if found != (OUTPUT_NAME, TensorProto.FLOAT, [0, dimension]):
        raise _broken(f"needs one output {OUTPUT_NAME!r}, float32 [N, D]; it has {embedding.name!r} {embedding_dims}")
    if side <= 0 or dimension <= 0:
        raise _broken("must fix S and D, and nothing but N may be free")
    return Shape(side, dimension)


def _dims(value: onnx.ValueInfoProto) -> list[int]:
    """Sizes, 0 where free."""
    return [d.dim_value for d in value.type.tensor_type.shape.dim]


def _a_row(name: str, values: tuple[float, float, float], side: int) -> onnx.TensorProto:
    """The three values, repeated for a row of pixels [S, 3]: broadcasting three alone is many times slower."""
    return numpy_helper.from_array(np.tile(np.array(values, np.float32), (side, 1)), name)


def _broken(what: str) -> FailedPrecondition:
    return FailedPrecondition(f"the encoder {what}", reason="MODEL_CONTRACT_BROKEN")
