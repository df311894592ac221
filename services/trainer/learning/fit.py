"""The training loop: epochs over photographs, each followed by validation and a checkpoint.

Everything random in an epoch is seeded by the recipe's seed and the epoch, and the rates by the step, so a run that
goes on from its checkpoint does what an uninterrupted one would have done.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from lightning.fabric import Fabric
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import DataLoader, Dataset

from services.trainer.events import EventLog
from services.trainer.learning import checkpoint
from services.trainer.learning.augment import make_augmentation, mixed
from services.trainer.learning.batches import epoch_batches
from services.trainer.learning.encoder import Encoder
from services.trainer.learning.objective import Objective
from services.trainer.learning.optimiser import Pull, make_optimiser
from services.trainer.learning.pixels import Pixels
from services.trainer.learning.schedule import rate_share
from services.trainer.learning.validation import Validation
from services.trainer.recipe import Recipe, Regime

PROGRESS_INTERVAL_S = 0.5


@dataclass(frozen=True, slots=True)
class TrainingSet:
    """Args:
    pixels: uint8 [n, side, side, 3], a little larger than S.
    labels: product of each, 0..products-1.
    """

    pixels: Pixels
    labels: Sequence[int]


# After an epoch, more photographs to train on: what `PseudoLabels` gives. The notes are kept with the checkpoint.
More = Callable[[int, nn.Module, dict[str, Any]], TrainingSet | None]


class Fit:
    """Args:
    stage: its name in events and in the checkpoint.
    folder: for the checkpoint.
    stages: of the backbone, for layer-wise rates.
    watch: what to measure after each epoch.
    more: see `More`; called before each epoch.
    curves: a TensorBoard writer.
    """

    def __init__(
        self,
        fabric: Fabric,
        recipe: Recipe,
        stage: str,
        folder: Path,
        log: EventLog,
        watch: Validation,
        curves: Any = None,
        more: More | None = None,
    ) -> None:
        self._fabric, self._recipe, self._stage, self._folder, self._log = fabric, recipe, stage, folder, log
        self._watch, self._curves, self._more = watch, curves, more

    def __call__(
        self, objective: Objective, stages: Sequence[Sequence[nn.Module]], data: TrainingSet, epochs: int
    ) -> checkpoint.Progress:
        """Trains for `epochs`, or goes on where the checkpoint of this stage stands, and leaves the best weights in
        the objective's encoder."""
        fabric, recipe = self._fabric, self._recipe.optimiser
        encoder = objective.encoder
        best: dict[str, torch.Tensor] = {}
        progress = checkpoint.Progress(self._stage)
        wrapped, optimiser = fabric.setup(objective, make_optimiser(objective, stages, recipe))
        # now that the weights are on the device
        pull = Pull(encoder.backbone, recipe.pretrained_pull)
        average = _averaged(encoder, recipe.ema)
        if (saved := checkpoint.load(self._folder)) and saved[0].stage == self._stage:
            progress, states = saved
            objective.load_state_dict(states["objective"])
            optimiser.load_state_dict(states["optimiser"])
            best = states["best"]
            if average is not None:
                average.load_state_dict(states["average"])
        notes = dict(progress.notes)
        for epoch in range(progress.epoch, epochs):
            if self._patience_is_over(progress):
                break
            fabric.seed_everything(self._recipe.seed * 1000 + epoch, verbose=False)
            extra = self._more(epoch, average or encoder, notes) if self._more else None
            figures = self._epoch(epoch, epochs, wrapped, optimiser, data, extra, average, pull)
            measured = average.module if average is not None else encoder
            if fabric.is_global_zero:
                figures["recall@1"] = self._watch.recall(measured)
            recall = float(fabric.broadcast(figures.get("recall@1", 0.0)))
            is_best = recall > progress.best
            if is_best:
                best = {name: tensor.detach().clone() for name, tensor in measured.state_dict().items()}
            progress = replace(
                progress,
                epoch=epoch + 1,
                best=max(recall, progress.best),
                best_epoch=epoch if is_best else progress.best_epoch,
                history=(*progress.history, figures),
                notes=notes,
            )
            if fabric.is_global_zero:
                states = {"objective": objective.state_dict(), "optimiser": optimiser.state_dict(), "best": best}
                if average is not None:
                    states["average"] = average.state_dict()
                checkpoint.save(self._folder, progress, states)
                self._tell(epoch, epochs, figures, is_best)
            fabric.barrier()
        if best:
            encoder.load_state_dict(best)
        return progress

    def _epoch(
        self,
        epoch: int,
        epochs: int,
        objective: Any,
        optimiser: Any,
        data: TrainingSet,
        extra: TrainingSet | None,
        average: AveragedModel | None,
        pull: Pull,
    ) -> dict[str, float]:
        recipe, fabric = self._recipe, self._fabric
        labels = [*data.labels, *(extra.labels if extra else ())]
        ranks = fabric.world_size
        batches = epoch_batches(
            labels,
            recipe.sampler.batch,
            recipe.sampler.images_per_product,
            recipe.seed,
            epoch,
            fabric.global_rank,
            ranks,
        )
        side = side_of(epoch, epochs, recipe.optimiser.sides, recipe.model.side)
        pictures = _Augmented(data, extra, make_augmentation(recipe.augment, side))
        loader = DataLoader(pictures, batch_sampler=batches, num_workers=recipe.compute.workers)
        chance = torch.Generator().manual_seed(recipe.seed * 1000 + epoch)
        objective.train()
        if recipe.optimiser.batch_norm == "frozen" or recipe.optimiser.regime is Regime.FROZEN:
            _freeze_statistics(objective.module.encoder.backbone)
        start = told = time.monotonic()
        total, seen, step = 0.0, 0, epoch * len(batches)
        for pixels, targets in loader:
            share = rate_share(step, epochs * len(batches), recipe.optimiser.warmup_share)
            for group in optimiser.param_groups:
                group["lr"] = group["full_rate"] * share
            pixels, targets = fabric.to_device((pixels, targets))
            others, kept = None, 1.0
            if recipe.augment.mixup and torch.rand((), generator=chance).item() < recipe.augment.mixup:
                pixels, others, kept = mixed(pixels, targets, chance)
            loss = objective(pixels, targets, others, kept)
            fabric.backward(loss)
            if recipe.optimiser.clip_norm:
                fabric.clip_gradients(objective, optimiser, max_norm=recipe.optimiser.clip_norm)
            optimiser.step()
            optimiser.zero_grad()
            pull(recipe.optimiser.backbone_rate * share)
            if average is not None:
                average.update_parameters(objective.module.encoder)
            total, seen, step = total + float(loss.detach()), seen + len(targets) * ranks, step + 1
            now = time.monotonic()
            if fabric.is_global_zero and now - told > PROGRESS_INTERVAL_S:
                told, rate = now, seen / (now - start)
                left = len(batches) * recipe.sampler.batch * (epochs - epoch) - seen
                self._log.emit(
                    "progress",
                    stage=self._stage,
                    epoch=epoch + 1,
                    epochs=epochs,
                    done=seen,
                    total=len(batches) * len(batches[0]) * ranks,
                    loss=total / (step - epoch * len(batches)),
                    images_per_s=rate,
                    eta_s=left / rate,
                )
        taken = time.monotonic() - start
        return {
            "epoch": epoch + 1,
            "loss": total / max(1, len(batches)),
            "rate": recipe.optimiser.backbone_rate
            * rate_share(step - 1, epochs * len(batches), recipe.optimiser.warmup_share),
            "side": side,
            "images_per_s": seen / max(taken, 1e-9),
            "seconds": taken,
            "pseudo_labelled": len(extra.labels) if extra else 0,
        }

    def _tell(self, epoch: int, epochs: int, figures: dict[str, float], is_best: bool) -> None:
        left = (epochs - epoch - 1) * figures["seconds"]
        self._log.emit("epoch", stage=self._stage, epochs=epochs, eta_s=left, best=is_best, **figures)
        if self._curves is not None:
            for name in ("loss", "recall@1", "rate", "images_per_s"):
                self._curves.add_scalar(f"{self._stage}/{name}", figures[name], epoch + 1)
            self._curves.flush()

    def _patience_is_over(self, progress: checkpoint.Progress) -> bool:
        patience = self._recipe.optimiser.patience
        return bool(patience) and progress.epoch - 1 - progress.best_epoch >= patience


