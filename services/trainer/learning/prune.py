"""Structured pruning: whole channels go, so that the encoder becomes smaller and quicker on every engine.

Channels are ranked by the norm of all the weights that belong to them, in all layers they run through (DepGraph; Fang
et al. 2023), with the package torch-pruning.
"""

from __future__ import annotations

import torch
import torch_pruning
from torch import nn

from services.common.errors import InvalidArgument
from services.trainer.learning.encoder import Encoder

# channels are left in multiples of this: engines work on blocks of them
ROUND_TO = 8


def prune(encoder: Encoder, share: float, side: int) -> float:
    """Cuts channels of the backbone, and what reads them in the head; the embedding keeps its D.

    Args:
        share: of the channels, in (0, 1).
        side: S, in pixels.

    Returns:
        The share of the backbone's weights that is gone, in [0, 1].

    Raises InvalidArgument (PRUNE_UNSUITABLE) for an encoder without a linear head: its D would change.
    """
    heads = [module for module in encoder.head if isinstance(module, nn.Linear)]
    if not heads:
        raise InvalidArgument("prune needs a linear head", reason="PRUNE_UNSUITABLE")
    before: int = sum(p.numel() for p in encoder.backbone.parameters())
    training = encoder.training
    # what depends on what is found by following gradients
    encoder.eval().requires_grad_(True)
    pruner = torch_pruning.pruner.MagnitudePruner(
        encoder,
        torch.zeros(1, 3, side, side, device=heads[0].weight.device),
        importance=torch_pruning.importance.GroupMagnitudeImportance(p=2),
        pruning_ratio=share,
        round_to=ROUND_TO,
        ignored_layers=heads,
    )
    pruner.step()
    encoder.train(training)
    after: int = sum(p.numel() for p in encoder.backbone.parameters())
    return 1 - after / before
