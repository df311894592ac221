"""Rounds the weights of a quantised network so that its answers change least, not the weights (GPTQ, Frantar 2022).

The nearest integer is the best for each weight alone. But what comes into a convolution is correlated, neighbouring
pixels above all, so the error of one weight can be made good by the next ones. Rounded so, 7-bit weights came closer to
float than 8-bit ones rounded to nearest, at no cost when serving.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
from onnx import helper, numpy_helper

from services.common.manifest import INPUT_NAME

# of the quantiser's reduced range; 2 * 64 * 255 still fits into 16 bits
LIMIT = 64
# places looked at in each picture for each convolution
PLACES = 96
BATCH = 4
# inputs whose correlation is used together: nearly all there is to gain, at a tenth of the time of using all
BLOCK = 64
# of the mean variance, added to each: keeps the inverse sane where inputs hardly vary
DAMPING = 0.01

Floats = npt.NDArray[np.float64]


class Moments:
    """Sums over patches [n, groups, d] of what a convolution sees, the second ones within blocks of inputs alone."""

    def __init__(self, groups: int, dimension: int) -> None:
        self.blocks = [slice(start, min(dimension, start + BLOCK)) for start in range(0, dimension, BLOCK)]
        self._count = 0
        self._first = np.zeros((groups, dimension))
        self._second = [np.zeros((groups, *(block.stop - block.start,) * 2)) for block in self.blocks]

    def add(self, patches: npt.NDArray[np.float32]) -> None:
        self._count += len(patches)
        self._first += patches.sum(axis=0)
        by_group = patches.transpose(1, 0, 2)
        for block, second in zip(self.blocks, self._second, strict=True):
            part = by_group[:, :, block]
            second += part.transpose(0, 2, 1) @ part

    @property
    def mean(self) -> Floats:
        """[groups, d]"""
        return self._first / self._count

    def covariance(self, number: int) -> Floats:
        """Of a block, [groups, b, b]."""
        mean = self.mean[:, self.blocks[number]]
        return self._second[number] / self._count - mean[:, :, None] * mean[:, None, :]


def round_weights(quantized: onnx.ModelProto, original: onnx.ModelProto, pixels: npt.NDArray[np.uint8]) -> None:
    """Replaces the integers of every quantised convolution's weights and bias, in place; scales stay as they are.

    Dilated convolutions keep the nearest integers. Depthwise ones gain most: the nine pixels that a filter sees are
    nearly the same, and so the errors of its weights add up unless they are made to cancel.

    Args:
        quantized: QDQ, int8 weights per output channel with zero point 0, int32 biases.
        original: the float network that it was made of, with the same names.
        pixels: uint8 [n, S, S, 3] of typical pictures, some dozens.
    """
    weights = {i.name: i for i in original.graph.initializer}
    integers = {i.name: i for i in quantized.graph.initializer}
    dequantize = {n.output[0]: n for n in quantized.graph.node if n.op_type == "DequantizeLinear"}
    originals = {node.name: node for node in original.graph.node if _is_plain(node)}
    moments = _moments(original, list(originals.values()), pixels)
    for node in quantized.graph.node:
        if node.name not in originals or node.input[1] not in dequantize:
            continue
        source, quantizer = originals[node.name], dequantize[node.input[1]]
        weight, seen = numpy_helper.to_array(weights[source.input[1]]), moments[node.name]
        groups = seen.mean.shape[0]
        rows = weight.reshape(groups, len(weight) // groups, -1).astype(np.float64)
        scale = numpy_helper.to_array(integers[quantizer.input[1]]).astype(np.float64).reshape(groups, -1, 1)
        parts = [round_rows(rows[:, :, b] / scale, seen.covariance(n)) for n, b in enumerate(seen.blocks)]
        rounded = np.concatenate(parts, axis=2)
        _store(integers[quantizer.input[0]], rounded.reshape(weight.shape))
        if len(node.input) > 2:
            # the covariance leaves out the mean: what rounding does to it goes into the bias
            change = ((rows - rounded * scale) @ seen.mean[:, :, None]).reshape(-1)
            bias = dequantize[node.input[2]]
            step = numpy_helper.to_array(integers[bias.input[1]])
            _store(integers[bias.input[0]], numpy_helper.to_array(integers[bias.input[0]]) + np.rint(change / step))


def round_rows(rows: Floats, covariance: Floats) -> Floats:
    """Integers [..., out, d] near `rows` that make the variance of (rows - integers) @ x small.

    Args:
        rows: [..., out, d], in units of one integer step.
        covariance: [..., d, d], of x.
    """
    size = rows.shape[-1]
    variance = np.trace(covariance, axis1=-2, axis2=-1) / size
    damped = covariance + np.eye(size) * (DAMPING * variance + 1e-9)[..., None, None]
    # what varies most is rounded first, while there is most left to make good with
    order = np.argsort(-np.diagonal(damped, axis1=-2, axis2=-1), kind="stable")
    across, down = order[..., None, :], order[..., :, None]
    ordered = np.take_along_axis(np.take_along_axis(damped, across, axis=-1), down, axis=-2)
    spread = np.swapaxes(np.linalg.cholesky(np.linalg.inv(ordered)), -1, -2)
    left, rounded = np.take_along_axis(rows, across, axis=-1), np.empty_like(rows)
    for column in range(size):
        nearest = np.clip(np.rint(left[..., column]), -LIMIT, LIMIT)
        error = (left[..., column] - nearest) / spread[..., column, column, None]
        left[..., column + 1 :] -= error[..., None] * spread[..., column, None, column + 1 :]
        np.put_along_axis(rounded, across[..., column : column + 1], nearest[..., None], axis=-1)
    return rounded


def _moments(
    model: onnx.ModelProto, convolutions: list[onnx.NodeProto], pixels: npt.NDArray[np.uint8]
) -> dict[str, Moments]:
    """Of the input patches of each convolution, by its name."""
    probe = onnx.ModelProto()
    probe.CopyFrom(model)
    inputs = sorted({node.input[0] for node in convolutions})
    probe.graph.output.extend(helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in inputs)
    session = onnxruntime.InferenceSession(probe.SerializeToString(), providers=["CPUExecutionProvider"])
    kernels = {i.name: (i.dims[2], i.dims[3]) for i in model.graph.initializer if len(i.dims) == 4}
    rng = np.random.default_rng(0)
    moments: dict[str, Moments] = {}
    for start in range(0, len(pixels), BATCH):
        seen = dict(zip(inputs, session.run(inputs, {INPUT_NAME: pixels[start : start + BATCH]}), strict=True))
        for node in convolutions:
            patches = _patches(seen[node.input[0]], node, kernels[node.input[1]], rng)
            moments.setdefault(node.name, Moments(*patches.shape[1:])).add(patches)
    return moments


def _patches(
    seen: npt.NDArray[np.float32], node: onnx.NodeProto, kernel: tuple[int, int], rng: np.random.Generator
) -> npt.NDArray[np.float32]:
    """Laid out as the weights, at random places of [pictures, channels, height, width].

    Returns:
        [n, groups, channels of a group * kernel area]
    """
    attributes = _attributes(node)
    top, left, bottom, right = attributes.get("pads", (0, 0, 0, 0))
    down, across = attributes.get("strides", (1, 1))
    padded = np.pad(seen, ((0, 0), (0, 0), (top, bottom), (left, right)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, kernel, axis=(2, 3))[:, :, ::down, ::across]
    pictures, _, height, width = windows.shape[:4]
    count = min(PLACES, height * width) * pictures
    places = rng.integers(0, pictures, count), rng.integers(0, height, count), rng.integers(0, width, count)
    taken: npt.NDArray[np.float32] = windows[places[0], :, places[1], places[2]]
    return taken.reshape(count, attributes.get("group", 1), -1)


def _is_plain(node: onnx.NodeProto) -> bool:
    """Whether what its output channels see are dense patches."""
    return node.op_type == "Conv" and set(_attributes(node).get("dilations", (1,))) == {1}


def _attributes(node: onnx.NodeProto) -> dict[str, Any]:
    return {a.name: helper.get_attribute_value(a) for a in node.attribute}


def _store(tensor: onnx.TensorProto, values: Floats) -> None:
    dtype = helper.tensor_dtype_to_np_dtype(tensor.data_type)
    tensor.CopyFrom(numpy_helper.from_array(values.astype(dtype), tensor.name))
