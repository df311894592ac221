"""What TensorRT is given of an encoder: a graph whose types say in which precision each layer runs.

Since TensorRT 11 a network is always strongly typed: there is no flag for FP16 or INT8, the file decides. Two files of
a version lead to two graphs, both with the output `embedding` alone:

- `half`, of the float file: float16 between the centred pixels and the unit vector, which stay in float32.
- `symmetric`, of the INT8 file: the same ranges, so the same calibration, but the only kind of quantisation that
  TensorRT has: signed, zero at zero.

Neither needs pictures, a GPU or TensorRT, so both are tested wherever ONNX Runtime runs.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from services.common.errors import FailedPrecondition
from services.common.manifest import FEATURES_NAME, INPUT_NAME, OUTPUT_NAME
from services.export import contract

# Of the operators that TensorRT's ONNX parser knows (docs/operators.md of onnx-tensorrt, for 10.15), those that image
# encoders are made of and that it takes without restrictions, or with the ones that `problems` checks.
# fmt: off
OPERATORS = frozenset({
    "Abs", "Add", "AveragePool", "BatchNormalization", "Cast", "Clip", "Concat", "Constant", "Conv",
    "DequantizeLinear", "Div", "Dropout", "Elu", "Erf", "Exp", "Expand", "Flatten", "Gather", "Gelu", "Gemm",
    "GlobalAveragePool", "GlobalMaxPool", "GroupNormalization", "HardSigmoid", "HardSwish", "Identity",
    "InstanceNormalization", "LRN", "LayerNormalization", "LeakyRelu", "Log", "LpNormalization", "MatMul", "Max",
    "MaxPool", "Min", "Mul", "Neg", "PRelu", "Pad", "Pow", "QuantizeLinear", "Reciprocal", "ReduceL2", "ReduceMax",
    "ReduceMean", "ReduceSum", "Relu", "Reshape", "Shape", "Sigmoid", "Slice", "Softmax", "Softplus", "Split", "Sqrt",
    "Squeeze", "Sub", "Sum", "Tanh", "Transpose", "Unsqueeze",
})
# fmt: on
# what both TensorRT 10.0 and later ones take
OPSETS = range(9, 21)

# their answers have no sign that their input has not
_KEEP_SIGN = {"AveragePool", "Concat", "DequantizeLinear", "Flatten", "GlobalAveragePool", "Identity", "MaxPool"}
_KEEP_SIGN |= {"QuantizeLinear", "Reshape", "Squeeze", "Transpose", "Unsqueeze"}

_OURS = ("", "ai.onnx")


def half(model: onnx.ModelProto) -> onnx.ModelProto:
    """A float32 encoder with all that is between head and tail in float16.

    Centred pixels reach 131 and a unit vector's square sums reach far more: both are computed in float32.
    """
    made = _embedding_alone(model)
    outside = {*contract.HEAD_NODES, *contract.TAIL_NODES}
    inside = [node for node in made.graph.node if node.name not in outside]
    for node in inside:
        _constants_to_half(node)
    weights = {i.name: i for i in made.graph.initializer}
    for name in sorted({name for node in inside for name in node.input if name in weights}):
        if weights[name].data_type == TensorProto.FLOAT:
            values = numpy_helper.to_array(weights[name])
            limit = float(np.finfo(np.float16).max)
            weights[name].CopyFrom(numpy_helper.from_array(np.clip(values, -limit, limit).astype(np.float16), name))
    produced_inside = {name for node in inside for name in node.output}
    nodes: list[onnx.NodeProto] = []
    casts: dict[str, str] = {}
    for node in made.graph.node:
        is_inside = node.name not in outside
        for place, name in enumerate(node.input):
            if name in weights or not name or is_inside == (name in produced_inside):
                continue
            if name not in casts:
                casts[name] = f"{name}_{'half' if is_inside else 'float'}"
                to = TensorProto.FLOAT16 if is_inside else TensorProto.FLOAT
                nodes.append(helper.make_node("Cast", [name], [casts[name]], casts[name], to=to))
            node.input[place] = casts[name]
        nodes.append(node)
    return _rebuilt(made, nodes)


def symmetric(model: onnx.ModelProto) -> onnx.ModelProto:
    """An INT8 encoder with its activations signed and symmetric, and its biases in float.

    A range lo..hi becomes -m..m with m the larger of both: what was found in calibration still fits, in steps of at
    most twice the size. The quantiser leaves out a Relu where unsigned integers with zero at 0 cut off what is below;
    signed ones do not, so it is put back.

    Raises FailedPrecondition (MODEL_NOT_QUANTIZED) when there is nothing quantised in it.
    """
    made = _embedding_alone(model)
    if not any(node.op_type == "QuantizeLinear" for node in made.graph.node):
        raise FailedPrecondition("the encoder is not quantised", reason="MODEL_NOT_QUANTIZED")
    tensors = {i.name: numpy_helper.to_array(i) for i in made.graph.initializer}
    producers = {name: node for node in made.graph.node for name in node.output}
    new: dict[str, npt.NDArray[np.generic]] = {}
    nodes: list[onnx.NodeProto] = []
    for node in made.graph.node:
        if node.op_type not in ("QuantizeLinear", "DequantizeLinear"):
            nodes.append(node)
            continue
        data, scale_name, zero_name = node.input
        scale, zero = tensors[scale_name].astype(np.float32), tensors[zero_name]
        if zero.dtype == np.int32:
            # TensorRT dequantises nothing wider than 8 bits; per channel along the first axis, which is all there is
            new[node.output[0]] = tensors[data].astype(np.float32) * scale
            continue
        if zero.dtype == np.int8 and not zero.any():
            nodes.append(node)
            continue
        limits = np.iinfo(zero.dtype)
        low, high = ((limit - zero.astype(np.float32)) * scale for limit in (limits.min, limits.max))
        step = (np.maximum(-low, high) / np.iinfo(np.int8).max).astype(np.float32)
        names = f"{scale_name}_symmetric", f"{zero_name}_symmetric"
        new |= {names[0]: step, names[1]: np.zeros_like(zero, np.int8)}
        if data in tensors:  # a constant
            values = (tensors[data].astype(np.float32) - zero) * scale
            new[f"{data}_symmetric"] = np.clip(np.rint(values / step), -127, 127).astype(np.int8)
            data = f"{data}_symmetric"
        elif node.op_type == "QuantizeLinear" and not low.any() and _may_be_negative(data, producers, tensors):
            nodes.append(helper.make_node("Relu", [data], [f"{data}_relu"], f"{data}_relu"))
            data = f"{data}_relu"
        changed = onnx.NodeProto()
        changed.CopyFrom(node)
        changed.input[:] = [data, *names]
        nodes.append(changed)
    return _rebuilt(made, nodes, (numpy_helper.from_array(values, name) for name, values in new.items()))


def problems(model: onnx.ModelProto) -> list[str]:
    """Why TensorRT would refuse a graph, a line each; empty when nothing is known against it."""
    # other domains are looked at where an operator is of one
    found = [f"opset {o.version}" for o in model.opset_import if o.domain in _OURS and o.version not in OPSETS]
    inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True)
    values = {v.name: v for v in (*inferred.graph.input, *inferred.graph.value_info, *inferred.graph.output)}
    tensors = {i.name: i for i in model.graph.initializer}
    for node in model.graph.node:
        if node.domain not in _OURS or node.op_type not in OPERATORS:
            found.append(f"{node.name}: operator {node.domain or 'ai.onnx'}.{node.op_type}")
        attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        if node.op_type in ("AveragePool", "MaxPool") and set(attributes.get("dilations", (1,))) != {1}:
            found.append(f"{node.name}: dilated pooling")
        if node.op_type == "MaxPool" and len(node.output) > 1:
            found.append(f"{node.name}: indices of the maximum")
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            found += [f"{node.name}: {problem}" for problem in _quantisation_problems(node, tensors)]
        # a type that networks may take and answer, and nothing else
        takes_bytes = any(_type_of(name, values, tensors) == TensorProto.UINT8 for name in node.input)
        if takes_bytes and (node.op_type, list(node.input)) != ("Cast", [INPUT_NAME]):
            found.append(f"{node.name}: computes with uint8")
    for name, value in values.items():
        shape = value.type.tensor_type.shape.dim
        if not value.type.tensor_type.HasField("shape") or any(not dim.dim_value for dim in shape[1:]):
            found.append(f"{name}: a dimension other than N is free")
    return found


def _quantisation_problems(node: onnx.NodeProto, tensors: dict[str, onnx.TensorProto]) -> Iterator[str]:
    if len(node.input) != 3 or any(name not in tensors for name in node.input[1:]):
        yield "scale and zero point must be constants"
        return
    scale, zero = (numpy_helper.to_array(tensors[name]) for name in node.input[1:])
    if zero.dtype != np.int8 or zero.any():
        yield f"zero point must be int8 and 0, not {zero.dtype} {zero.ravel()[:4].tolist()}"
    if not (scale > 0).all():
        yield "every scale must be positive"
    if scale.shape != zero.shape:
        yield "as many zero points as scales"


def _type_of(name: str, values: dict[str, onnx.ValueInfoProto], tensors: dict[str, onnx.TensorProto]) -> int:
    if name in tensors:
        return int(tensors[name].data_type)
    return int(values[name].type.tensor_type.elem_type) if name in values else TensorProto.UNDEFINED


def _may_be_negative(
    name: str, producers: dict[str, onnx.NodeProto], tensors: dict[str, npt.NDArray[np.generic]]
) -> bool:
    """Of a tensor before it is made symmetric: unsigned integers with zero at 0 cut off what is below."""
    node = producers.get(name)
    if node is None:
        return name != INPUT_NAME
    if node.op_type == "Relu":
        return False
    if node.op_type == "QuantizeLinear":
        zero = tensors[node.input[2]]
        if zero.dtype == np.uint8 and not zero.any():
            return False
    if node.op_type not in _KEEP_SIGN:
        return True
    inputs = node.input if node.op_type == "Concat" else node.input[:1]
    return any(_may_be_negative(each, producers, tensors) for each in inputs)


def _constants_to_half(node: onnx.NodeProto) -> None:
    """Float32 in the attributes of a node."""
    for attribute in node.attribute:
        if attribute.type == onnx.AttributeProto.TENSOR and attribute.t.data_type == TensorProto.FLOAT:
            attribute.t.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(attribute.t).astype(np.float16)))
        elif node.op_type == "Cast" and attribute.name == "to" and attribute.i == TensorProto.FLOAT:
            attribute.i = TensorProto.FLOAT16
        elif node.op_type == "Constant" and attribute.name in ("value_float", "value_floats"):
            values = np.array(helper.get_attribute_value(attribute), np.float16)
            attribute.CopyFrom(helper.make_attribute("value", numpy_helper.from_array(values)))


def _embedding_alone(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy without the output `features`: an explanation is not worth a plan of its own."""
    made = onnx.ModelProto()
    made.CopyFrom(model)
    kept = [output for output in made.graph.output if output.name != FEATURES_NAME]
    del made.graph.output[:]
    made.graph.output.extend(kept)
    return made


def _rebuilt(
    model: onnx.ModelProto, nodes: list[onnx.NodeProto], added: Iterable[onnx.TensorProto] = ()
) -> onnx.ModelProto:
    """The model with other nodes and further initializers, without what leads nowhere. Checked."""
    wanted, kept = {OUTPUT_NAME}, []
    for node in reversed(nodes):
        if wanted.intersection(node.output):
            kept.append(node)
            wanted.update(node.input)
    weights = {i.name: i for i in (*model.graph.initializer, *added) if i.name in wanted}
    graph = helper.make_graph(
        kept[::-1], model.graph.name, model.graph.input, model.graph.output, list(weights.values())
    )
    made = helper.make_model(
        graph,
        opset_imports=[o for o in model.opset_import if o.domain in _OURS],
        producer_name=model.producer_name,
    )
    made.ir_version = model.ir_version
    contract.check(made)
    return made
