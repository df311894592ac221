"""Which weights are trained, and how fast each."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch

from services.trainer.learning.losses import MetricLoss
from services.trainer.learning.objective import Objective
from services.trainer.learning.optimiser import Pull, make_optimiser, prepare
from services.trainer.recipe import AdversarialRecipe, LossRecipe, OptimiserRecipe, Regime
from tests.trainer import tiny


def made(path: Path, regime: str = "full", **options: Any) -> tuple[Objective, torch.optim.AdamW]:
    torch.manual_seed(0)
    backbone = tiny.backbone(path / "tiny.onnx")
    encoder = tiny.encoder(path / "tiny.onnx", pooling="gem")
    # of this one
    encoder.backbone = backbone.network
    recipe = OptimiserRecipe(regime=Regime(regime), **options)
    prepare(encoder, recipe.regime)
    objective = Objective(encoder, MetricLoss(LossRecipe(), 4, 16), AdversarialRecipe())
    return objective, make_optimiser(objective, backbone.stages, recipe)


def group_of(optimiser: torch.optim.Optimizer, weight: torch.Tensor) -> dict[str, Any]:
    (found,) = (group for group in optimiser.param_groups if any(one is weight for one in group["params"]))
    return found


@pytest.mark.parametrize("regime", list(Regime))
def test_every_weight_that_is_trained_is_in_one_group(tmp_path: Path, regime: str) -> None:
    objective, optimiser = made(tmp_path, regime)
    grouped = Counter(id(weight) for group in optimiser.param_groups for weight in group["params"])
    trained = [weight for weight in objective.parameters() if weight.requires_grad]
    assert grouped == Counter({id(weight): 1 for weight in trained})
    assert trained


def test_rates_of_stages_head_and_loss(tmp_path: Path) -> None:
    objective, optimiser = made(tmp_path, backbone_rate=1e-3, head_rate=2e-2, loss_rate=3e-2, layer_decay=0.5)
    backbone, head = objective.encoder.backbone, objective.encoder.head
    # conv0, its normalisation, conv1 and conv2 are four stages of the five that there could be
    layers = [backbone.conv0, backbone.normal, backbone.conv1, backbone.conv2]
    for distance, layer in enumerate(reversed(layers)):
        assert group_of(optimiser, layer.weight)["lr"] == pytest.approx(1e-3 * 0.5**distance)
        assert group_of(optimiser, layer.bias)["lr"] == pytest.approx(1e-3 * 0.5**distance)
    for weight in (*head.parameters(), objective.encoder.pooling.p):
        assert group_of(optimiser, weight)["lr"] == 2e-2
    assert group_of(optimiser, next(iter(objective.loss.parameters())))["lr"] == 3e-2
    assert all(group["full_rate"] == group["lr"] for group in optimiser.param_groups)


def test_kernels_decay_and_biases_normalisations_and_proxies_do_not(tmp_path: Path) -> None:
    objective, optimiser = made(tmp_path, weight_decay=0.3)
    backbone, head = objective.encoder.backbone, objective.encoder.head
    for weight in (backbone.conv0.weight, backbone.conv2.weight, head[1].weight):
        assert group_of(optimiser, weight)["weight_decay"] == 0.3
    for weight in (
        backbone.conv0.bias,
        backbone.normal.weight,
        head[0].weight,
        head[1].bias,
        objective.encoder.pooling.p,
        *objective.loss.parameters(),
    ):
        assert group_of(optimiser, weight)["weight_decay"] == 0.0


def test_a_regime_trains_what_it_says(tmp_path: Path) -> None:
    for regime, of_backbone in (("full", "all"), ("frozen", "none"), ("adapters", "some")):
        objective, _ = made(tmp_path, regime)
        trained = [weight.requires_grad for weight in objective.encoder.backbone.parameters()]
        assert {"all": all(trained), "none": not any(trained), "some": any(trained) and not all(trained)}[of_backbone]
        assert all(weight.requires_grad for weight in objective.encoder.head.parameters())
        assert all(weight.requires_grad for weight in objective.loss.parameters())


def test_the_pull_goes_back_by_a_share(tmp_path: Path) -> None:
    network = tiny.backbone(tmp_path / "tiny.onnx").network
    network.conv1.weight.requires_grad_(False)
    start = {name: weight.detach().clone() for name, weight in network.named_parameters()}
    pull, none = Pull(network, 20.0), Pull(network, 0.0)
    with torch.no_grad():
        for weight in network.parameters():
            weight.add_(1.0)
    none(1e-2)
    for name, weight in network.named_parameters():
        torch.testing.assert_close(weight.detach(), start[name] + 1.0)
    pull(1e-2)
    for name, weight in network.named_parameters():
        # what is frozen is not moved
        left = 1.0 if name == "conv1.weight" else 1 - 0.2
        torch.testing.assert_close(weight.detach(), start[name] + left)
    pull(1.0)  # never beyond the start
    torch.testing.assert_close(network.conv0.weight.detach(), start["conv0.weight"])
