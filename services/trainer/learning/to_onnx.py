"""A trained encoder as ONNX that keeps the encoder contract."""

from __future__ import annotations

import copy
import io
import logging
import warnings
from itertools import pairwise

import onnx
import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from services.export import contract
from services.trainer.learning.adapters import merge_adapters
from services.trainer.learning.encoder import Encoder

_PIXELS, _POOLED, _MAP = "pixels", "pooled", "map"


class _Graph(nn.Module):
    """Normalised pixels -> embedding before it is made a unit vector, and the last feature map."""

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        self.backbone, self.pooling, self.head = encoder.backbone, encoder.pooling, encoder.head

    def forward(self, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        maps = self.backbone(pixels)
        maps = maps if maps.dim() == 4 else maps[:, :, None, None]
        return self.head(self.pooling(maps)), maps


def to_onnx(encoder: Encoder, side: int) -> onnx.ModelProto:
    """float32, with the second output `features`. The encoder itself is left as it is.

    Args:
        side: S, in pixels.
    """
    normalisation = contract.Normalisation(_three(encoder.mean), _three(encoder.std))
    graph = _Graph(copy.deepcopy(encoder).cpu()).eval()
    merge_adapters(graph)
    _fold_batch_norm(graph)
    file = io.BytesIO()
    with warnings.catch_warnings(), _quiet("torch.onnx"):
        warnings.simplefilter("ignore")
        torch.onnx.export(
            graph,
            (torch.zeros(2, 3, side, side),),
            file,
            dynamo=False,
            opset_version=contract.OPSET,
            input_names=[_PIXELS],
            output_names=[_POOLED, _MAP],
            dynamic_axes={name: {0: "N"} for name in (_PIXELS, _POOLED, _MAP)},
        )
    made = onnx.load_model_from_string(file.getvalue())
    maps = made.graph.output.pop()
    with torch.inference_mode():
        sizes = graph(torch.zeros(1, 3, side, side))[1].shape
    # the exporter takes more dimensions to be free than are
    for dim, size in zip(list(maps.type.tensor_type.shape.dim)[1:], sizes[1:], strict=True):
        dim.dim_value = size
    made.graph.value_info.append(maps)
    made.graph.output[0].type.tensor_type.shape.dim[1].dim_value = encoder.dimension
    return contract.wrap(made, normalisation, features=_MAP)


def _fold_batch_norm(network: nn.Module) -> None:
    """Into the convolution or the linear layer that it follows or goes before, where they are neighbours in a sequence:
    fewer nodes to quantise. What is left the engines fold themselves."""
    for module in list(network.modules()):
        if not isinstance(module, nn.Sequential):
            continue
        # dropout does nothing here
        names = [name for name, part in module._modules.items() if not isinstance(part, nn.Dropout)]
        for first, second in pairwise(names):
            one, two = module._modules[first], module._modules[second]
            if isinstance(one, nn.Conv2d) and isinstance(two, nn.BatchNorm2d):
                module._modules[first] = fuse_conv_bn_eval(one, two)
                module._modules[second] = nn.Identity()
            elif isinstance(one, nn.BatchNorm1d) and isinstance(two, nn.Linear):
                module._modules[second] = _folded_before(one, two)
                module._modules[first] = nn.Identity()


def _folded_before(norm: nn.BatchNorm1d, linear: nn.Linear) -> nn.Linear:
    """linear(norm(x)) as one linear layer."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    scale = norm.weight / torch.sqrt(norm.running_var + norm.eps)
    made = copy.deepcopy(linear)
    with torch.no_grad():
        made.weight.copy_(linear.weight * scale)
        made.bias.copy_(linear.bias + linear.weight @ (norm.bias - norm.running_mean * scale))
    return made


def _three(values: torch.Tensor) -> tuple[float, float, float]:
    first, second, third = (float(value) for value in values.flatten())
    return first, second, third


class _quiet:  # noqa: N801 - used as a function
    """Keeps a logger's warnings of what is meant to be so."""

    def __init__(self, name: str) -> None:
        self._logger = logging.getLogger(name)

    def __enter__(self) -> None:
        self._level = self._logger.level
        self._logger.setLevel(logging.ERROR)

    def __exit__(self, *_: object) -> None:
        self._logger.setLevel(self._level)
