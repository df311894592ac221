"""What the model of docs/decisions/0008 consists of: states that hash, and the rules that can be switched off.

A product's content is the number of the write that put it there, counted from 1; 0: absent; BEFORE: the content from
before. Sets of products, writes and contents are bit masks. Time is left out: a freeze that is too old is a flag.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import NamedTuple

ABSENT = 0
BEFORE = 7


class Published(NamedTuple):
    """A rollout state. `freeze`: number of the last freeze. `after`: published by a switch, step 7 is not over.
    `turn`: how many switches there were."""

    seq: int = 0
    log: int = 0
    frozen: bool = False
    freeze: int = 0
    after: bool = False
    turn: int = 0


class View(NamedTuple):
    """What one reading of the alias tells."""

    serving: int
    state: Published


class Log(NamedTuple):
    """`since`: products entered since the service last read it (or noted P). `ever`: all that were entered.

    `mark`: run id when it was opened, 0: none. `gap`: a gateway could not enter.
    """

    since: int = 0
    ever: int = 0
    mark: int = 0
    gap: bool = False


class Gateway(NamedTuple):
    """`registered`: Redis has its beat. `known`: it trusts its view. `acked`: the seq it told."""

    view: View
    alive: bool = True
    registered: bool = True
    known: bool = True
    acked: int = 0


class Write(NamedTuple):
    """`at`: IDLE, then the steps of the document, then DONE (acknowledged) or LOST (its gateway died).

    `view`: what it acts by; `entered`: logs; `wrote`: collections; `log`: to enter next;
    `over`: earlier contents that it replaces.
    """

    at: str = "IDLE"
    view: View | None = None
    entered: int = 0
    wrote: int = 0
    log: int = 0
    over: int = 0


class Service(NamedTuple):
    """`at`: next step. `todo`: products to copy, then `then`. `held`: content read of the one being copied."""

    at: str = "LOG_ON"
    log: int = 0
    todo: int = 0
    held: int = -1
    then: str = ""
    source: int = 0
    switches: int = 0
    attempts: int = 0


class Faults(NamedTuple):
    """How many may still happen. After a crash another rollout service goes on; gone is gone."""

    service_crash: int = 0
    service_gone: int = 0
    gateway_death: int = 0
    gateway_stall: int = 0
    redis_restart: int = 0
    redis_flush: int = 0
    redis_refuses: int = 0
    freeze_expires: int = 0
    cancel: int = 0


NO_FAULTS = Faults()


class World(NamedTuple):
    serving: int
    rows: tuple[tuple[int, ...], ...]
    published: tuple[Published, ...]
    logs: tuple[Log, ...]
    run: int
    gap: int
    expired: bool
    gateways: tuple[Gateway, ...]
    writes: tuple[Write, ...]
    superseded: tuple[int, ...]
    service: Service
    faults: Faults

    @property
    def now(self) -> View:
        return View(self.serving, self.published[self.serving])


@dataclass(frozen=True)
class Rules:
    """Each rule of the protocol, on by default. The last ones mend what the first draft lacked."""

    first_entry: bool = True
    second_entry: bool = True
    confirm: bool = True
    confirm_enters_log: bool = True
    confirm_waits_for_freeze: bool = True
    confirm_follows_alias: bool = True
    gap: bool = True
    barrier: bool = True
    narrow_waits: bool = True
    full_check: bool = True
    p_before_check: bool = True
    freeze: bool = True
    freeze_waits: bool = True
    reads_log_after_freeze: bool = True
    age_check: bool = True
    run_id_check: bool = True
    mark_check: bool = True
    after_is_frozen: bool = True
    unfreeze_waits: bool = True
    repair: bool = True
    unknown_reads_anew: bool = True
    ack_waits_for_writes: bool = True
    redo_checks_presence: bool = True
    # mends
    after_is_another_freeze: bool = True
    confirm_gives_up: bool = True
    give_up_reads_anew: bool = True
    confirm_counts_switches: bool = True
    own_rows_do_not_count: bool = True
    late_begins_again: bool = True
    repair_freezes_anew: bool = True
    gap_of_each_log: bool = True
    repair_spares_what_is_newer: bool = True
    repair_sees_gaps: bool = True
    registry_is_whole: bool = True

    def without(self, *names: str) -> Rules:
        return replace(self, **dict.fromkeys(names, False))

    @classmethod
    def names(cls) -> list[str]:
        return [each.name for each in fields(cls)]


@dataclass(frozen=True)
class Setting:
    """What happens in a run of the model.

    Args:
        writes: (product, gateway, is a delete) of each.
        faults: how many of each kind.
        switches: 1: a rollout; 2: and its rollback.
        stall_before_move: the service may stand still between its last look at the clock and moving the alias.
        attempts: how often the service may begin again.
        narrows: before the freeze it copies what was entered during the check, and notes P once more.
    """

    writes: tuple[tuple[int, int, bool], ...]
    faults: Faults = NO_FAULTS
    rules: Rules = Rules()
    products: int = 1
    gateways: int = 2
    switches: int = 1
    stall_before_move: bool = False
    attempts: int = 2
    narrows: bool = False

    def start(self) -> World:
        view = View(0, Published())
        return World(
            serving=0,
            rows=((BEFORE,) * self.products, (ABSENT,) * self.products),
            published=(Published(), Published()),
            logs=(Log(),),
            run=1,
            gap=0,
            expired=False,
            gateways=(Gateway(view),) * self.gateways,
            writes=(Write(),) * len(self.writes),
            superseded=(0,) * self.products,
            service=Service(),
            faults=self.faults,
        )
