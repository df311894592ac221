"""Learning rates: warm-up, then half a cosine down to zero (Loshchilov and Hutter 2017)."""

from __future__ import annotations

import math


def rate_share(step: int, steps: int, warmup_share: float) -> float:
    """What share of its full rate a step has, in (0, 1].

    Args:
        step: from 0. steps: in all.
        warmup_share: of all steps, in which the rate grows linearly.
    """
    warmup = round(steps * warmup_share)
    if step < warmup:
        return (step + 1) / (warmup + 1)
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))
