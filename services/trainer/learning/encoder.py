"""The network that is trained: pixels -> backbone -> pooling -> head -> unit vectors."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn import functional

from services.trainer.learning.backbones import Backbone
from services.trainer.recipe import ModelRecipe


class AveragePooling(nn.Module):
    """float32 [N, C, h, w] -> [N, C]."""

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        return maps.mean(dim=(2, 3))


class GemPooling(nn.Module):
    """Generalised mean (Radenović, Tolias, Chum 2018): between average (p = 1) and maximum; p is learnt.

    float32 [N, C, h, w] -> [N, C].
    """

    def __init__(self, p: float = 3.0, floor: float = 1e-6) -> None:
        super().__init__()
        self.p = nn.Parameter(torch.tensor(p))
        self.floor = floor

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        return maps.clamp(min=self.floor).pow(self.p).mean(dim=(2, 3)).pow(1.0 / self.p)


class Encoder(nn.Module):
    """Args:
    backbone: what `make_backbone` gives.
    recipe: pooling and head.
    """

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self, backbone: Backbone, recipe: ModelRecipe) -> None:
        super().__init__()
        self.backbone = backbone.network
        self.pooling = GemPooling() if recipe.pooling == "gem" else AveragePooling()
        # constants, not weights: they are no part of the state
        for name, values in (("mean", backbone.normalisation.mean), ("std", backbone.normalisation.std)):
            self.register_buffer(name, torch.tensor(values).view(1, 3, 1, 1), persistent=False)
        self.dimension = backbone.channels if recipe.head == "none" else recipe.dimension
        parts: list[nn.Module] = []
        if recipe.batch_norm:
            parts.append(nn.BatchNorm1d(backbone.channels))
        if recipe.dropout:
            parts.append(nn.Dropout(recipe.dropout))
        if recipe.head != "none":
            parts.append(nn.Linear(backbone.channels, recipe.dimension))
        self.head = nn.Sequential(*parts)

    def features(self, pixels: torch.Tensor) -> torch.Tensor:
        """float32 or uint8 [N, 3, S, S] in 0..255 -> the last feature map, float32 [N, C, h, w]."""
        maps: torch.Tensor = self.backbone((pixels.float() - self.mean) / self.std)
        return maps if maps.dim() == 4 else maps[:, :, None, None]

    def pooled(self, pixels: torch.Tensor) -> torch.Tensor:
        """-> float32 [N, C], before the head."""
        made: torch.Tensor = self.pooling(self.features(pixels))
        return made

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """float32 or uint8 [N, 3, S, S] in 0..255 -> float32 [N, D], unit length."""
        return functional.normalize(self.head(self.pooled(pixels)), dim=1)

    def begin_at_axes(self, features: torch.Tensor, project: bool = True) -> None:
        """Gives the head's normalisation the features' own mean and variance, and starts its projection on their main
        axes, so that the first embedding finds as the backbone does: a random head loses what was learnt before it has
        learnt anything.

        Args:
            features: float32 [n, C], what `pooled` gives for some training pictures; n >= 2.
            project: False leaves the projection random.
        """
        norm = next((part for part in self.head if isinstance(part, nn.BatchNorm1d)), None)
        linear = next((part for part in self.head if isinstance(part, nn.Linear)), None)
        if norm is not None:
            norm.running_mean = features.mean(dim=0)
            norm.running_var = features.var(dim=0)
            features = (features - norm.running_mean) / torch.sqrt(norm.running_var + norm.eps)
        if linear is None or not project:
            return
        centred = features - features.mean(dim=0)
        _, values, axes = torch.linalg.svd(centred, full_matrices=False)
        kept = min(linear.out_features, len(values))
        with torch.no_grad():
            linear.weight[:kept] = axes[:kept]
            linear.bias.zero_()


def embed(encoder: nn.Module, pixels: Any, batch: int = 32) -> torch.Tensor:
    """float32 [n, D] on the CPU, of uint8 [n, S, S, 3] (a numpy array or what slices like one), without gradients."""
    device = next(encoder.parameters()).device
    training = encoder.training
    encoder.eval()
    with torch.inference_mode():
        rows = [
            encoder(to_tensor(pixels[start : start + batch]).to(device)).float().cpu()
            for start in range(0, len(pixels), batch)
        ]
    encoder.train(training)
    return torch.cat(rows)


def to_tensor(pixels: Any) -> torch.Tensor:
    """uint8 [n, S, S, 3] -> uint8 [n, 3, S, S], channels last in memory."""
    return torch.tensor(pixels).permute(0, 3, 1, 2)
