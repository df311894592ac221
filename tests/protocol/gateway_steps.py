"""What gateways do in the model: see the state, tell Redis that they live, and write, one atomic step at a time."""

from __future__ import annotations

from collections.abc import Iterator

from tests.protocol.world import ABSENT, BEFORE, Gateway, Setting, World, Write

Step = tuple[str, World]
IN_STEPS_2_AND_3 = ("ENTER", "ROWS", "ENTER_AGAIN")
ENDED = ("DONE", "LOST")


def gateway_steps(setting: Setting, world: World) -> Iterator[Step]:
    """Every step that some gateway can take, faults of gateways not among them."""
    for number, gateway in enumerate(world.gateways):
        if not gateway.alive:
            continue
        if gateway.view != world.now:
            yield f"g{number} sees the state", with_gateway(setting, world, number, view=world.now)
        if not gateway.registered:
            yield (
                f"g{number} registers",
                with_gateway(setting, world, number, registered=True, known=True, view=world.now),
            )
            if gateway.known:
                yield f"g{number} trusts its view no longer", with_gateway(setting, world, number, known=False)
    for number, write in enumerate(world.writes):
        product, at_gateway, _ = setting.writes[number]
        gateway = world.gateways[at_gateway]
        if gateway.alive and write.at not in ENDED:
            name = f"w{number}(p{product}, g{at_gateway})"
            for label, after in _write_steps(setting, world, number, write, gateway):
                yield f"{name} {label}", with_gateway(setting, after, at_gateway)


def with_gateway(setting: Setting, world: World, number: int, **changes: object) -> World:
    """These changes; then the gateway acknowledges what it holds, if it may. (Later would only delay others.)"""
    gateway = world.gateways[number]._replace(**changes)
    if gateway.registered and gateway.acked != gateway.view.state.seq:
        waits = setting.rules.ack_waits_for_writes and any(
            at_gateway == number
            and write.at in IN_STEPS_2_AND_3
            and write.view is not None
            and write.view.state.seq < gateway.view.state.seq
            for write, (_, at_gateway, _) in zip(world.writes, setting.writes, strict=True)
        )
        if not waits:
            gateway = gateway._replace(acked=gateway.view.state.seq)
    if gateway == world.gateways[number]:
        return world
    gateways = list(world.gateways)
    gateways[number] = gateway
    return world._replace(gateways=tuple(gateways))


def _with_write(world: World, number: int, write: Write) -> World:
    writes = list(world.writes)
    writes[number] = write
    return world._replace(writes=tuple(writes))


def _write_steps(setting: Setting, world: World, number: int, write: Write, gateway: Gateway) -> Iterator[Step]:
    product, at_gateway, deletes = setting.writes[number]
    content = ABSENT if deletes else number + 1
    if write.at in ("IDLE", "AGAIN"):
        state = gateway.view.state
        same_freeze = gateway.view.state.freeze == world.now.state.freeze
        gives_up = world.expired if same_freeze else not setting.rules.give_up_reads_anew
        if not state.frozen or gives_up:
            begun = write._replace(
                at="ENTER" if state.log and setting.rules.first_entry else "ROWS",
                view=gateway.view,
                entered=0,
                over=_ended_before(setting, world, number) if write.at == "IDLE" else write.over,
            )
            how = "gives up waiting and begins" if state.frozen else "begins"
            yield f"{how} in c{gateway.view.serving}", _with_write(world, number, begun)
        return
    assert write.view is not None
    if write.at in ("ENTER", "ENTER_AGAIN", "ENTER_LATER"):
        log = write.log if write.at == "ENTER_LATER" else write.view.state.log
        then = write._replace(at={"ENTER": "ROWS"}.get(write.at, "CONFIRM"), entered=write.entered | 1 << log, log=0)
        yield f"enters log {log}", _enter(_with_write(world, number, then), log, product)
        if world.faults.redis_refuses:
            refused = _with_write(world, number, then)._replace(
                faults=world.faults._replace(redis_refuses=world.faults.redis_refuses - 1)
            )
            yield f"can't enter log {log}: gap", _gap(setting, refused, log)
    elif write.at == "ROWS":
        rows = [list(each) for each in world.rows]
        rows[write.view.serving][product] = content
        second = write.view.state.log and setting.rules.second_entry
        then = write._replace(at="ENTER_AGAIN" if second else "CONFIRM", wrote=write.wrote | 1 << write.view.serving)
        yield (
            f"writes c{write.view.serving}",
            _with_write(world, number, then)._replace(rows=tuple(tuple(each) for each in rows)),
        )
    elif write.at == "PRESENT":  # the second half of confirming by another serving collection
        own = write.wrote >> write.view.serving & 1 and setting.rules.own_rows_do_not_count
        present = not deletes and not own and world.rows[write.view.serving][product] == content
        if present and setting.rules.redo_checks_presence:
            yield "is there already: acknowledged", _acknowledge(world, number, write, product)
        else:
            yield "begins again", _with_write(world, number, write._replace(at="AGAIN", view=None))
    else:
        yield from _confirm(setting, world, number, write, product, at_gateway)


