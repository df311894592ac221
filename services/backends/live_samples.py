"""What gateways saw of a version that is being rolled out: shadow answers and canary answers, sampled. Kept in Redis.

Samples inform an operator and decide nothing about correctness: they are capped, and lost with Redis.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Literal, get_args

from services.backends.coordination import Coordination

Kind = Literal["shadow", "canary", "serving"]
# of each kind
MAX_SAMPLES = 1000
_TTL_S = 7 * 24 * 3600


@dataclass(frozen=True, slots=True)
class Sample:
    """One search. No picture and no product is in it.

    Args:
        kind: "shadow", asked of both collections; "canary", answered by the mirror; "serving", by the serving one.
        latency_ms: of the answer by the version that `kind` is about (for "shadow" the mirror's).
        similarity: of its first result, 0 to 1; -1 without any.
        serving_similarity: for "shadow", of the serving collection's first result; else -1.
        overlap: for "shadow", share of the first ten products that both found; else -1.
        failed: the version gave no answer.
    """

    kind: Kind
    latency_ms: float
    similarity: float = -1.0
    serving_similarity: float = -1.0
    overlap: float = -1.0
    failed: bool = False


class LiveSamples:
    """By change log: each rollout has its own. Every method raises Unavailable when Redis does not answer."""

    def __init__(self, coordination: Coordination) -> None:
        self._coordination = coordination

    async def add(self, log: str, sample: Sample) -> None:
        value = json.dumps(asdict(sample))
        key = self._key(log, sample.kind)
        await self._coordination.call(lambda client: client.xadd(key, {"s": value}, maxlen=MAX_SAMPLES))
        await self._coordination.call(lambda client: client.expire(key, _TTL_S))

    async def all(self, log: str) -> list[Sample]:
        """The newest of each kind, oldest first."""
        return [sample for kind in get_args(Kind) for sample in await self._of_kind(log, kind)]

    async def _of_kind(self, log: str, kind: Kind) -> list[Sample]:
        found = await self._coordination.call(lambda client: client.xrange(self._key(log, kind)))
        return [Sample(**json.loads(fields[b"s"])) for _, fields in found]

    def _key(self, log: str, kind: Kind) -> str:
        return self._coordination.key("samples", log, kind)
