"""Which weights are trained, and how fast each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from services.common.errors import InvalidArgument
from services.trainer.learning.adapters import LowRank, add_adapters
from services.trainer.learning.encoder import Encoder
from services.trainer.learning.objective import Objective
from services.trainer.recipe import OptimiserRecipe, Regime


def prepare(encoder: Encoder, regime: Regime) -> None:
    """Freezes what the regime does not train, and adds adapters where it wants them."""
    if regime is Regime.FROZEN:
        for parameter in encoder.backbone.parameters():
            parameter.requires_grad_(False)
    elif regime is Regime.ADAPTERS:
        add_adapters(encoder.backbone)


def make_optimiser(
    objective: Objective, stages: Sequence[Sequence[nn.Module]], recipe: OptimiserRecipe
) -> torch.optim.AdamW:
    """AdamW (Loshchilov and Hutter 2019) with a rate for every stage of the backbone, the head, and the loss.

    Biases and normalisation weights do not decay. Each group keeps its full rate as `full_rate`.

    Args:
        stages: of the backbone, from the pixels up.

    Raises InvalidArgument (RECIPE_INVALID) when nothing is left to be trained.
    """
    groups: list[dict[str, Any]] = []
    encoder = objective.encoder
    for place, modules in enumerate(stages):
        rate = recipe.backbone_rate * recipe.layer_decay ** (len(stages) - 1 - place)
        parameters = [parameter for module in modules for parameter in module.parameters(recurse=False)]
        parameters += [weight for module in modules for weight in _adapters(module)]
        groups += _groups(parameters, rate, recipe.weight_decay)
    head = [*encoder.pooling.parameters(), *encoder.head.parameters()]
    groups += _groups(head, recipe.head_rate, recipe.weight_decay)
    groups += _groups(list(objective.loss.parameters()), recipe.loss_rate, 0.0)
    if not groups:
        raise InvalidArgument(
            "with a frozen backbone, no head, and a loss without weights, nothing is left to be trained",
            reason="RECIPE_INVALID",
        )
    return torch.optim.AdamW(groups)


def _adapters(module: nn.Module) -> list[nn.Parameter]:
    return [weight for part in module.modules() if isinstance(part, LowRank) for weight in part.parameters()]


def _groups(parameters: Sequence[nn.Parameter], rate: float, decay: float) -> list[dict[str, Any]]:
    trained = [p for p in parameters if p.requires_grad]
    parted = (([p for p in trained if p.dim() > 1], decay), ([p for p in trained if p.dim() <= 1], 0.0))
    return [
        {"params": some, "lr": rate, "full_rate": rate, "weight_decay": weight_decay}
        for some, weight_decay in parted
        if some
    ]


class Pull:
    """Decay of the backbone's weights towards where they started, not towards zero (L2-SP; Li et al. 2018).

    Args:
        strength: share of the way back in each step, times the rate; 0 does nothing.
    """

    def __init__(self, backbone: nn.Module, strength: float) -> None:
        self._strength = strength
        trained = [p for p in backbone.parameters() if p.requires_grad] if strength else []
        self._start = [(p, p.detach().clone()) for p in trained]

    def __call__(self, rate: float) -> None:
        with torch.no_grad():
            for parameter, start in self._start:
                parameter.lerp_(start, min(1.0, rate * self._strength))
