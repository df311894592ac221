"""The encoder contract in ONNX: how any backbone becomes a file that the system can serve.

Input `image`: uint8 [N, S, S, 3], RGB, 0..255. Output `embedding`: float32 [N, D], unit length. N is free, S and D
are fixed in the file. Everything between pixels and unit vectors is inside the graph, so that a client in any
language, on any engine, cannot normalise differently.

A second output `features`, float32 [N, C, H, W], the last feature map, is allowed: explanations are made of it. Who
serves an encoder asks for `embedding` alone.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from services.common.errors import FailedPrecondition
from services.common.manifest import FEATURES_NAME, INPUT_NAME, OUTPUT_NAME

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
    """side: S, in pixels. dimension: D. features: C, H and W of the last feature map, when it is an output."""

    side: int
    dimension: int
    features: tuple[int, int, int] | None = None


def wrap(backbone: onnx.ModelProto, normalisation: Normalisation, features: str = "") -> onnx.ModelProto:
    """Puts the contract's head and tail around a backbone.

    Args:
        backbone: opset 17; one input float32 [N, 3, S, S], RGB, normalised; one output float32 [N, D] or [N, D, 1, 1].
        normalisation: what its input has been through.
        features: name of the backbone's last feature map, float32 [N, C, H, W], to be an output too; "": it is not.

    Returns:
        A checked model. Raises FailedPrecondition (MODEL_CONTRACT_BROKEN) when it does not keep the contract.
    """
    if features:
        backbone = _with_features(backbone, features)
    pixels, pooled = backbone.graph.input[0], backbone.graph.output[0]
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
    nodes.append(helper.make_node("Flatten", [pooled.name], [flat], flat, axis=1))
    nodes.append(helper.make_node("LpNormalization", [flat], [OUTPUT_NAME], unit, axis=1, p=2))
    dimension = pooled.type.tensor_type.shape.dim[1].dim_value
    graph = helper.make_graph(
        nodes,
        "image_encoder",
        [helper.make_tensor_value_info(INPUT_NAME, TensorProto.UINT8, ["N", side, side, 3])],
        [helper.make_tensor_value_info(OUTPUT_NAME, TensorProto.FLOAT, ["N", dimension]), *backbone.graph.output[1:]],
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
    names = [output.name for output in model.graph.output]
    if len(model.graph.input) != 1 or names not in ([OUTPUT_NAME], [OUTPUT_NAME, FEATURES_NAME]):
        raise _broken(
            f"must have one input, and the output {OUTPUT_NAME!r}, or {OUTPUT_NAME!r} and {FEATURES_NAME!r}; "
            f"it has {len(model.graph.input)} inputs and the outputs {names}"
        )
    image, embedding = model.graph.input[0], model.graph.output[0]
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
    return Shape(side, dimension, _feature_shape(model.graph.output[1]) if len(names) > 1 else None)


def _feature_shape(features: onnx.ValueInfoProto) -> tuple[int, int, int]:
    dims = _dims(features)
    if features.type.tensor_type.elem_type != TensorProto.FLOAT or len(dims) != 4 or dims[0] or not all(dims[1:]):
        raise _broken(f"needs {FEATURES_NAME!r} to be float32 [N, C, H, W] with nothing but N free; it has {dims}")
    return dims[1], dims[2], dims[3]


def _with_features(backbone: onnx.ModelProto, name: str) -> onnx.ModelProto:
    """A copy of the backbone in which the tensor `name` is called `features` and is its second output."""
    made = onnx.ModelProto()
    made.CopyFrom(backbone)
    inferred = onnx.shape_inference.infer_shapes(made).graph
    known = {value.name: value for value in (*inferred.value_info, *inferred.output)}
    if name not in known or len(_dims(known[name])) != 4:
        raise _broken(f"has no tensor {name!r} of four dimensions to be {FEATURES_NAME!r}")
    # whatever had that name before gets another one
    names = {FEATURES_NAME: f"{FEATURES_NAME}_before", name: FEATURES_NAME}
    for node in made.graph.node:
        node.input[:] = [names.get(tensor, tensor) for tensor in node.input]
        node.output[:] = [names.get(tensor, tensor) for tensor in node.output]
    for value in (*made.graph.input, *made.graph.output, *made.graph.value_info):
        value.name = names.get(value.name, value.name)
    for weight in made.graph.initializer:
        weight.name = names.get(weight.name, weight.name)
    output = made.graph.output.add()
    output.CopyFrom(known[name])
    output.name = FEATURES_NAME
    output.type.tensor_type.shape.dim[0].dim_param = "N"
    return made


def _dims(value: onnx.ValueInfoProto) -> list[int]:
    """Sizes, 0 where free."""
    return [d.dim_value for d in value.type.tensor_type.shape.dim]


def _a_row(name: str, values: tuple[float, float, float], side: int) -> onnx.TensorProto:
    """The three values, repeated for a row of pixels [S, 3]: broadcasting three alone is many times slower."""
    return numpy_helper.from_array(np.tile(np.array(values, np.float32), (side, 1)), name)


def _broken(what: str) -> FailedPrecondition:
    return FailedPrecondition(f"the encoder {what}", reason="MODEL_CONTRACT_BROKEN")
