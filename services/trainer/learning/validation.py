"""Recall@1 after each epoch, for early stopping: validation photographs in a part of the training photographs."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from torch import nn

from services.evaluation.metrics import recall_at_k
from services.trainer.learning.encoder import embed
from services.trainer.learning.pixels import Pixels


@dataclass(frozen=True, slots=True)
class Validation:
    """Args:
    queries: uint8 [n, S, S, 3]; query_ids: their products.
    gallery: uint8 [m, S, S, 3], or None: each query is looked for among the others.
    """

    queries: Pixels
    query_ids: tuple[str, ...]
    gallery: Pixels | None
    gallery_ids: tuple[str, ...]

    def recall(self, encoder: nn.Module) -> float:
        """Recall@1 in [0, 1]."""
        queries = embed(encoder, self.queries).numpy()
        if self.gallery is None:
            own = np.arange(len(queries))
            return recall_at_k(queries, self.query_ids, queries, self.query_ids, (1,), own)[1]
        return recall_at_k(queries, self.query_ids, embed(encoder, self.gallery).numpy(), self.gallery_ids, (1,))[1]
