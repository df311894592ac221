"""Low-rank adapters: under 5 % of the weights are trained, and none of them are left when the encoder is exported.

Every convolution's kernel W becomes W + B A with A [r, in * k * k] and B [out, r] (LoRA; Hu et al. 2021, applied to
kernels), W frozen. B starts at zero, so training starts from the pretrained network.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.utils import parametrize

MAX_SHARE = 0.05


class LowRank(nn.Module):
    """Args:
    shape: of the kernel, [out, in, k, k].
    """

    def __init__(self, shape: torch.Size, rank: int) -> None:
        super().__init__()
        self.down = nn.Parameter(torch.randn(rank, shape[1:].numel()) / shape[1:].numel() ** 0.5)
        self.up = nn.Parameter(torch.zeros(shape[0], rank))

    def forward(self, kernel: torch.Tensor) -> torch.Tensor:
        return kernel + (self.up @ self.down).view_as(kernel)


def add_adapters(network: nn.Module, rank: int | None = None) -> float:
    """Freezes a network and adds adapters to its convolutions.

    Args:
        rank: None: the largest of 8, 4, 2, 1 that keeps the share under MAX_SHARE.

    Returns:
        The share of the weights that is trained, in [0, 1].
    """
    for parameter in network.parameters():
        parameter.requires_grad_(False)
    total = sum(parameter.numel() for parameter in network.parameters())
    kernels = [m for m in network.modules() if isinstance(m, nn.Conv2d) and m.groups == 1]
    # a kernel narrower than twice the rank would gain more weights than it has
    sizes = {r: sum(r * (m.weight.shape[0] + m.weight[0].numel()) for m in kernels) for r in (8, 4, 2, 1)}
    chosen = rank or next((r for r, size in sizes.items() if size < MAX_SHARE * total), 1)
    for module in kernels:
        parametrize.register_parametrization(module, "weight", LowRank(module.weight.shape, chosen))
    return sizes[chosen] / total if chosen in sizes else 0.0


def merge_adapters(network: nn.Module) -> None:
    """Adds what was learnt into the kernels: afterwards the network is built as it was before."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d) and parametrize.is_parametrized(module, "weight"):
            kernel = module.weight.detach()
            trained = module.parametrizations.weight.original.requires_grad
            # not `remove_parametrizations`: it changes the class, which copies of a network share
            module.__class__ = parametrize.type_before_parametrizations(module)
            del module.parametrizations
            module.weight = nn.Parameter(kernel, requires_grad=trained)
