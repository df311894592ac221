"""Goes through every state that the model can reach, and tells the shortest way to one that should not be.

What must hold in each: nothing that an acknowledged write replaced is seen by a search that begins now (P1, P2). When
the alias moves, both collections are equal but for what is being written (P4). From each state without further faults,
every write that has begun on a living gateway can still be acknowledged (P3).
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from tests.protocol.gateway_steps import ENDED, Step, gateway_steps
from tests.protocol.service_steps import OVER, service_faults, service_steps
from tests.protocol.world import ABSENT, Log, Setting, World, Write


class TooMany(Exception):
    """There are more states than allowed."""


@dataclass(frozen=True)
class Found:
    """`problem`: "" when nothing is wrong; `trace`: the steps that lead there."""

    states: int
    problem: str = ""
    trace: tuple[str, ...] = ()

    def __str__(self) -> str:
        return "\n".join((f"{self.problem or 'nothing wrong'}, {self.states} states", *self.trace))


def steps(setting: Setting, world: World) -> Iterator[Step]:
    """Steps that are nobody's fault."""
    yield from ((f"service {label}", after) for label, after in service_steps(setting, world))
    yield from gateway_steps(setting, world)
    if world.service.at == "GONE" and _may_expire(setting, world):
        yield "the freeze grows old", world._replace(expired=True)


def faults(setting: Setting, world: World) -> Iterator[Step]:
    left = world.faults
    yield from ((f"service {label}", after) for label, after in service_faults(setting, world))
    if left.freeze_expires and _may_expire(setting, world):
        yield (
            "the freeze grows old",
            world._replace(expired=True, faults=left._replace(freeze_expires=left.freeze_expires - 1)),
        )
    if world.service.at not in OVER:
        forgotten = tuple(each._replace(registered=False) for each in world.gateways)
        if left.redis_restart:
            yield (
                "redis starts again",
                world._replace(
                    run=world.run + 1,
                    gateways=forgotten,
                    logs=tuple(each._replace(since=0, ever=0) for each in world.logs),
                    faults=left._replace(redis_restart=left.redis_restart - 1),
                ),
            )
        if left.redis_flush:
            yield (
                "redis is emptied",
                world._replace(
                    gateways=forgotten,
                    logs=tuple(Log(gap=each.gap) for each in world.logs),
                    faults=left._replace(redis_flush=left.redis_flush - 1),
                ),
            )
    for number, gateway in enumerate(world.gateways):
        if not gateway.alive:
            continue
        if left.gateway_stall and gateway.registered:
            stalled = gateway._replace(registered=False, known=False)
            yield (
                f"g{number} misses its beats",
                world._replace(
                    gateways=_put(world.gateways, number, stalled),
                    faults=left._replace(gateway_stall=left.gateway_stall - 1),
                ),
            )
        if left.gateway_death:
            dead = gateway._replace(alive=False, registered=False, known=False, acked=0)
            end = Write(at="LOST")
            yield (
                f"g{number} dies",
                world._replace(
                    gateways=_put(world.gateways, number, dead),
                    writes=tuple(
                        end if at == number and write.at not in (*ENDED, "IDLE") else write
                        for write, (_, at, _) in zip(world.writes, setting.writes, strict=True)
                    ),
                    faults=left._replace(gateway_death=left.gateway_death - 1),
                ),
            )


def problem_in(setting: Setting, world: World) -> str:
    """What a search that begins now would find wrong; "" if nothing."""
    if setting.stall_before_move and world.now.state.after:
        return ""  # step 7 is to repair it
    for product in range(setting.products):
        if not _allowed(setting, world, product, world.rows[world.serving][product]):
            return f"P1: c{world.serving}, which serves, lacks an acknowledged write of p{product}"
        for number, gateway in enumerate(world.gateways):
            anew = setting.rules.unknown_reads_anew and not gateway.known
            collection = world.serving if anew else gateway.view.serving
            if gateway.alive and not _allowed(setting, world, product, world.rows[collection][product]):
                return f"P2: g{number} searches c{collection}, which lacks an acknowledged write of p{product}"
    return ""


