"""Names the main colours of a picture."""

from __future__ import annotations

import numpy as np
from PIL import Image

# sRGB; several shades may share a name
PALETTE: tuple[tuple[str, tuple[int, int, int]], ...] = (
    ("black", (20, 20, 20)),
    ("grey", (130, 130, 130)),
    ("grey", (185, 185, 185)),
    ("white", (250, 250, 250)),
    ("red", (220, 50, 45)),
    ("orange", (240, 140, 40)),
    ("yellow", (250, 215, 60)),
    ("green", (80, 160, 60)),
    ("green", (170, 205, 80)),
    ("blue", (45, 90, 190)),
    ("blue", (145, 205, 245)),
    ("purple", (135, 75, 165)),
    ("pink", (245, 165, 195)),
    ("brown", (120, 75, 45)),
    ("brown", (165, 120, 70)),
    ("beige", (235, 215, 180)),
)
LEAST_SHARE = 0.12
# the outlines of a drawing are black, and that does not make the thing black
LEAST_SHARE_OF_BLACK = 0.45
MOST_COLORS = 3


def named_colors(image: Image.Image) -> list[str]:
    """Names of at most three colours, the largest area first.

    Args:
        image: RGB; pure white counts as background.
    """
    pixels = np.asarray(image.resize((64, 64))).reshape(-1, 3).astype(np.int64)
    thing = pixels[(pixels < 252).any(axis=1)]
    if not len(thing):
        return ["white"]
    shades = np.array([rgb for _, rgb in PALETTE])
    nearest = ((thing[:, None, :] - shades) ** 2 @ np.array([2, 4, 3])).argmin(axis=1)
    share: dict[str, float] = {}
    for (name, _), count in zip(PALETTE, np.bincount(nearest, minlength=len(PALETTE)), strict=True):
        share[name] = share.get(name, 0.0) + float(count) / len(thing)
    kept = [n for n, s in share.items() if s >= (LEAST_SHARE_OF_BLACK if n == "black" else LEAST_SHARE)]
    return sorted(kept, key=lambda name: -share[name])[:MOST_COLORS] or [max(share, key=lambda name: share[name])]
