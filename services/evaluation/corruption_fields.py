"""Random fields and filters that corruptions are made of. Pictures are float64 [S, S, 3] or [S, S] in 0..1."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
from PIL import Image

Field = npt.NDArray[np.float64]

# of plasma: points, and how many of them the picture covers
_TORUS, _SEEN = 256, 224


def convolved(picture: Field, kernel: Field) -> Field:
    """The picture under an odd-sized kernel that sums to 1, mirrored at its edges."""
    pad = len(kernel) // 2
    channels = picture if picture.ndim == 3 else picture[:, :, None]
    padded = np.pad(channels, ((pad, pad), (pad, pad), (0, 0)), mode="reflect")
    size = padded.shape[:2]
    response = np.fft.rfft2(kernel, size)[:, :, None]
    blurred = np.fft.irfft2(np.fft.rfft2(padded, axes=(0, 1)) * response, size, axes=(0, 1))
    # the circular convolution is shifted by the kernel's radius, twice with the padding
    return blurred[2 * pad :, 2 * pad :].reshape(picture.shape)


def gaussian(sigma: float) -> Field:
    """[n, n], cut off at 3 sigma."""
    radius = max(1, math.ceil(3 * sigma))
    line = np.exp(-0.5 * (np.arange(-radius, radius + 1) / sigma) ** 2)
    kernel = np.outer(line, line)
    return np.asarray(kernel / kernel.sum())


def disk(radius: float) -> Field:
    """A lens out of focus: [n, n], constant within the radius, shared between neighbouring pixels at the rim.

    A radius of less than a pixel blurs too, a little: tiny pictures must not pass as robust.
    """
    edge = math.ceil(radius) + 1
    steps = max(8, 4 * edge)
    y, x = np.meshgrid(*[np.arange(-steps, steps + 1) * (radius / steps)] * 2)
    inside = np.hypot(x, y) <= radius * (1 + 1e-9)
    kernel = np.zeros((2 * edge + 1, 2 * edge + 1))
    _spread_points(kernel, edge + x[inside], edge + y[inside], np.ones(int(inside.sum())))
    return np.asarray(kernel / kernel.sum())


def line(length: float, degrees: float) -> Field:
    """A camera that moves: [n, n], weights along a line that fade to one end."""
    edge = max(1, math.ceil(length / 2)) + 1
    steps = np.linspace(-0.5, 0.5, 16 * edge + 1)
    angle = math.radians(degrees)
    kernel = np.zeros((2 * edge + 1, 2 * edge + 1))
    x, y = (edge + steps * length * part for part in (math.cos(angle), math.sin(angle)))
    _spread_points(kernel, x, y, np.exp(-((steps + 0.5) ** 2) * 2))
    return np.asarray(kernel / kernel.sum())


def cloud(side: int, roughness: float, rng: np.random.Generator) -> Field:
    """Fractal noise [side, side] in 0..1: power falls with frequency ** roughness (Voss 1985)."""
    frequencies = np.hypot(np.fft.fftfreq(side)[:, None], np.fft.rfftfreq(side)[None])
    frequencies[0, 0] = np.inf
    spectrum = np.fft.rfft2(rng.standard_normal((side, side))) / frequencies ** (roughness / 2)
    field = np.fft.irfft2(spectrum, (side, side))
    return np.asarray((field - field.min()) / np.ptp(field))


def plasma(side: int, decay: float, rng: np.random.Generator) -> Field:
    """Midpoint displacement (Fournier, Fussell, Carpenter 1982): [side, side], 224/256 of a torus that spans 0..1.

    The torus has 256 x 256 points whatever the side, so that a small picture shows the same waves as a large one.

    Args:
        decay: each halving of the distance displaces by so many times less, squared, as in ImageNet-C.
    """
    field = np.zeros((_TORUS, _TORUS))
    step, reach = _TORUS, 1.0
    while step > 1:
        half = step // 2
        corners = field[::step, ::step]
        right, down = corners + np.roll(corners, -1, axis=1), corners + np.roll(corners, -1, axis=0)
        noise = rng.uniform(-reach, reach, (3, *corners.shape))
        middles = (right + np.roll(right, -1, axis=0)) / 4 + noise[0]
        field[half::step, half::step] = middles
        # and between two corners and two middles
        field[::step, half::step] = (right + middles + np.roll(middles, 1, axis=0)) / 4 + noise[1]
        field[half::step, ::step] = (down + middles + np.roll(middles, 1, axis=1)) / 4 + noise[2]
        step, reach = half, reach / decay**2
    spread = Image.fromarray(((field - field.min()) / np.ptp(field)).astype(np.float32))
    seen = (0, 0, _SEEN, _SEEN)
    return np.asarray(spread.resize((side, side), Image.Resampling.BILINEAR, box=seen)).astype(float)


def moved(picture: Field, dx: Field, dy: Field) -> Field:
    """Each pixel from (x + dx, y + dy), bilinear; what is beyond an edge is mirrored. dx, dy: [S, S] in pixels."""
    side = len(picture)
    y, x = np.mgrid[0:side, 0:side].astype(float)
    x, y = (_mirrored(place, side - 1) for place in (x + dx, y + dy))
    left, top = np.minimum(x.astype(int), side - 2), np.minimum(y.astype(int), side - 2)
    right, low = (x - left)[:, :, None], (y - top)[:, :, None]
    upper = picture[top, left] * (1 - right) + picture[top, left + 1] * right
    lower = picture[top + 1, left] * (1 - right) + picture[top + 1, left + 1] * right
    return np.asarray(upper * (1 - low) + lower * low)


def zoomed(picture: Field, factor: float) -> Field:
    """The middle 1/factor of it, as large as it was. factor >= 1."""
    side = len(picture)
    edge = side * (1 - 1 / factor) / 2
    channels = picture if picture.ndim == 3 else picture[:, :, None]
    layers = [
        np.asarray(
            Image.fromarray(channels[:, :, channel].astype(np.float32)).resize(
                (side, side), Image.Resampling.BILINEAR, box=(edge, edge, side - edge, side - edge)
            )
        )
        for channel in range(channels.shape[2])
    ]
    return np.stack(layers, axis=-1).astype(float).reshape(picture.shape)


def _mirrored(place: Field, last: int) -> Field:
    """Into 0..last."""
    return np.asarray(last - np.abs(last - np.abs(place) % (2 * last)))


def _spread_points(kernel: Field, x: Field, y: Field, weights: Field) -> None:
    """Adds points between pixels to the four around each of them."""
    left, top = np.floor(x).astype(int), np.floor(y).astype(int)
    right, low = x - left, y - top
    np.add.at(kernel, (top, left), weights * (1 - right) * (1 - low))
    np.add.at(kernel, (top, left + 1), weights * right * (1 - low))
    np.add.at(kernel, (top + 1, left), weights * (1 - right) * low)
    np.add.at(kernel, (top + 1, left + 1), weights * right * low)
