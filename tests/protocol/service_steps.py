"""What the rollout service does in the model, its crashes and cancels included."""

from __future__ import annotations

from collections.abc import Iterator

from tests.protocol.world import Log, Published, Service, Setting, World

Step = tuple[str, World]
OVER = ("END", "STOPPED", "GONE")
AFTER_WAITING = {
    "LOG_WAIT": "NOTE_P",
    "BARRIER_WAIT": "COPY",
    "NARROW_WAIT": "COPY",
    "FREEZE_WAIT": "READ",
    "AFTER_WAIT": "REPAIR",
    "AGAIN_WAIT": "REPAIR_FROZEN",
}


def service_steps(setting: Setting, world: World) -> Iterator[Step]:
    """The next step of the service, if it need not wait."""
    service, rules = world.service, setting.rules
    at = service.at
    everything = (1 << setting.products) - 1
    if at == "LOG_ON":
        begun = world._replace(logs=(*world.logs, Log(mark=world.run)))
        log = len(world.logs)
        yield (
            f"log {log} on",
            _publish(
                begun,
                log=log,
                frozen=False,
                after=False,
                to=service._replace(at="LOG_WAIT", log=log, source=world.serving),
            ),
        )
    elif at in AFTER_WAITING:
        off = (at == "FREEZE_WAIT" and not rules.freeze_waits) or (at == "AFTER_WAIT" and not rules.unfreeze_waits)
        if off or all_acknowledged(setting, world):
            waited = service._replace(at=AFTER_WAITING[at])
            if at == "BARRIER_WAIT":
                then = "NARROW" if setting.narrows else "FREEZE"
                waited = _copying(service, everything if rules.full_check else 0, then)
            elif at == "NARROW_WAIT":
                waited = _copying(service, service.todo, "FREEZE")
            yield "all have acknowledged", world._replace(service=waited)
    elif at == "NOTE_P":
        noted = _log(world, service.log, since=0) if rules.p_before_check else world
        to = service._replace(at="BARRIER_WAIT")
        if rules.barrier:
            yield "notes P, publishes the barrier", _publish(noted, to=to)
        else:
            copying = _copying(service, everything if rules.full_check else 0, "FREEZE")
            yield "notes P", noted._replace(service=copying)
    elif at == "NARROW":
        noted, entered = _log(world, service.log, since=0), world.logs[service.log].since
        if rules.narrow_waits:
            to = service._replace(at="NARROW_WAIT", todo=entered)
            yield "notes P once more, publishes the barrier", _publish(noted, to=to)
        else:
            yield "notes P once more", noted._replace(service=_copying(service, entered, "FREEZE"))
    elif at == "COPY":
        if service.then == "THAW" and world.expired and rules.repair_freezes_anew:
            yield "was too slow", world._replace(service=service._replace(at="REPAIR", todo=0, held=-1, then=""))
        else:
            yield _copy(world)
    elif at == "FREEZE":
        if not rules.p_before_check:
            world = _log(world, service.log, since=0)
        if rules.freeze:
            freeze = world.now.state.freeze + 1
            frozen = _publish(world, frozen=True, freeze=freeze, to=service._replace(at="FREEZE_WAIT"))
            yield "freezes", frozen._replace(expired=False)
        else:
            yield "does not freeze", world._replace(service=service._replace(at="READ"))
    elif at == "READ":
        todo = world.logs[service.log].since if rules.reads_log_after_freeze else 0
        read = _log(world, service.log, since=0)
        yield "reads the log from P", read._replace(service=_copying(service, todo, "LOOK"))
    elif at == "LOOK":
        yield _look(setting, world)
    elif at == "MOVE":
        moved = world._replace(serving=1 - world.serving, expired=world.expired and not rules.after_is_another_freeze)
        yield f"moves the alias to c{moved.serving}", moved._replace(service=service._replace(at="AFTER_WAIT"))
    elif at == "REPAIR":
        if rules.repair_freezes_anew and _entered_since(setting, world):
            again = _publish(world, freeze=world.now.state.freeze + 1, to=service._replace(at="AGAIN_WAIT"))
            yield "freezes anew", again._replace(expired=False)
        else:
            repairing = _copying(service, _to_repair(setting, world), "THAW")
            yield "reads the old log once more", world._replace(service=repairing)
    elif at == "REPAIR_FROZEN" and world.expired:
        yield "was too slow", world._replace(service=service._replace(at="REPAIR"))
    elif at == "REPAIR_FROZEN":
        repairing = _copying(service, _to_repair(setting, world), "THAW")
        yield "reads both logs", world._replace(service=repairing)
    elif at == "THAW":
        more = service.switches + 1 < setting.switches
        to = service._replace(
            at="NOTE_P" if more else "END", switches=service.switches + 1, log=world.now.state.log, source=world.serving
        )
        yield "unfreezes", _publish(world, frozen=False, after=False, to=to)


