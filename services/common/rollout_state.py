"""What the rollout service tells gateways: a small value, kept with the serving collection (docs/decisions/0008).

It is a property of the collection that the alias points to, so that one reading gives a gateway the alias, the
collection and this state as they were at one moment, and a switch of the alias switches the state with it.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Self


@dataclass(frozen=True, slots=True)
class RolloutState:
    """The default is the state of a system in which nothing is being rolled out.

    Args:
        seq: rises with every publication, across switches; what gateways acknowledge.
        log: id of the change log that every write is entered into; "": none.
        mirror: name of the collection that follows the serving one; "": none.
        mirror_version: its encoder version, which gateways verify before they acknowledge.
        frozen: writes wait.
        freeze: how many freezes there have been, this one among them. turn: how many switches. Both rise for ever.
        query_version: encoder version that embeds queries for the serving collection; 0: the collection's own.
        canary: share of callers, 0 to 1, whose searches the mirror answers.
        shadow: share of searches, 0 to 1, that are asked of the mirror as well, off the request's path.
        hurry: a freeze is near: gateways read the state every few milliseconds.
        retention_end: until when the mirror is kept up to date for a rollback, in seconds since 1970; 0: of no meaning.
        leaving: encoder version whose collection is removed once no gateway searches it any more; 0: none.
    """

    seq: int = 0
    log: str = ""
    mirror: str = ""
    mirror_version: int = 0
    frozen: bool = False
    freeze: int = 0
    turn: int = 0
    query_version: int = 0
    canary: float = 0.0
    shadow: float = 0.0
    hurry: bool = False
    retention_end: float = 0.0
    leaving: int = 0

    def after(self, **changes: Any) -> Self:
        """The next state: these changes, and the next number."""
        return replace(self, seq=self.seq + 1, **changes)

    def to_json(self) -> str:
        return json.dumps(asdict(self), separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Of "" the default. Raises ValueError when it is not well formed: who can't read the state must not guess.

        Fields that are not known are passed over: a newer rollout service may have told them.
        """
        if not text:
            return cls()
        raw = json.loads(text)
        if not isinstance(raw, dict) or not isinstance(raw.get("seq"), int):
            raise ValueError(f"not a rollout state: {text[:200]}")
        return cls(**{name: raw[name] for name in (each.name for each in fields(cls)) if name in raw})