def _confirm(
    setting: Setting, world: World, number: int, write: Write, product: int, at_gateway: int
) -> Iterator[Step]:
    rules, seen = setting.rules, world.now
    assert write.view is not None
    if not rules.confirm:
        yield "acknowledged", _acknowledge(world, number, write, product)
    elif rules.confirm_follows_alias and (
        seen.serving != write.view.serving
        or (rules.confirm_counts_switches and seen.state.turn != write.view.state.turn)
    ):
        held = with_gateway(setting, world, at_gateway, view=seen)
        yield f"finds c{seen.serving} serving", _with_write(held, number, write._replace(at="PRESENT", view=seen))
    elif write.view.state.frozen and seen.state.freeze != write.view.state.freeze and rules.late_begins_again:
        held = with_gateway(setting, world, at_gateway, view=seen)
        yield (
            "gave up waiting, and there was another freeze",
            _with_write(held, number, write._replace(at="AGAIN", view=None)),
        )
    elif seen.state.frozen and seen.state.freeze != write.view.state.freeze and rules.confirm_waits_for_freeze:
        if world.expired and rules.confirm_gives_up:  # otherwise it waits
            held = with_gateway(setting, world, at_gateway, view=seen)
            yield "gives up waiting to confirm", _with_write(held, number, write._replace(at="AGAIN", view=None))
    elif seen.state.log and not write.entered >> seen.state.log & 1 and rules.confirm_enters_log:
        yield (
            f"must enter log {seen.state.log}",
            _with_write(world, number, write._replace(at="ENTER_LATER", log=seen.state.log)),
        )
    else:
        yield "acknowledged", _acknowledge(world, number, write, product)


def _ended_before(setting: Setting, world: World, number: int) -> int:
    """The contents that this write replaces for good once it is acknowledged: of writes that ended before it began."""
    product = setting.writes[number][0]
    over = world.superseded[product] | 1 << BEFORE
    for other, write in enumerate(world.writes):
        if setting.writes[other][0] == product and write.at in ENDED:
            over |= 1 << (other + 1)
    return over


def _acknowledge(world: World, number: int, write: Write, product: int) -> World:
    superseded = list(world.superseded)
    superseded[product] |= write.over
    # what is not needed any more is forgotten: fewer states
    done = _with_write(world, number, Write(at="DONE"))
    return done._replace(superseded=tuple(superseded))


def _enter(world: World, log: int, product: int) -> World:
    logs = list(world.logs)
    bit = 1 << product
    old = logs[log]
    logs[log] = old._replace(since=old.since | bit, ever=old.ever | bit)
    return world._replace(logs=tuple(logs))


def _gap(setting: Setting, world: World, log: int) -> World:
    if not setting.rules.gap:
        return world
    if not setting.rules.gap_of_each_log:
        return world._replace(gap=log)
    logs = list(world.logs)
    logs[log] = logs[log]._replace(gap=True)
    return world._replace(logs=tuple(logs))