def problem_between(setting: Setting, before: World, after: World) -> str:
    """P4."""
    if before.serving == after.serving or setting.stall_before_move:
        return ""
    left, had = before.faults, setting.faults
    always_known = (left.gateway_stall, left.redis_restart, left.redis_flush) == (
        had.gateway_stall,
        had.redis_restart,
        had.redis_flush,
    )
    quiet_at = ("IDLE", "DONE", "LOST") if always_known else ("IDLE", "DONE")
    for product in range(setting.products):
        quiet = all(
            write.at in quiet_at
            for write, (of, _, _) in zip(before.writes, setting.writes, strict=True)
            if of == product
        )
        if quiet and before.rows[0][product] != before.rows[1][product]:
            return f"P4: p{product} differs at the switch"
    return ""


def explore(setting: Setting, limit: int = 2_000_000, *, liveness: bool = False, prefix: Sequence[str] = ()) -> Found:
    """Breadth first, from the state that the steps `prefix` lead to. Raises TooMany beyond `limit` states."""
    start = setting.start()
    for wanted in prefix:
        start = dict((*steps(setting, start), *faults(setting, start)))[wanted]
    came_from: dict[World, tuple[World, str] | None] = {start: None}
    backwards: dict[World, list[World]] = {}
    queue = deque([start])
    while queue:
        world = queue.popleft()
        for benign, source in ((True, steps), (False, faults)):
            for label, after in source(setting, world):
                if after in came_from:
                    problem = problem_between(setting, world, after)
                else:
                    came_from[after] = (world, label)
                    problem = problem_between(setting, world, after) or problem_in(setting, after)
                    queue.append(after)
                if problem:
                    return Found(len(came_from), problem, (*_trace(came_from, world), label))
                if benign and liveness:
                    backwards.setdefault(after, []).append(world)
        if len(came_from) > limit:
            raise TooMany(f"more than {limit} states")
    stuck = _stuck(came_from, backwards) if liveness else None
    if stuck is not None:
        return Found(len(came_from), "P3: a write can't be acknowledged any more", _trace(came_from, stuck))
    return Found(len(came_from))


def walk(setting: Setting, seed: int, length: int = 400) -> Found:
    """One way at random, with its trace; `states`: how many steps it has."""
    choose = random.Random(seed)
    world = setting.start()
    trace: list[str] = []
    for _ in range(length):
        options = list(steps(setting, world))
        harm = list(faults(setting, world))
        if not options and not harm:
            break
        label, after = choose.choice(harm if harm and (not options or choose.random() < 0.1) else options)
        trace.append(label)
        problem = problem_between(setting, world, after) or problem_in(setting, after)
        if problem:
            return Found(len(trace), problem, tuple(trace))
        world = after
    return Found(len(trace), trace=tuple(trace))


def _may_expire(setting: Setting, world: World) -> bool:
    """Whether the freeze can be so old that gateways give up waiting.

    Not between the service's look at the clock and its moving the alias, unless it stands still there. And no gateway
    trusts a view that is so old.
    """
    state = world.now.state
    if not state.frozen or world.expired or (world.service.at == "MOVE" and not setting.stall_before_move):
        return False
    return not any(gateway.known and gateway.view.state.freeze != state.freeze for gateway in world.gateways)


def _allowed(setting: Setting, world: World, product: int, content: int) -> bool:
    superseded = world.superseded[product]
    if content != ABSENT:
        return not superseded >> content & 1
    return any(
        deletes and of == product and world.writes[number].at != "IDLE" and not superseded >> (number + 1) & 1
        for number, (of, _, deletes) in enumerate(setting.writes)
    )


def _stuck(came_from: dict[World, tuple[World, str] | None], backwards: dict[World, list[World]]) -> World | None:
    """A state from which no way without faults leads to one with all writes over that have begun."""
    good = [world for world in came_from if all(write.at in (*ENDED, "IDLE") for write in world.writes)]
    reached = set(good)
    while good:
        for before in backwards.get(good.pop(), ()):
            if before not in reached:
                reached.add(before)
                good.append(before)
    return next((world for world in came_from if world not in reached), None)


def _trace(came_from: dict[World, tuple[World, str] | None], world: World) -> tuple[str, ...]:
    labels: list[str] = []
    while (step := came_from[world]) is not None:
        world, label = step
        labels.append(label)
    return tuple(reversed(labels))


def _put(items: tuple, number: int, item: object) -> tuple:  # type: ignore[type-arg]
    return (*items[:number], item, *items[number + 1 :])
