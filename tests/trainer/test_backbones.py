"""Backbones: what they give, how their weights come in, and that ONNX and torch see the same."""

from __future__ import annotations

import copy
import math
from collections import Counter
from pathlib import Path
from urllib.error import URLError

import numpy as np
import onnx
import pytest
import torch
import torchvision
from efficientnet_lite_pytorch import EfficientNet
from onnx import TensorProto, helper
from onnx2torch.node_converters.pad import OnnxPadStatic
from safetensors.torch import save_file
from torch import nn

from services.common.errors import FailedPrecondition, InvalidArgument
from services.common.manifest import MODEL_NAME
from services.evaluation.inference import embed, open_session
from services.export import bundled, contract
from services.export.quantize import quantize
from services.trainer.learning.backbones import (
    IMAGENET,
    LITE,
    TORCHVISION,
    UNIT_RANGE,
    Backbone,
    _LiteFeatures,
    from_onnx,
    make_backbone,
    stages_of,
)
from services.trainer.learning.encoder import Encoder, to_tensor
from services.trainer.learning.extractors import read_extractor, without_contract
from services.trainer.learning.fit import _freeze_statistics
from services.trainer.learning.to_onnx import to_onnx
from services.trainer.recipe import ModelRecipe
from tests.trainer import tiny

# it takes three steps of a half before its first block, and is made for 299
SMALLEST = {"inception_v3": 96}
CHANNELS = {
    "bundled": 1024,
    "efficientnet-lite0": 1280,
    "efficientnet-lite2": 1280,
    "resnet18": 512,
    "resnet34": 512,
    "resnet50": 2048,
    "resnet101": 2048,
    "vgg16": 512,
    "inception_v3": 2048,
    "densenet121": 1024,
    "efficientnet_b0": 1280,
}


def features(made: Backbone, pixels: torch.Tensor) -> torch.Tensor:
    with torch.inference_mode():
        found: torch.Tensor = made.network.eval()(pixels)
    return found


@pytest.mark.parametrize("name", ["bundled", *LITE, *TORCHVISION])
def test_every_name_makes_a_feature_map(name: str) -> None:
    made = make_backbone(name, "none")
    assert made.channels == CHANNELS[name]
    maps = features(made, torch.randn(2, 3, *[SMALLEST.get(name, 64)] * 2))
    assert maps.shape[:2] == (2, made.channels)
    assert maps.dim() == 4
    # a map of several places, not one that is pooled
    assert maps.shape[2] == maps.shape[3] >= 1
    assert bool(maps.isfinite().all())
    staged = Counter(id(weight) for stage in made.stages for m in stage for weight in m.parameters(recurse=False))
    assert staged == Counter({id(weight): 1 for weight in made.network.parameters()})
    assert len(made.stages) == 5
    # from the pixels up
    first, last = made.stages[0][0], made.stages[-1][-1]
    order = [m for m in made.network.modules() if any(True for _ in m.parameters(recurse=False))]
    assert (order[0], order[-1]) == (first, last)


def test_stages_of_a_small_network_are_not_empty() -> None:
    small = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(), nn.Conv2d(4, 4, 1))
    stages = stages_of(small)
    assert [len(stage) for stage in stages] == [1, 1]


# --- weights ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["bundled", "efficientnet-lite0"])
def test_packaged_weights_are_pretrained_and_none_are_random(name: str) -> None:
    packaged, again, random = make_backbone(name), make_backbone(name), make_backbone(name, "none")
    states = [made.network.state_dict() for made in (packaged, again, random)]
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])
    kernel = next(key for key, tensor in states[0].items() if tensor.dim() == 4)
    assert not torch.equal(states[0][kernel], states[2][kernel])


