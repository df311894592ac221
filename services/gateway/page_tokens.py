"""Page tokens of a search: where the next page begins, in a way that concurrent writes can't break.

A token does not count results, it names the place after the last one shown: its similarity, and the products already
shown that are exactly that similar. Products written or deleted meanwhile move nothing across that place.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from dataclasses import dataclass

from services.backends.index import Hit
from services.common.errors import InvalidArgument

# the same two vectors compared again, maybe by another code path, give the same cosine up to float32 rounding
_TOLERANCE = 2e-6


@dataclass(frozen=True, slots=True)
class PageToken:
    """Args:
    collection: the search goes on in the collection where it began, also after a switch of versions.
    request: digest of the request's other fields.
    shown: number of products on the pages before.
    cosine: of the last product shown.
    ties: ids of the products shown whose cosine is the same within rounding.
    """

    collection: str
    request: str
    shown: int
    cosine: float
    ties: frozenset[str]

    def __str__(self) -> str:
        fields = [self.collection, self.request, self.shown, self.cosine, sorted(self.ties)]
        return base64.urlsafe_b64encode(json.dumps(fields, separators=(",", ":")).encode()).decode()

    @classmethod
    def parse(cls, text: str) -> PageToken:
        """Raises InvalidArgument (PAGE_TOKEN_INVALID)."""
        try:
            collection, request, shown, cosine, ties = json.loads(base64.urlsafe_b64decode(text.encode("ascii")))
            well_formed = (
                isinstance(collection, str)
                and isinstance(request, str)
                and isinstance(shown, int)
                and isinstance(cosine, float)
                and shown > 0
                and isinstance(ties, list)
                and all(isinstance(tie, str) for tie in ties)
            )
        except (ValueError, TypeError, RecursionError):
            well_formed = False
        if not well_formed:
            raise InvalidArgument(
                "the page token is not one that this service gave", reason="PAGE_TOKEN_INVALID", field="page_token"
            )
        return cls(collection, request, shown, cosine, frozenset(ties))

    def is_shown(self, hit: Hit) -> bool:
        """Whether this product came on an earlier page."""
        if abs(hit.cosine - self.cosine) <= _TOLERANCE:
            return hit.product_id in self.ties
        return hit.cosine > self.cosine

    @classmethod
    def after(cls, page: Sequence[Hit], collection: str, request: str, before: PageToken | None) -> PageToken:
        """The token for what comes after this page, which is not empty."""
        last = page[-1].cosine
        ties = {hit.product_id for hit in page if abs(hit.cosine - last) <= _TOLERANCE}
        if before and abs(before.cosine - last) <= _TOLERANCE:
            ties |= before.ties
        return cls(collection, request, (before.shown if before else 0) + len(page), last, frozenset(ties))
