"""What cameras, weather and files do to pictures: 15 corruptions at 5 severities.

After Hendrycks, Dietterich, "Benchmarking Neural Network Robustness to Common Corruptions and Perturbations" (ICLR
2019), ImageNet-C, with its parameters for 224 pixels; lengths scale with the side. What differs: frost is drawn instead
of photographed, glass moves all pixels at once instead of one after the other, and some parameters of snow and the
elastic transform were changed, so that a higher severity is a larger change. Drops compare encoders measured here, not
with published figures of ImageNet-C.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
from PIL import Image

from services.common.images import MIN_SIDE, decode_image
from services.evaluation.corruption_fields import (
    Field,
    cloud,
    convolved,
    disk,
    gaussian,
    line,
    moved,
    plasma,
    zoomed,
)

Pixels = npt.NDArray[np.uint8]

SEVERITIES = (1, 2, 3, 4, 5)
# lengths below are in pixels of a picture of this side
_SIDE = 224
_GREY = np.array([0.299, 0.587, 0.114])


def corrupt(pixels: Pixels, name: str, severity: int, seed: int = 0) -> Pixels:
    """A corrupted copy of one picture; the same for the same arguments.

    Args:
        pixels: uint8 [S, S, 3], RGB; S at least 16.
        name: one of CORRUPTIONS.
        severity: 1 (slight) to 5.

    Raises ValueError for an unknown name, a severity out of range, or another shape or type.
    """
    if name not in CORRUPTIONS:
        raise ValueError(f"there is no corruption {name!r}; there are {', '.join(CORRUPTIONS)}")
    if severity not in SEVERITIES:
        raise ValueError(f"severity is 1 to 5, not {severity}")
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[0] != pixels.shape[1] or pixels.shape[2] != 3:
        raise ValueError(f"a picture is uint8 [S, S, 3], not {pixels.dtype} {list(pixels.shape)}")
    if len(pixels) < MIN_SIDE:
        raise ValueError(f"S is at least {MIN_SIDE}, not {len(pixels)}")
    # the same seed for all severities: what differs between them is the strength
    digest = hashlib.sha256(f"{name} {seed}".encode()).digest()
    rng = np.random.default_rng(int.from_bytes(digest[:8], "big"))
    made = CORRUPTIONS[name](pixels / 255.0, severity - 1, rng)
    return np.rint(np.clip(made, 0, 1) * 255).astype(np.uint8)


def gaussian_noise(picture: Field, level: int, rng: np.random.Generator) -> Field:
    """Of a sensor in the dark."""
    return picture + rng.standard_normal(picture.shape) * (0.08, 0.12, 0.18, 0.26, 0.38)[level]


def shot_noise(picture: Field, level: int, rng: np.random.Generator) -> Field:
    """Of few photons."""
    photons = (60, 25, 12, 5, 3)[level]
    return rng.poisson(picture * photons) / photons


def impulse_noise(picture: Field, level: int, rng: np.random.Generator) -> Field:
    """Salt and pepper."""
    share = (0.03, 0.06, 0.09, 0.17, 0.27)[level]
    chance = rng.random(picture.shape)
    return np.where(chance < share / 2, 0.0, np.where(chance > 1 - share / 2, 1.0, picture))


def defocus_blur(picture: Field, level: int, rng: np.random.Generator) -> Field:
    return convolved(picture, disk((3, 4, 6, 8, 10)[level] * len(picture) / _SIDE))


def glass_blur(picture: Field, level: int, rng: np.random.Generator) -> Field:
    """Frosted glass: neighbours change places, between two slight blurs."""
    sigma, reach, rounds = ((0.7, 1, 2), (0.9, 2, 1), (1.0, 2, 3), (1.1, 3, 2), (1.5, 4, 2))[level]
    scale = len(picture) / _SIDE
    blurred = convolved(picture, gaussian(sigma * scale))
    for _ in range(rounds):
        dx, dy = rng.uniform(-reach * scale, reach * scale, (2, len(picture), len(picture)))
        blurred = moved(blurred, dx, dy)
    return convolved(blurred, gaussian(sigma * scale))


def motion_blur(picture: Field, level: int, rng: np.random.Generator) -> Field:
    length = (10, 15, 18, 24, 30)[level] * len(picture) / _SIDE
    return convolved(picture, line(length, rng.uniform(-45, 45)))


def zoom_blur(picture: Field, level: int, rng: np.random.Generator) -> Field:
    """Moving towards it."""
    largest, step = ((1.10, 0.01), (1.15, 0.01), (1.20, 0.02), (1.25, 0.02), (1.30, 0.03))[level]
    factors = np.arange(1, largest + 1e-9, step)
    return np.asarray(sum(zoomed(picture, factor) for factor in factors) / len(factors))


def snow(picture: Field, level: int, rng: np.random.Generator) -> Field:
    """Streaks of falling flakes over a whitened picture."""
    mean, spread, zoom, cut, length, keep = (
        (0.1, 0.3, 3.0, 0.5, 10, 0.8),
        (0.15, 0.3, 2.0, 0.5, 12, 0.75),
        (0.55, 0.3, 4.0, 0.9, 12, 0.7),
        (0.55, 0.3, 4.5, 0.85, 12, 0.65),
        (0.55, 0.3, 2.5, 0.85, 12, 0.55),
    )[level]
    side = len(picture)
    flakes = zoomed(rng.standard_normal((side, side)) * spread + mean, zoom)
    flakes[flakes < cut] = 0
    streaks = convolved(np.clip(flakes, 0, 1), line(length * side / _SIDE, rng.uniform(45, 135)))[:, :, None]
    grey = (picture @ _GREY)[:, :, None]
    whitened = keep * picture + (1 - keep) * np.maximum(picture, grey * 1.5 + 0.5)
    return np.asarray(whitened + streaks + streaks[::-1, ::-1])


def frost(picture: Field, level: int, rng: np.random.Generator) -> Field:
    """Ice on the lens: needles in a few directions, densest towards the edges and in patches."""
    thickness = (0.3, 0.45, 0.6, 0.7, 0.8)[level]
    side = len(picture)
    first = rng.uniform(0, 180)
    needles = np.zeros((side, side))
    for number in range(5):
        seeds = (rng.random((side, side)) < 0.012) * rng.random((side, side))
        grown = convolved(seeds, line((14 + 6 * number) * side / _SIDE, first + 36 * number + rng.uniform(-9, 9)))
        needles = np.maximum(needles, grown / grown.max())
    y, x = np.mgrid[0:side, 0:side] / (side - 1) - 0.5
    cover = np.clip(1.6 * np.hypot(x, y) + 1.2 * cloud(side, 3.2, rng) - 0.45, 0.08, 1)
    rime = cloud(side, 2.2, rng)
    crystals = cover * (0.3 + 0.3 * rime + 1.1 * np.sqrt(needles))
    tint = np.array([0.86, 0.94, 1.0])
    # laid over the picture, not added to it: thicker ice hides more, whatever is behind
    opacity = np.clip(thickness * crystals, 0, 0.95)[:, :, None]
    return np.asarray(picture * (1 - opacity) + tint * opacity)


def fog(picture: Field, level: int, rng: np.random.Generator) -> Field:
    strength, decay = ((1.5, 2.0), (2.0, 2.0), (2.5, 1.7), (2.5, 1.5), (3.0, 1.4))[level]
    veil = plasma(len(picture), decay, rng)[:, :, None]
    brightest = picture.max()
    return np.asarray((picture + strength * veil) * brightest / (brightest + strength))


def brightness(picture: Field, level: int, rng: np.random.Generator) -> Field:
    """The value of HSV is raised: the largest channel by so much, the others in proportion."""
    value = picture.max(axis=2, keepdims=True)
    raised = np.minimum(1, value + (0.1, 0.2, 0.3, 0.4, 0.5)[level])
    return np.asarray(np.where(value > 0, picture * raised / np.maximum(value, 1e-9), raised))


def contrast(picture: Field, level: int, rng: np.random.Generator) -> Field:
    mean = picture.mean(axis=(0, 1))
    return np.asarray((picture - mean) * (0.4, 0.3, 0.2, 0.1, 0.05)[level] + mean)


def elastic_transform(picture: Field, level: int, rng: np.random.Generator) -> Field:
    """Simard, Steinkraus, Platt (2003): smooth random displacements, and a slight affine one."""
    reach, sigma, shear = ((5, 12, 0.015), (6.5, 10, 0.02), (8, 8, 0.025), (9, 6, 0.03), (10, 5, 0.035))[level]
    side = len(picture)
    scale = side / _SIDE
    waves = [convolved(rng.uniform(-1, 1, (side, side)), gaussian(sigma * scale)) for _ in range(2)]
    # the largest displacement, whatever the smoothing left of the noise
    dx, dy = (wave / np.abs(wave).max() * reach * scale for wave in waves)
    y, x = np.mgrid[0:side, 0:side] - side / 2
    affine = rng.uniform(-shear, shear, (2, 2))
    return moved(picture, dx + affine[0, 0] * x + affine[0, 1] * y, dy + affine[1, 0] * x + affine[1, 1] * y)


def pixelate(picture: Field, level: int, rng: np.random.Generator) -> Field:
    side = len(picture)
    small = max(1, int(side * (0.6, 0.5, 0.4, 0.3, 0.25)[level]))
    image = Image.fromarray(np.rint(picture * 255).astype(np.uint8)).resize((small, small), Image.Resampling.BOX)
    return np.asarray(image.resize((side, side), Image.Resampling.NEAREST)) / 255.0


def jpeg(picture: Field, level: int, rng: np.random.Generator) -> Field:
    file = io.BytesIO()
    image = Image.fromarray(np.rint(picture * 255).astype(np.uint8))
    image.save(file, "JPEG", quality=(25, 18, 15, 10, 7)[level])
    return decode_image(file.getvalue(), len(picture)) / 255.0


CORRUPTIONS: dict[str, Callable[[Field, int, np.random.Generator], Field]] = {
    made.__name__: made
    for made in (
        *(gaussian_noise, shot_noise, impulse_noise),
        *(defocus_blur, glass_blur, motion_blur, zoom_blur),
        *(snow, frost, fog, brightness),
        *(contrast, elastic_transform, pixelate, jpeg),
    )
}
