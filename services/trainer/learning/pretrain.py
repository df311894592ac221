"""Self-supervised pre-training on pictures without labels: SimSiam (Chen and He 2021).

Two augmentations of a picture shall have the same embedding, each predicted from the other; the target side learns
nothing in that step, which keeps everything from collapsing into one point.
"""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from lightning.fabric import Fabric
from torch import nn
from torch.nn import functional

from services.trainer.events import EventLog
from services.trainer.learning import checkpoint
from services.trainer.learning.augment import make_augmentation
from services.trainer.learning.batches import epoch_batches
from services.trainer.learning.encoder import Encoder
from services.trainer.learning.pixels import Pixels
from services.trainer.learning.schedule import rate_share
from services.trainer.recipe import Recipe

HIDDEN = 2048


class SimSiam(nn.Module):
    """Args:
    encoder: what is pre-trained; its head is left as it is.
    channels: C of its features.
    """

    def __init__(self, encoder: Encoder, channels: int, hidden: int = HIDDEN) -> None:
        super().__init__()
        self.encoder = encoder
        self.projector = nn.Sequential(
            nn.Linear(channels, hidden, bias=False),
            nn.BatchNorm1d(hidden),
            nn.ReLU(),
            nn.Linear(hidden, hidden, bias=False),
            nn.BatchNorm1d(hidden, affine=False),
        )
        self.predictor = nn.Sequential(
            nn.Linear(hidden, hidden // 4, bias=False),
            nn.BatchNorm1d(hidden // 4),
            nn.ReLU(),
            nn.Linear(hidden // 4, hidden),
        )

    def forward(self, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
        """Two views uint8 [n, 3, S, S] of the same pictures, n >= 2 -> a loss in [-1, 1]: minus the mean cosine."""
        one, other = self.projector(self.encoder.pooled(first)), self.projector(self.encoder.pooled(second))
        found: torch.Tensor = (_apart(self.predictor(one), other) + _apart(self.predictor(other), one)) / 2
        return found


def _apart(predicted: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    return -functional.cosine_similarity(predicted, target.detach(), dim=1).mean()


def spread(encoder: Encoder, pixels: Any) -> float:
    """How much of the sphere the features fill, in [0, 1]: about 0 when everything has collapsed into one point.

    Args:
        pixels: uint8 [n, 3, S, S].
    """
    with torch.inference_mode():
        features = functional.normalize(encoder.pooled(pixels), dim=1)
    return float(1 - features.mean(dim=0).norm() ** 2)


def pretrain(
    fabric: Fabric, recipe: Recipe, encoder: Encoder, channels: int, pixels: Pixels, folder: Path, log: EventLog
) -> checkpoint.Progress:
    """Trains the encoder's backbone on pictures alone, or goes on where the checkpoint stands.

    Args:
        pixels: uint8 [n, side, side, 3].
        folder: for the checkpoint.
    """
    epochs = recipe.pretrain.epochs
    # the head has no part in it: several processes would wait for its gradients
    encoder.head.requires_grad_(False)
    model = SimSiam(encoder, channels)
    optimiser = torch.optim.AdamW(model.parameters(), recipe.pretrain.rate, weight_decay=recipe.optimiser.weight_decay)
    wrapped, optimiser = fabric.setup(model, optimiser)
    progress = checkpoint.Progress("pretrain")
    if saved := checkpoint.load(folder):
        progress, states = saved
        model.load_state_dict(states["model"])
        optimiser.load_state_dict(states["optimiser"])
    augment = make_augmentation(recipe.augment, recipe.model.side)
    for epoch in range(progress.epoch, epochs):
        fabric.seed_everything(recipe.seed * 2000 + epoch, verbose=False)
        # every picture is its own label
        batches = epoch_batches(
            range(len(pixels)), recipe.sampler.batch, 0, recipe.seed, epoch, fabric.global_rank, fabric.world_size
        )
        start, total = time.monotonic(), 0.0
        wrapped.train()
        for step, places in enumerate(batches, start=epoch * len(batches)):
            for group in optimiser.param_groups:
                group["lr"] = recipe.pretrain.rate * rate_share(step, epochs * len(batches), 0.1)
            pictures = [torch.from_numpy(pixels[place].copy()).permute(2, 0, 1) for place in places]
            views = [torch.stack([augment(picture) for picture in pictures]) for _ in range(2)]
            loss = wrapped(*(fabric.to_device(view) for view in views))
            fabric.backward(loss)
            optimiser.step()
            optimiser.zero_grad()
            total += float(loss.detach())
        taken = time.monotonic() - start
        figures = {
            "epoch": epoch + 1,
            "loss": total / max(1, len(batches)),
            "rate": recipe.pretrain.rate,
            "images_per_s": len(batches) * recipe.sampler.batch / max(taken, 1e-9),
            "seconds": taken,
        }
        progress = replace(progress, epoch=epoch + 1, history=(*progress.history, figures))
        if fabric.is_global_zero:
            checkpoint.save(folder, progress, {"model": model.state_dict(), "optimiser": optimiser.state_dict()})
            log.emit(
                "epoch", stage="pretrain", epochs=epochs, eta_s=(epochs - epoch - 1) * taken, best=False, **figures
            )
        fabric.barrier()
    encoder.head.requires_grad_(True)
    return progress
