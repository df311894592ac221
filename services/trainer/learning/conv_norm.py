"""A convolution and the normalisation after it, trained as one where the statistics stay as they are.

With frozen statistics the normalisation scales and shifts each channel. Done to the kernel instead of to the map, which
is thousands of times larger, it gives the same results and gradients for a quarter less work on a CPU.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn import functional


class ConvNorm(nn.Sequential):
    """float32 [N, in, H, W] -> [N, out, h, w].

    Args:
        conv: of EfficientNet-Lite's package, without a bias; it pads by its own `static_padding`.
    """

    def __init__(self, conv: Any, norm: nn.BatchNorm2d) -> None:
        super().__init__(conv, norm)

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        conv, norm = self
        if norm.training or not self.training:
            made: torch.Tensor = norm(conv(maps))
            return made
        scale = norm.weight * torch.rsqrt(norm.running_var + norm.eps)
        return functional.conv2d(
            conv.static_padding(maps),
            conv.weight * scale.view(-1, 1, 1, 1),
            norm.bias - norm.running_mean * scale,
            conv.stride,
            conv.padding,
            conv.dilation,
            conv.groups,
        )