def service_faults(setting: Setting, world: World) -> Iterator[Step]:
    """Crash, with the restart that follows, and cancel, with the rollout that follows."""
    service, faults = world.service, world.faults
    if service.at in OVER:
        return
    if faults.service_crash:
        crashed = world._replace(faults=faults._replace(service_crash=faults.service_crash - 1))
        yield "the service dies, another goes on", _recover(crashed)
    if faults.service_gone:
        gone = world._replace(faults=faults._replace(service_gone=0), service=Service(at="GONE"))
        yield "the service is gone for good", gone
    if faults.cancel and not world.now.state.after:
        cancelled = world._replace(faults=faults._replace(cancel=faults.cancel - 1))
        to = Service(switches=service.switches, attempts=service.attempts)
        yield "is cancelled, and asked again", _publish(cancelled, frozen=False, log=0, to=to)


def all_acknowledged(setting: Setting, world: World) -> bool:
    """Whether all gateways that Redis knows act by the published state.

    With `registry_is_whole` the service makes sure that Redis knows all who trust their view: it waits out their trust
    after it opened a log, and any loss since then shows in the log's mark.
    """
    seq = world.now.state.seq
    for gateway in world.gateways:
        if gateway.registered and gateway.acked < seq:
            return False
        if gateway.known and not gateway.registered and setting.rules.registry_is_whole:
            return False
    return True


def intact(setting: Setting, world: World, log: int) -> bool:
    """Whether no entry of this log can be missing."""
    rules, found = setting.rules, world.logs[log]
    gap = found.gap if rules.gap_of_each_log else world.gap == log
    return not gap and _mark_right(setting, world, found)


def _mark_right(setting: Setting, world: World, log: Log) -> bool:
    if log.mark == 0:  # emptied
        return not setting.rules.mark_check
    return log.mark == world.run or not setting.rules.run_id_check


def _look(setting: Setting, world: World) -> Step:
    service = world.service
    rules = setting.rules
    whole = intact(setting, world, service.log)
    in_time = not world.expired or not rules.age_check
    acknowledged = all_acknowledged(setting, world) or not rules.freeze_waits or not rules.freeze
    if whole and in_time and acknowledged:
        state = world.now.state
        log = len(world.logs)
        frozen = rules.after_is_frozen
        after = Published(
            seq=state.seq + 1,
            log=log,
            frozen=frozen,
            freeze=state.freeze + rules.after_is_another_freeze,
            after=True,
            turn=state.turn + 1,
        )
        published = list(world.published)
        published[1 - world.serving] = after
        return "looks, writes the state of after", world._replace(
            published=tuple(published),
            logs=(*world.logs, Log(mark=world.run)),
            service=service._replace(at="MOVE"),
        )
    again = service.attempts + 1 < setting.attempts
    at = "STOPPED" if not again else "NOTE_P" if whole else "LOG_ON"
    to = service._replace(at=at, attempts=service.attempts + 1)
    return "looks, gives up this freeze", _publish(world, frozen=False, to=to)


def _copy(world: World) -> Step:
    """One product, in two steps: what is read may be old when it is written."""
    service = world.service
    product = (service.todo & -service.todo).bit_length() - 1
    source, target = service.source, 1 - service.source
    rest = _copying(service, service.todo & ~(1 << product), service.then)
    if service.held < 0:
        found = world.rows[source][product]
        if found == world.rows[target][product]:
            return f"finds p{product} the same", world._replace(service=rest)
        return f"reads p{product} of c{source}", world._replace(service=service._replace(held=found))
    rows = [list(each) for each in world.rows]
    rows[target][product] = service.held
    copied = world._replace(rows=tuple(tuple(each) for each in rows), service=rest)
    return f"writes p{product} to c{target}", copied


def _copying(service: Service, todo: int, then: str) -> Service:
    return service._replace(at="COPY" if todo else then, todo=todo, held=-1, then=then if todo else "")


def _entered_since(setting: Setting, world: World) -> int:
    """Products that may have been written in the old collection after the service read its log."""
    rules, old = setting.rules, world.logs[world.service.log]
    gap = old.gap if rules.gap_of_each_log else world.gap == world.service.log
    entered = (1 << setting.products) - 1 if gap and rules.repair_sees_gaps else old.since
    return entered if rules.repair else 0


def _to_repair(setting: Setting, world: World) -> int:
    """Those of them that were not written in the new one. Who can't tell which they are leaves all as it is."""
    entered, log = _entered_since(setting, world), world.now.state.log
    if not setting.rules.repair_spares_what_is_newer:
        return entered
    return entered & ~world.logs[log].ever if intact(setting, world, log) else 0


def _recover(world: World) -> World:
    """Goes on by what was published."""
    state, before = world.now.state, world.service
    fresh = Service(log=state.log, source=world.serving, switches=before.switches, attempts=before.attempts)
    if state.after:
        old_log = world.published[1 - world.serving].log
        return world._replace(service=fresh._replace(at="AFTER_WAIT", log=old_log, source=1 - world.serving))
    to = fresh._replace(at="NOTE_P" if state.log else "LOG_ON")
    return _publish(world, frozen=False, to=to) if state.frozen else world._replace(service=to)


def _publish(world: World, *, to: Service, **changes: object) -> World:
    published = list(world.published)
    state = published[world.serving]
    published[world.serving] = state._replace(seq=state.seq + 1, **changes)
    return world._replace(published=tuple(published), service=to)


def _log(world: World, number: int, **changes: int) -> World:
    logs = list(world.logs)
    logs[number] = logs[number]._replace(**changes)
    return world._replace(logs=tuple(logs))
