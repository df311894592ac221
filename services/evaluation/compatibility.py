"""Whether queries of one encoder find in the gallery that an older one has embedded.

Shen, Xiong, Xia, Soatto, "Towards Backward-Compatible Representation Learning" (CVPR 2020): a new encoder is
compatible with an old one when its queries find more in the old one's gallery than the old one's own queries do. It can
then answer before the gallery has been embedded again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from services.common.errors import InvalidArgument
from services.evaluation.metrics import Places, Vectors, recall_at_k

KS = (1, 5)
# before the name of a metric: who made the query's vector / who made the gallery's
OLD_OLD, NEW_OLD, NEW_NEW = "old/old ", "new/old ", "new/new "


@dataclass(frozen=True, slots=True)
class Compatibility:
    """Recall@k in [0, 1], by k.

    Args:
        old_old: the old encoder's queries in the old one's gallery: what is found today.
        new_old: the new one's queries in the same gallery: what is found when queries alone are embedded anew.
        new_new: the new one's queries in its own gallery: what is found in the end.
    """

    old_old: Mapping[int, float]
    new_old: Mapping[int, float]
    new_new: Mapping[int, float]

    @property
    def gain(self) -> float:
        """How much recall@1 grows when queries alone are embedded anew; compatible in the paper's sense: above 0."""
        return self.new_old[1] - self.old_old[1]

    @property
    def metrics(self) -> dict[str, float]:
        """ "old/old recall@1", "new/old recall@1", "new/new recall@1", ..."""
        parts = ((OLD_OLD, self.old_old), (NEW_OLD, self.new_old), (NEW_NEW, self.new_new))
        return {f"{name}recall@{k}": value for name, recall in parts for k, value in recall.items()}


def compatibility(
    old: tuple[Vectors, Vectors],
    new: tuple[Vectors, Vectors],
    query_ids: Sequence[str],
    gallery_ids: Sequence[str],
    own: Places | None = None,
) -> Compatibility:
    """Searches the same pictures three times.

    Args:
        old, new: query and gallery vectors of each encoder, float32 [n, D], unit length.
        query_ids, gallery_ids, own: as in `services.evaluation.metrics.rank`.

    Returns:
        Recall@1 and, where the gallery has so many pictures, @5.

    Raises InvalidArgument (DIMENSION_MISMATCH), and ValueError when there are no queries or no gallery.
    """
    check_dimensions(old[1].shape[1], new[0].shape[1])
    reach = len(gallery_ids) - (own is not None)
    ks = tuple(k for k in KS if k == 1 or k <= reach)

    def recall(queries: Vectors, gallery: Vectors) -> dict[int, float]:
        return recall_at_k(queries, query_ids, gallery, gallery_ids, ks, own)

    return Compatibility(recall(*old), recall(new[0], old[1]), recall(*new))


def check_dimensions(old: int, new: int, name: str = "the old encoder") -> None:
    """Raises InvalidArgument (DIMENSION_MISMATCH), naming both.

    Args:
        name: of the old encoder, for people.
    """
    if old != new:
        raise InvalidArgument(
            f"queries of {new} dimensions can't be looked for among vectors of {name}, which have {old}",
            reason="DIMENSION_MISMATCH",
        )
