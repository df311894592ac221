"""Metric learning losses, from pytorch-metric-learning: one call of embeddings and labels.

    triplet             semi-hard mining (Schroff, Kalenichenko, Philbin 2015)
    contrastive         of pairs (Hadsell, Chopra, LeCun 2006)
    normalised-softmax  a class weight for each product (Zhai and Wu 2019)
    arcface             with angular margin (Deng et al. 2019), and sub-centres (Deng et al. 2020)
    proxy-anchor        (Kim et al. 2020)
    supcon              supervised contrastive (Khosla et al. 2020)

Those of pairs can look at earlier batches too (cross-batch memory; Wang et al. 2020).
"""

from __future__ import annotations

from typing import Any

import torch
from pytorch_metric_learning import losses, miners
from pytorch_metric_learning.distances import CosineSimilarity
from torch import nn

from services.common.errors import InvalidArgument
from services.trainer.recipe import LossRecipe

PAIRS = ("triplet", "contrastive", "supcon")


class MetricLoss(nn.Module):
    """Embeddings float32 [n, D] of unit length and labels int64 [n] -> a scalar.

    Args:
        products: how many labels there are: 0..products-1.
        label_smoothing: for normalised-softmax and arcface.
    """

    def __init__(self, recipe: LossRecipe, products: int, dimension: int, label_smoothing: float = 0.0) -> None:
        super().__init__()
        loss, miner = _make(recipe, products, dimension)
        if label_smoothing and hasattr(loss, "cross_entropy"):
            loss.cross_entropy.label_smoothing = label_smoothing
        self.classifies = recipe.name not in PAIRS
        if recipe.memory:
            if self.classifies:
                raise InvalidArgument(
                    f"loss.memory is for losses of pairs ({', '.join(PAIRS)}), not for {recipe.name}",
                    reason="RECIPE_INVALID",
                )
            loss, miner = losses.CrossBatchMemory(loss, dimension, recipe.memory, miner=miner), None
        self.loss: Any = loss
        self.miner: Any = miner

    def forward(self, embeddings: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor
        if self.miner is None:
            found = self.loss(embeddings, labels)
        else:
            found = self.loss(embeddings, labels, self.miner(embeddings, labels))
        return found


def _make(recipe: LossRecipe, products: int, dimension: int) -> tuple[nn.Module, nn.Module | None]:
    def margin(default: float) -> float:
        return default if recipe.margin is None else recipe.margin

    def scale(default: float) -> float:
        return default if recipe.scale is None else recipe.scale

    match recipe.name:
        case "triplet":
            width = margin(0.2)
            return losses.TripletMarginLoss(width), miners.TripletMarginMiner(width, type_of_triplets="semihard")
        case "contrastive":
            return losses.ContrastiveLoss(pos_margin=0.0, neg_margin=margin(1.0)), None
        case "normalised-softmax":
            return losses.NormalizedSoftmaxLoss(products, dimension, recipe.temperature), None
        case "arcface" if recipe.centres > 1:
            return (
                losses.SubCenterArcFaceLoss(
                    num_classes=products,
                    embedding_size=dimension,
                    margin=margin(20.0),
                    scale=scale(30.0),
                    sub_centers=recipe.centres,
                ),
                None,
            )
        case "arcface":
            return losses.ArcFaceLoss(products, dimension, margin(20.0), scale(30.0)), None
        case "proxy-anchor":
            return losses.ProxyAnchorLoss(products, dimension, margin(0.1), scale(32.0)), None
        case "supcon":
            return losses.SupConLoss(recipe.temperature, distance=CosineSimilarity()), None