def test_lite_sees_and_learns_what_the_package_does() -> None:
    package = EfficientNet.from_name("efficientnet-lite0").eval()
    ours, pixels = _LiteFeatures(copy.deepcopy(package)), torch.randn(2, 3, 96, 96)
    theirs = package.extract_features(pixels)
    torch.testing.assert_close(ours(pixels), theirs)
    # trained with frozen statistics
    ours.train()
    _freeze_statistics(ours)
    made = ours(pixels)
    torch.testing.assert_close(made, theirs, rtol=1e-3, atol=1e-4)
    made.square().mean().backward()
    theirs.square().mean().backward()
    for name in ("weight", "bias"):
        for ours_norm, norm in (
            (ours.stem[0][1], package._bn0),
            (ours.blocks[3]._depthwise_conv[1], package._blocks[3]._bn1),
        ):
            torch.testing.assert_close(getattr(ours_norm, name).grad, getattr(norm, name).grad, rtol=1e-2, atol=1e-6)
    kernel, other = ours.blocks[0]._project_conv[0].weight.grad, package._blocks[0]._project_conv.weight.grad
    torch.testing.assert_close(kernel, other, rtol=1e-2, atol=1e-6)
    assert torch.equal(ours.stem[0][1].running_mean, package._bn0.running_mean)


def test_what_each_was_trained_to_see() -> None:
    assert make_backbone("bundled").normalisation == bundled.NORMALISATION
    assert make_backbone("efficientnet-lite0").normalisation == UNIT_RANGE
    assert make_backbone("resnet18", "none").normalisation == IMAGENET
    # torchvision's own weights of it come from TensorFlow: -1..1, which its `transform_input` makes of ImageNet's
    inception = make_backbone("inception_v3", "none").normalisation
    assert inception == contract.Normalisation((127.5,) * 3, (127.5,) * 3)


def test_weights_come_from_a_file(tmp_path: Path) -> None:
    file = tiny.write_backbone(tmp_path / "tiny.onnx")
    torch.manual_seed(1)
    state = make_backbone(str(file)).network.state_dict()
    wanted = {name: torch.rand(tensor.shape).to(tensor.dtype) for name, tensor in state.items()}
    save_file(wanted, tmp_path / "weights.safetensors")
    found = make_backbone(str(file), str(tmp_path / "weights.safetensors")).network.state_dict()
    assert all(torch.equal(found[name], tensor) for name, tensor in wanted.items())


@pytest.mark.parametrize("what", ["missing", "junk", "of another network"])
def test_a_file_that_does_not_fit_is_refused(tmp_path: Path, what: str) -> None:
    weights = tmp_path / "weights.safetensors"
    if what == "junk":
        weights.write_bytes(b"junk")
    elif what == "of another network":
        save_file({"weight": torch.zeros(3)}, weights)
    with pytest.raises(InvalidArgument, match=r"weights\.safetensors") as caught:
        make_backbone("resnet18", str(weights))
    assert caught.value.reason == "WEIGHTS_UNSUITABLE"