def side_of(epoch: int, epochs: int, sides: Sequence[int], side: int) -> int:
    """In pixels: small pictures first cost a fraction and teach as much (progressive resizing; Howard 2018)."""
    return sides[epoch * len(sides) // epochs] if sides else side


class _Augmented(Dataset[tuple[torch.Tensor, int]]):
    def __init__(self, data: TrainingSet, extra: TrainingSet | None, augment: nn.Module) -> None:
        self._parts = [data, *([extra] if extra else [])]
        self._augment = augment

    def __getitem__(self, place: int) -> tuple[torch.Tensor, int]:
        part = self._parts[0]
        if place >= len(part.labels):
            place, part = place - len(part.labels), self._parts[1]
        # a copy, because what is mapped from a file is read-only
        picture = torch.from_numpy(part.pixels[place].copy()).permute(2, 0, 1)
        return self._augment(picture), part.labels[place]


def _averaged(encoder: Encoder, decay: float) -> AveragedModel | None:
    """Exponential moving average of the weights, which finds better than the last ones (Tarvainen and Valpola 2017)."""
    if not decay:
        return None
    average = get_ema_multi_avg_fn(decay)
    return AveragedModel(encoder, multi_avg_fn=average, use_buffers=False)


def _freeze_statistics(backbone: nn.Module) -> None:
    for module in backbone.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.eval()
