"""What an encoder is calibrated and compared with."""

from __future__ import annotations

from dataclasses import dataclass

from services.evaluation.inference import Pixels


@dataclass(frozen=True, slots=True)
class EvaluationSet:
    """Pictures to calibrate and to measure with; a query's right answer is any gallery picture of the same id.

    Args:
        name: what it is, for the manifest.
        calibration: uint8 [n, S, S, 3]; none of them is a query.
        query_pixels, gallery_pixels: uint8 [n, S, S, 3].
        query_ids, gallery_ids: product of each.
    """

    name: str
    calibration: Pixels
    query_pixels: Pixels
    query_ids: tuple[str, ...]
    gallery_pixels: Pixels
    gallery_ids: tuple[str, ...]

    def __len__(self) -> int:
        """Pictures to embed for one evaluation."""
        return len(self.query_ids) + len(self.gallery_ids)
