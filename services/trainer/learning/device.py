"""Where a run computes: Lightning Fabric brings device, precision and processes under one set of calls."""

from __future__ import annotations

import torch
from lightning.fabric import Fabric

from services.common.errors import FailedPrecondition
from services.trainer.recipe import ComputeRecipe

PRECISIONS = {"32": "32-true", "bf16": "bf16-mixed", "16": "16-mixed"}


def make_fabric(recipe: ComputeRecipe) -> Fabric:
    """Launched: with several processes, the others run from here on too (DDP; gloo on a CPU, NCCL on GPUs).

    Raises FailedPrecondition (DEVICE_MISSING).
    """
    # numbers too small to matter take a CPU a hundred times as long
    torch.set_flush_denormal(True)
    available = torch.cuda.is_available()
    if recipe.accelerator == "cuda" and not available:
        raise FailedPrecondition("the recipe wants a GPU, and torch finds none", reason="DEVICE_MISSING")
    accelerator = "cuda" if available and recipe.accelerator != "cpu" else "cpu"
    precision = recipe.precision
    if precision == "auto":
        precision = "bf16" if accelerator == "cuda" else "32"
    fabric = Fabric(
        accelerator=accelerator,
        devices=recipe.processes,
        strategy="ddp" if recipe.processes > 1 else "auto",
        precision=PRECISIONS[precision],
    )
    fabric.launch()
    return fabric
