"""Whether live searches of a version were enough, and good enough, for a rollout that goes on by itself."""

from __future__ import annotations

from collections.abc import Sequence

from services.backends.live_samples import Sample
from services.common.errors import FailedPrecondition

ENOUGH = 50
# of searches that the version answered, how many more may fail than of the others
FAILED_SHARE = 0.01


def enough(samples: Sequence[Sample], kind: str) -> bool:
    """Whether ENOUGH samples of a kind, "shadow" or "canary", are there.

    Raises:
        FailedPrecondition: CANARY_FAILED; more of them failed than of the searches that the serving version answered.
    """
    seen = [sample for sample in samples if sample.kind == kind]
    if len(seen) < ENOUGH:
        return False
    others = [sample for sample in samples if sample.kind == "serving"]
    failed, usual = _failed_share(seen), _failed_share(others)
    if failed > usual + FAILED_SHARE:
        raise FailedPrecondition(
            f"{failed:.1%} of {len(seen)} {kind} searches failed, {usual:.1%} of the others", reason="CANARY_FAILED"
        )
    return True


def _failed_share(samples: Sequence[Sample]) -> float:
    return sum(sample.failed for sample in samples) / max(1, len(samples))
