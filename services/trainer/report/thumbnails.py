"""Small JPEG pictures that live inside the page, as data URIs."""

from __future__ import annotations

import base64
import io
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from services.common.errors import InvalidImage
from services.common.images import Fit, decode_image
from services.photographs.photograph import Photograph
from services.trainer.report.contents import Picture

SIDE = 160
QUALITY = 78


class Thumbnails:
    """Makes each file's thumbnail once.

    Args:
        side: of the square that they fill, in pixels; what is not square gets white bars.
    """

    def __init__(self, side: int = SIDE) -> None:
        self._side = side
        self._made: dict[Photograph, str | None] = {}

    def uri(self, picture: Picture) -> str | None:
        """`data:image/jpeg;base64,...`; None when the file can't be read.

        Raises ValueError for an array that is not uint8 [H, W, 3].
        """
        if isinstance(picture, np.ndarray):
            return _jpeg(self._contained(picture))
        photograph = picture if isinstance(picture, Photograph) else Photograph(picture, product="")
        if photograph not in self._made:
            self._made[photograph] = self._of_file(photograph)
        return self._made[photograph]

    def _of_file(self, photograph: Photograph) -> str | None:
        try:
            data = Path(photograph.path).read_bytes()
            return _jpeg(Image.fromarray(decode_image(data, self._side, photograph.region, Fit.PAD)))
        except (OSError, InvalidImage):  # the file may have gone since; a gap on the page says enough
            return None

    def _contained(self, pixels: npt.NDArray[np.uint8]) -> Image.Image:
        if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3 or not pixels.size:
            raise ValueError(f"a picture is uint8 [H, W, 3], not {pixels.dtype} {list(pixels.shape)}")
        image = Image.fromarray(pixels)
        scale = self._side / max(image.size)
        size = max(1, round(image.width * scale)), max(1, round(image.height * scale))
        square = Image.new("RGB", (self._side, self._side), "white")
        square.paste(
            image.resize(size, Image.Resampling.LANCZOS), ((self._side - size[0]) // 2, (self._side - size[1]) // 2)
        )
        return square


def _jpeg(image: Image.Image) -> str:
    out = io.BytesIO()
    image.save(out, "JPEG", quality=QUALITY, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(out.getvalue()).decode()
