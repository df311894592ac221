"""It learns: with each loss and in each regime the tiny network finds clearly more than before."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.utils import parametrize

from services.common.errors import FailedPrecondition, InvalidArgument
from services.trainer.learning.adapters import MAX_SHARE, LowRank, add_adapters, merge_adapters
from services.trainer.learning.backbones import make_backbone
from services.trainer.learning.device import make_fabric
from services.trainer.learning.encoder import embed
from services.trainer.learning.to_onnx import to_onnx
from services.trainer.recipe import ComputeRecipe
from tests.trainer import tiny
from tests.trainer.test_to_onnx import PIXELS, cosine

# of recall@1: 96 queries, so that chance is less than half of it
CLEARLY = 0.2

LOSSES: dict[str, dict[str, Any]] = {
    "triplet": {"name": "triplet"},
    "contrastive": {"name": "contrastive"},
    "normalised softmax": {"name": "normalised-softmax"},
    "arcface": {"name": "arcface"},
    "arcface with sub-centres": {"name": "arcface", "centres": 2},
    "proxy anchor": {"name": "proxy-anchor"},
    "supervised contrastive": {"name": "supcon"},
    "contrastive with a memory": {"name": "contrastive", "memory": 96},
    "triplet with a memory": {"name": "triplet", "memory": 96},
}


@pytest.mark.parametrize("loss", LOSSES)
def test_with_each_loss(tmp_path: Path, loss: str) -> None:
    learnt = tiny.learn(tmp_path, loss=LOSSES[loss], sampler={"batch": 24, "images_per_product": 4})
    assert learnt.gain > CLEARLY
    assert tiny.validation().recall(learnt.encoder) == learnt.progress.best


@pytest.mark.parametrize(
    "different",
    [
        {"model": {"head": "linear", "pooling": "gem", "dropout": 0.1}},
        {"model": {"head": "none", "batch_norm": False}},
        {"optimiser": {"ema": 0.8}},
        {"optimiser": {"label_smoothing": 0.1, "layer_decay": 0.8}},
        {"optimiser": {"pretrained_pull": 0.1, "weight_decay": 0.01}},
        {"optimiser": {"batch_norm": "train"}},
        {"augment": {"mixup": 0.5}},
        {"augment": {"policy": "trivial"}},
    ],
    ids=str,
)
def test_with_what_a_recipe_can_add(tmp_path: Path, different: dict[str, Any]) -> None:
    assert tiny.learn(tmp_path, **different).gain > CLEARLY


def test_in_mixed_precision(tmp_path: Path) -> None:
    fabric = make_fabric(ComputeRecipe(accelerator="cpu", precision="bf16"))
    seen: set[torch.dtype] = set()

    def look(module: torch.nn.Module, _: Any, made: torch.Tensor) -> None:
        if isinstance(module, torch.nn.Conv2d) and torch.is_grad_enabled():
            seen.add(made.dtype)

    handle = torch.nn.modules.module.register_module_forward_hook(look)
    try:
        learnt = tiny.learn(tmp_path, fabric=fabric)
    finally:
        handle.remove()
    assert seen == {torch.bfloat16}
    assert learnt.gain > CLEARLY
    assert {weight.dtype for weight in learnt.encoder.parameters()} == {torch.float32}


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_one_that_is_asked_for_is_a_clear_error() -> None:
    with pytest.raises(FailedPrecondition) as caught:
        make_fabric(ComputeRecipe(accelerator="cuda"))
    assert caught.value.reason == "DEVICE_MISSING"


# --- regimes ----------------------------------------------------------------------------------------------------------


def test_the_full_regime_trains_every_weight(tmp_path: Path) -> None:
    learnt = tiny.learn(tmp_path, optimiser={"epochs": 1})
    after = learnt.encoder.backbone.state_dict()
    weights = [name for name, _ in learnt.encoder.backbone.named_parameters()]
    assert all(not torch.equal(after[name], learnt.start[name]) for name in weights)


@pytest.mark.parametrize("batch_norm", ["frozen", "train"])
def test_a_frozen_backbone_stays_bit_by_bit_and_its_head_learns(tmp_path: Path, batch_norm: str) -> None:
    learnt = tiny.learn(
        tmp_path,
        model={"head": "linear", "dimension": 8},
        loss={"name": "supcon"},
        sampler={"images_per_product": 4},
        optimiser={"regime": "frozen", "epochs": 12, "batch_norm": batch_norm, "weight_decay": 0.1},
    )
    after = learnt.encoder.backbone.state_dict()
    assert list(after) == list(learnt.start)
    assert all(torch.equal(tensor, learnt.start[name]) for name, tensor in after.items())
    assert learnt.gain > CLEARLY


def test_where_nothing_is_left_to_train_it_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument, match="nothing") as caught:
        tiny.learn(
            tmp_path,
            model={"head": "none", "batch_norm": False},
            loss={"name": "triplet"},
            optimiser={"regime": "frozen"},
        )
    assert caught.value.reason == "RECIPE_INVALID"


def test_adapters_learn_while_the_kernels_stay(tmp_path: Path) -> None:
    learnt = tiny.learn(tmp_path, optimiser={"regime": "adapters", "epochs": 20})
    backbone = learnt.encoder.backbone
    adapters = [module for module in backbone.modules() if isinstance(module, LowRank)]
    assert len(adapters) == len(tiny.CHANNELS)
    assert learnt.gain > CLEARLY
    # only what the adapters hold was trained
    trained = {id(weight) for weight in backbone.parameters() if weight.requires_grad}
    assert trained == {id(weight) for adapter in adapters for weight in adapter.parameters()}
    assert all(bool(adapter.up.any()) for adapter in adapters)
    state = backbone.state_dict()
    for name, before in learnt.start.items():
        module, _, last = name.rpartition(".")
        kept = f"{module}.parametrizations.{last}.original"
        assert torch.equal(state[kept if kept in state else name], before)


def test_adapters_are_merged_into_what_is_exported(tmp_path: Path) -> None:
    learnt = tiny.learn(tmp_path, optimiser={"regime": "adapters", "epochs": 2})
    encoder = learnt.encoder.eval()
    exported = to_onnx(encoder, tiny.SIDE)
    assert cosine(encoder, exported) >= 0.9999
    vectors = embed(encoder, PIXELS)
    merge_adapters(encoder)
    plain = to_onnx(encoder, tiny.SIDE)
    assert [node.op_type for node in exported.graph.node] == [node.op_type for node in plain.graph.node]
    torch.testing.assert_close(embed(encoder, PIXELS), vectors)
    assert {type(m) for m in encoder.backbone.modules() if isinstance(m, torch.nn.Conv2d)} == {torch.nn.Conv2d}
    state = encoder.backbone.state_dict()
    assert sorted(state) == sorted(learnt.start)
    kernels = [name for name, tensor in state.items() if tensor.dim() == 4]
    assert len(kernels) == len(tiny.CHANNELS)
    assert not any(torch.equal(state[name], learnt.start[name]) for name in kernels)


@pytest.mark.parametrize("name", ["bundled", "efficientnet-lite2", "resnet50"])
def test_under_five_percent_of_a_real_network_are_trained(name: str) -> None:
    network = make_backbone(name, "" if name == "bundled" else "none").network
    before = sum(weight.numel() for weight in network.parameters())
    pixels = torch.randn(1, 3, 64, 64)
    with torch.inference_mode():
        wanted = network.eval()(pixels)
        share = add_adapters(network)
        # it starts from the pretrained network
        torch.testing.assert_close(network(pixels), wanted)
    trained = sum(weight.numel() for weight in network.parameters() if weight.requires_grad)
    assert share == pytest.approx(trained / before)
    assert 0.005 < share < MAX_SHARE
    assert any(parametrize.is_parametrized(module) for module in network.modules())
