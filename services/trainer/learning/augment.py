"""What shoppers' cameras do to a picture, with torchvision's transforms v2.

Crop and scale, mirror, rotation, perspective, light and colour, blur, noise, JPEG, occlusion; and as policies
TrivialAugment (Müller and Hutter 2021) and AugMix (Hendrycks et al. 2020).
"""

from __future__ import annotations

import torch
from torchvision.transforms import v2

from services.trainer.recipe import AugmentRecipe

WHITE = 255


class Noise(torch.nn.Module):
    """Gaussian, of a strength drawn up to `most` of the range; uint8 [3, H, W] -> the same."""

    def __init__(self, most: float = 0.1) -> None:
        super().__init__()
        self.most = most

    def forward(self, picture: torch.Tensor) -> torch.Tensor:
        deviation = 255 * self.most * torch.rand(()).item()
        noisy = picture.float() + deviation * torch.randn(picture.shape)
        return noisy.clamp_(0, 255).to(torch.uint8)


def make_augmentation(recipe: AugmentRecipe, side: int) -> v2.Transform:
    """uint8 [3, H, W] -> uint8 [3, side, side]."""
    steps: list[torch.nn.Module] = []
    if recipe.rotation:
        steps.append(v2.RandomRotation(recipe.rotation, v2.InterpolationMode.BILINEAR, fill=WHITE))
    if recipe.perspective:
        steps.append(v2.RandomPerspective(0.3, recipe.perspective, fill=WHITE))
    steps.append(v2.RandomResizedCrop(side, scale=recipe.crop, ratio=(0.7, 1.43), antialias=True))
    steps.append(v2.RandomHorizontalFlip(recipe.flip))
    if recipe.policy == "trivial":
        steps.append(v2.TrivialAugmentWide(fill=WHITE))
    elif recipe.policy == "augmix":
        steps.append(v2.AugMix(fill=WHITE))
    if recipe.colour:
        strength = recipe.colour
        steps.append(v2.ColorJitter(strength, strength, strength, hue=strength / 15))
    if recipe.blur:
        steps.append(v2.RandomApply([v2.GaussianBlur(kernel_size=7, sigma=(0.3, 2.5))], recipe.blur))
    if recipe.jpeg:
        steps.append(v2.RandomApply([v2.JPEG((20, 80))], recipe.jpeg))
    if recipe.noise:
        steps.append(v2.RandomApply([Noise()], recipe.noise))
    if recipe.occlusion:
        steps.append(v2.RandomErasing(recipe.occlusion, scale=(0.02, 0.2), value=0))
    return v2.Compose(steps)


def mixed(
    pixels: torch.Tensor, labels: torch.Tensor, generator: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor, float]:
    """CutMix (Yun et al. 2019): a rectangle of each picture comes from another one.

    Args:
        pixels: [n, 3, S, S]. labels: [n].

    Returns:
        The pictures, the labels of what was put in, and the share of the area that is still the first picture.
    """
    order = torch.randperm(len(pixels), generator=generator)
    side = pixels.shape[-1]
    cut = (1 - torch.rand((), generator=generator).item()) ** 0.5
    size = int(side * cut * 0.7)
    left, top = (int(torch.randint(0, side - size + 1, (), generator=generator)) for _ in range(2))
    made = pixels.clone()
    made[:, :, top : top + size, left : left + size] = pixels[order, :, top : top + size, left : left + size]
    return made, labels[order], 1 - (size / side) ** 2
