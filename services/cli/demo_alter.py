"""Makes of a clean catalogue picture what a shopper's telephone would have taken of the same thing."""

from __future__ import annotations

import io

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageEnhance, ImageFilter

BACKGROUND_THRESHOLD = 24  # summed over the channels: how far a pixel may be from its corner's colour
JPEG_QUALITY = 85


def alter(picture: bytes, seed: int) -> bytes:
    """Rotates, crops and re-lights a picture and puts it on another background.

    Args:
        picture: an encoded picture on a plain background.
        seed: the same seed makes the same change.

    Returns:
        A JPEG of about the same size.
    """
    rng = np.random.default_rng(seed)
    image = Image.open(io.BytesIO(picture)).convert("RGB")
    cut_out = image.copy()
    cut_out.putalpha(_foreground(image))
    turned = _rotated(cut_out, rng)
    scene = _background(image.size, rng)
    _place(turned, scene, rng)
    lit = _lit(_cropped(scene, rng), rng)
    out = io.BytesIO()
    lit.save(out, "JPEG", quality=JPEG_QUALITY)
    return out.getvalue()


def _foreground(image: Image.Image) -> Image.Image:
    """Alpha mask, mode L: 0 where the plain background reaches in from the corners."""
    pixels = np.asarray(image).astype(np.int16)
    corners = np.zeros(pixels.shape[:2], bool)
    corners[:: image.height - 1, :: image.width - 1] = True
    alike = np.abs(pixels - pixels[0, 0]).sum(axis=-1) <= BACKGROUND_THRESHOLD
    background = _flooded(corners & alike, alike)
    mask = Image.fromarray(np.where(background, 0, 255).astype(np.uint8))
    # a pixel less at the edge, so that no light rim of the old background stays
    return mask.filter(ImageFilter.MinFilter(3)).filter(ImageFilter.GaussianBlur(0.8))


def _flooded(start: npt.NDArray[np.bool_], within: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """What can be reached from `start` by steps to the four neighbours, all bool [height, width]."""
    reached, before = start, None
    while before is None or (reached != before).any():
        before = reached.copy()
        # a step to every side; several before looking again
        for _ in range(8):
            grown = reached.copy()
            grown[1:] |= reached[:-1]
            grown[:-1] |= reached[1:]
            grown[:, 1:] |= reached[:, :-1]
            grown[:, :-1] |= reached[:, 1:]
            reached = grown & within
    return reached


def _rotated(cut_out: Image.Image, rng: np.random.Generator) -> Image.Image:
    angle = float(rng.uniform(8, 22) * rng.choice((-1, 1)))
    box = cut_out.getchannel("A").getbbox()
    return cut_out.crop(box).rotate(angle, Image.Resampling.BICUBIC, expand=True)


def _background(size: tuple[int, int], rng: np.random.Generator) -> Image.Image:
    """A table top: one muted colour that fades into another, with a little grain."""
    width, height = size
    light, dark = rng.uniform(150, 235, 3), rng.uniform(90, 190, 3)
    fade = np.linspace(0, 1, height)[:, None, None]
    grain = rng.normal(0, 4, (height, width, 1))
    pixels = light * (1 - fade) + dark * fade + grain
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def _place(cut_out: Image.Image, scene: Image.Image, rng: np.random.Generator) -> None:
    share = float(rng.uniform(0.8, 0.95))
    scale = share * min(scene.width / cut_out.width, scene.height / cut_out.height)
    small = cut_out.resize((max(1, round(cut_out.width * scale)), max(1, round(cut_out.height * scale))))
    left = round((scene.width - small.width) * float(rng.uniform(0.3, 0.7)))
    top = round((scene.height - small.height) * float(rng.uniform(0.3, 0.7)))
    shadow = Image.new("RGBA", small.size, (0, 0, 0, 0))
    shadow.putalpha(small.getchannel("A").point(lambda alpha: alpha // 3))
    scene.paste(shadow, (left + 5, top + 7), shadow.filter(ImageFilter.GaussianBlur(4)))
    scene.paste(small, (left, top), small)


def _cropped(scene: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Cuts up to 8 % off each side."""
    cut = rng.uniform(0.0, 0.08, 4)
    width, height = scene.size
    return scene.crop(
        (round(cut[0] * width), round(cut[1] * height), round((1 - cut[2]) * width), round((1 - cut[3]) * height))
    )


def _lit(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Light from one side, warmer or colder, brighter or darker."""
    image = ImageEnhance.Contrast(image).enhance(float(rng.uniform(0.8, 1.1)))
    slope = float(rng.uniform(0.1, 0.25) * rng.choice((-1, 1)))
    gradient = np.linspace(1 - slope, 1 + slope, image.width)[None, :, None]
    warmth = 1 + float(rng.uniform(-0.1, 0.1)) * np.array([1.0, 0.0, -1.0])
    pixels = np.asarray(image, np.float32) * gradient * warmth * float(rng.uniform(0.8, 1.05))
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
