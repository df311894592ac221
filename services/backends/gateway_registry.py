"""Which gateways are alive, which state each has acknowledged, and how its searches fare. Kept in Redis, by beats."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any

import redis.asyncio as redis

from services.backends.coordination import Coordination

# a gateway is taken for alive this long after its last beat; its own view of that is shorter (GATEWAY_TRUST_S), so
# that whoever believes to be known is known
GATEWAY_TTL_S = 3.0
GATEWAY_TRUST_S = 1.5
# the searches that a beat tells of ended within so long
SEARCH_WINDOW_S = 3.0

# KEYS all names, ARGV prefix of a beat's key
_ALIVE = """
local found = {}
for _, name in ipairs(redis.call('SMEMBERS', KEYS[1])) do
  local beat = redis.call('GET', ARGV[1] .. name)
  if beat then found[#found + 1] = beat else redis.call('SREM', KEYS[1], name) end
end
return found
"""


@dataclass(frozen=True, slots=True)
class Beat:
    """What a gateway tells of itself.

    Args:
        gateway: its id, another one after every start.
        address: where it listens, for people.
        seq: number of the rollout state that it acknowledges: it has verified what the state names, acts by it, and no
            write that began under an earlier one still runs. -1: none yet.
        problem: why it can't acknowledge a newer one; "": it can or will.
        searches_per_s, p50_ms, p99_ms: of searches over the last SEARCH_WINDOW_S; 0 without any.
    """

    gateway: str
    address: str
    seq: int
    problem: str = ""
    searches_per_s: float = 0.0
    p50_ms: float = 0.0
    p99_ms: float = 0.0


class GatewayRegistry:
    """Every method raises Unavailable when Redis does not answer."""

    def __init__(self, coordination: Coordination) -> None:
        self._coordination = coordination

    async def beat(self, beat: Beat) -> None:
        async def tell(client: redis.Redis) -> Any:
            pipeline = client.pipeline(transaction=True)
            pipeline.sadd(self._all, beat.gateway)
            pipeline.set(self._one(beat.gateway), json.dumps(asdict(beat)), px=round(GATEWAY_TTL_S * 1e3))
            return await pipeline.execute()

        await self._coordination.call(tell)

    async def leave(self, gateway: str) -> None:
        """For a gateway that has stopped: nobody waits for it any more."""
        await self._coordination.call(lambda client: client.delete(self._one(gateway)))
        await self._coordination.call(lambda client: client.srem(self._all, gateway))

    async def alive(self) -> list[Beat]:
        """By address. Those that stopped beating are forgotten."""
        found = await self._coordination.call(
            lambda client: client.eval(
                _ALIVE, 1, self._all, self._one("")
            )  # at one moment: a beat must not fall between
        )
        beats = [Beat(**json.loads(value)) for value in found]
        return sorted(beats, key=lambda beat: (beat.address, beat.gateway))

    @property
    def _all(self) -> str:
        return self._coordination.key("gateways")

    def _one(self, gateway: str) -> str:
        return self._coordination.key("gateway", gateway)