@pytest.mark.parametrize(("name", "weights"), [("bundled", "imagenet"), ("bundled", "best"), ("resnet18", "best")])
def test_unknown_weights_are_refused(name: str, weights: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torchvision.models.get_model", forbidden)
    with pytest.raises(InvalidArgument) as caught:
        make_backbone(name, weights)
    assert caught.value.reason == "WEIGHTS_UNSUITABLE"


def forbidden(*_: object, **__: object) -> None:
    raise AssertionError("nothing must be downloaded to find that out")


@pytest.mark.parametrize("weights", ["", "imagenet"])
def test_without_a_network_imagenet_weights_are_a_clear_error(
    weights: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def offline(url: str, *_: object, **__: object) -> None:
        asked.append(url)
        raise URLError("no route to host")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr("torch.hub.download_url_to_file", offline)
    with pytest.raises(FailedPrecondition, match=r"resnet18.*no route to host.*model\.weights") as caught:
        make_backbone("resnet18", weights)
    assert caught.value.reason == "WEIGHTS_UNAVAILABLE"
    assert len(asked) == 1
    assert asked[0].startswith("https://download.pytorch.org/")


def test_imagenet_weights_are_torchvisions_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What its loader finds is what is trained from: here a file that stands for the download."""
    torch.manual_seed(3)
    state = torchvision.models.resnet18(weights=None).state_dict()
    name = torchvision.models.ResNet18_Weights.DEFAULT.url.rpartition("/")[2]

    def download(url: str, file: str, *_: object, **__: object) -> None:
        assert url.endswith(name)
        torch.save(state, file)

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr("torch.hub.download_url_to_file", download)
    found = make_backbone("resnet18").network.state_dict()
    assert torch.equal(found["0.weight"], state["conv1.weight"])
    assert torch.equal(found["7.1.conv2.weight"], state["layer4.1.conv2.weight"])


# --- ONNX -------------------------------------------------------------------------------------------------------------


def run(model: onnx.ModelProto, pixels: np.ndarray) -> np.ndarray:
    session = open_session(model.SerializeToString(), threads=1)
    found: np.ndarray = session.run(None, {session.get_inputs()[0].name: pixels})[0]
    return found


def test_an_extractor_gives_in_torch_what_it_gives_in_onnx_runtime(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).normal(size=(3, 3, 40, 48)).astype(np.float32)
    made = tiny.backbone(tmp_path / "tiny.onnx")
    np.testing.assert_allclose(features(made, torch.tensor(pixels)), run(tiny.extractor(), pixels), atol=1e-5)
    assert made.channels == tiny.CHANNELS[-1]
    assert made.normalisation == IMAGENET


def test_the_bundled_network_gives_in_torch_what_it_gives_in_onnx_runtime() -> None:
    made, pixels = make_backbone("bundled"), tiny.pixels_of(range(3), range(1), bundled.SIDE)
    mean = torch.tensor(made.normalisation.mean).view(1, 3, 1, 1)
    pooled = features(made, to_tensor(pixels) - mean).mean(dim=(2, 3))
    wanted = embed(open_session(bundled.build().SerializeToString()), pixels)
    cosine = (nn.functional.normalize(pooled, dim=1) * torch.tensor(wanted)).sum(dim=1)
    assert cosine.min() > 0.99999
    assert not any(isinstance(m, OnnxPadStatic) for m in made.network.modules())


def test_an_encoder_that_keeps_the_contract_is_taken_apart(tmp_path: Path) -> None:
    """Its own normalisation, its map before the pool; a version's FP32 file is trained on."""
    onnx.save(tiny.contract_encoder(5), tmp_path / "model_fp32.onnx")
    made = make_backbone(str(tmp_path / "model_fp32.onnx"))
    assert made.normalisation == tiny.NORMALISATION
    pixels = np.random.default_rng(0).normal(size=(2, 3, 32, 32)).astype(np.float32)
    np.testing.assert_allclose(features(made, torch.tensor(pixels)), run(tiny.extractor(5), pixels), atol=1e-5)


def test_a_version_that_was_trained_here_is_trained_on(tmp_path: Path) -> None:
    """Its head and pooling are in the file too, between the map and the unit vector."""
    first = tiny.encoder(tmp_path / "tiny.onnx").eval()
    onnx.save(to_onnx(first, tiny.SIDE), tmp_path / "model_fp32.onnx")
    made = make_backbone(str(tmp_path / "model_fp32.onnx"))
    pixels = torch.tensor(np.random.default_rng(0).normal(size=(2, 3, 32, 32)).astype(np.float32))
    with torch.inference_mode():
        wanted = first.backbone(pixels)
    maps = features(made, pixels)
    assert made.channels == tiny.CHANNELS[-1]
    torch.testing.assert_close(maps, wanted, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("pads", [(0, 0, 1, 1), (1, 1, 1, 1), (1, 0, 0, 2), (2, 1, 1, 0)])
def test_padding_before_a_maximum_repeats_the_edge_and_finds_the_same(pads: tuple[int, ...]) -> None:
    node = helper.make_node("MaxPool", ["x"], ["y"], "pool", kernel_shape=[3, 3], strides=[2, 2], pads=list(pads))
    shape: list[str | int] = ["N", 3, "H", "W"]
    graph = helper.make_graph(
        [node],
        "pool",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", contract.OPSET)])
    model.ir_version = contract.IR_VERSION
    network = from_onnx(model)
    padding = [m for m in network.modules() if isinstance(m, OnnxPadStatic | nn.ReplicationPad2d)]
    assert not any(isinstance(m, OnnxPadStatic) and m.constant_value == -math.inf for m in padding)
    # negative everywhere: a pad of zeros would be the maximum
    pixels = -1 - np.random.default_rng(0).random((2, 3, 9, 12)).astype(np.float32)
    np.testing.assert_array_equal(network(torch.tensor(pixels)).numpy(), run(model, pixels))


@pytest.mark.parametrize("name", ["resnet19", "", "bundled.pt"])
def test_an_unknown_name_is_refused_with_the_known_ones(name: str) -> None:
    with pytest.raises(InvalidArgument, match=r"bundled.*resnet50") as caught:
        make_backbone(name)
    assert caught.value.reason == "BACKBONE_UNKNOWN"


def test_a_quantised_file_is_refused(tmp_path: Path) -> None:
    pictures = tiny.pixels_of(range(4), range(2))
    onnx.save(quantize(tiny.contract_encoder(), pictures), tmp_path / "model_int8.onnx")
    with pytest.raises(InvalidArgument, match="quantised") as caught:
        make_backbone(str(tmp_path / "model_int8.onnx"))
    assert caught.value.reason == "BACKBONE_UNSUITABLE"


@pytest.mark.parametrize("what", ["missing", "junk", "grey", "two inputs", "vectors"])
def test_what_is_no_extractor_is_refused(tmp_path: Path, what: str) -> None:
    path = tmp_path / f"{MODEL_NAME}.onnx"
    model = tiny.extractor()
    if what == "junk":
        path.write_bytes(b"junk")
    elif what == "grey":
        model.graph.input[0].type.tensor_type.shape.dim[1].dim_value = 1
    elif what == "two inputs":
        model.graph.input.append(helper.make_tensor_value_info("more", TensorProto.FLOAT, ["N"]))
    elif what == "vectors":
        del model.graph.input[0].type.tensor_type.shape.dim[2:]
    if what not in ("missing", "junk"):
        onnx.save(model, path)
    with pytest.raises(InvalidArgument, match=MODEL_NAME) as caught:
        make_backbone(str(path))
    assert caught.value.reason == "BACKBONE_UNSUITABLE"


def test_an_older_opset_is_converted(tmp_path: Path) -> None:
    model = tiny.extractor()
    model.opset_import[0].version = 11
    onnx.save(model, tmp_path / "old.onnx")
    extractor = read_extractor(tmp_path / "old.onnx")
    assert extractor.model.opset_import[0].version == contract.OPSET
    pixels = np.random.default_rng(0).normal(size=(1, 3, 32, 32)).astype(np.float32)
    np.testing.assert_allclose(run(extractor.model, pixels), run(tiny.extractor(), pixels), atol=1e-5)


def test_pooled_features_are_a_map_of_one_place(tmp_path: Path) -> None:
    """An extractor that ends in [N, C] is taken as it is."""
    onnx.save(tiny.pooled_extractor(), tmp_path / "pooled.onnx")
    made = make_backbone(str(tmp_path / "pooled.onnx"))
    encoder = Encoder(made, ModelRecipe(side=32, dimension=8)).eval()
    pixels = to_tensor(tiny.pixels_of(range(2), range(1)))
    assert encoder.features(pixels).shape == (2, tiny.CHANNELS[-1], 1, 1)
    assert encoder(pixels).shape == (2, 8)


def test_the_extractor_of_an_encoder_ends_before_its_pool() -> None:
    made = without_contract(tiny.contract_encoder(2))
    assert [node.op_type for node in made.model.graph.node][-1] == "Relu"
    assert made.normalisation == tiny.NORMALISATION
