"""The rollout protocol of docs/decisions/0008, gone through state by state; and each of its rules is needed."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.protocol.explore import explore
from tests.protocol.world import Faults, Rules, Setting

ONE = ((0, 0, False),)
ONE_DELETE = ((0, 0, True),)
TWO = ((0, 0, False), (0, 1, False))
WRITE_AND_DELETE = ((0, 0, False), (0, 1, True))
STALL = Faults(gateway_stall=1)
OLD = Faults(freeze_expires=1)

SMALL = {
    "calm": Setting(WRITE_AND_DELETE),
    "two products": Setting(((0, 0, False), (1, 1, False)), products=2, attempts=1),
    "one gateway, two writes, freeze grows old": Setting(((0, 0, False), (0, 0, False)), OLD, gateways=1),
    "redis refuses": Setting(TWO, Faults(redis_refuses=2), attempts=1),
    "gateway stalls": Setting(ONE, STALL),
    "gateway stalls, gateway dies": Setting(ONE, Faults(gateway_stall=1, gateway_death=1)),
    "gateway dies": Setting(ONE, Faults(gateway_death=1), gateways=1),
    "gateway dies, two writes": Setting(TWO, Faults(gateway_death=1), attempts=1),
    "freeze grows old": Setting(TWO, OLD, attempts=1),
    "freeze grows old, redis refuses": Setting(ONE, Faults(freeze_expires=1, redis_refuses=2)),
    "two crashes": Setting(ONE, Faults(service_crash=2)),
    "crash, freeze grows old": Setting(ONE, Faults(service_crash=1, freeze_expires=1)),
    "crash, two writes": Setting(TWO, Faults(service_crash=1), attempts=1),
    "cancel": Setting(ONE, Faults(cancel=1)),
    "service gone": Setting(ONE, Faults(service_gone=1, gateway_stall=1)),
    "stall before move": Setting(TWO, OLD, stall_before_move=True, attempts=1),
    "stall before move, slow repair": Setting(TWO, Faults(freeze_expires=2), stall_before_move=True, attempts=1),
    "stall before move, redis refuses": Setting(
        ONE, Faults(freeze_expires=1, redis_refuses=2), stall_before_move=True, attempts=1
    ),
    "rollback": Setting(WRITE_AND_DELETE, switches=2, attempts=1),
    "rollback, gateway stalls": Setting(ONE, STALL, switches=2, attempts=1),
    "rollback, gateway stalls over a delete": Setting(ONE_DELETE, STALL, switches=2, attempts=1),
    "redis starts again": Setting(ONE, Faults(redis_restart=1), gateways=1),
    "redis is emptied": Setting(ONE, Faults(redis_flush=1), gateways=1),
    "narrows": Setting(WRITE_AND_DELETE, narrows=True, attempts=1),
    "narrows, gateway dies": Setting(ONE, Faults(gateway_death=1), gateways=1, narrows=True),
    "narrows, crash": Setting(ONE, Faults(service_crash=1), narrows=True),
    "narrows, redis refuses": Setting(ONE, Faults(redis_refuses=2), narrows=True),
}
LARGE = {
    "stall before move, gap, slow repair": Setting(
        TWO, Faults(freeze_expires=2, redis_refuses=2), stall_before_move=True, attempts=1
    ),
    "crash, freeze grows old, two writes": Setting(TWO, Faults(service_crash=1, freeze_expires=1), attempts=1),
    "three writes": Setting(((0, 0, False), (0, 1, False), (0, 0, True)), attempts=1),
    "two writes, gateway stalls": Setting(TWO, STALL, attempts=1),
    "redis starts again": Setting(ONE, Faults(redis_restart=1)),
    "redis is emptied": Setting(ONE, Faults(redis_flush=1)),
    "redis starts again, refuses": Setting(ONE, Faults(redis_restart=1, redis_refuses=2), gateways=1),
    "narrows, gateway stalls, two writes": Setting(TWO, STALL, attempts=1, narrows=True),
    "redis starts again, stall, crash": Setting(
        ONE, Faults(redis_restart=1, gateway_stall=1, service_crash=1), gateways=1
    ),
    "rollback, stall, death": Setting(ONE, Faults(gateway_stall=1, gateway_death=1), switches=2, attempts=1),
    "freeze grows old, gateway stalls": Setting(TWO, Faults(freeze_expires=1, gateway_stall=1), attempts=1),
    "stall before move, slow repair, crash": Setting(
        TWO, Faults(freeze_expires=2, service_crash=1), stall_before_move=True, attempts=1
    ),
}
# with liveness (P3) too, which needs memory
LIVELY = ("redis refuses", "freeze grows old", "service gone", "stall before move", "calm")

# each rule, and where its absence shows
NEEDED = {
    "first_entry": "gateway dies",
    "second_entry": "gateway stalls",
    "confirm": "gateway stalls",
    "confirm_enters_log": "gateway stalls",
    "confirm_waits_for_freeze": "gateway stalls",
    "confirm_follows_alias": "gateway stalls",
    "confirm_gives_up": "service gone",
    "confirm_counts_switches": "rollback, gateway stalls",
    "own_rows_do_not_count": "rollback, gateway stalls",
    "ack_waits_for_writes": "gateway dies",
    "unknown_reads_anew": "gateway stalls",
    "gap": "redis refuses",
    "barrier": "gateway dies",
    "narrow_waits": "narrows, gateway dies",
    "full_check": "calm",
    "p_before_check": "calm",
    "freeze": "calm",
    "freeze_waits": "gateway dies",
    "reads_log_after_freeze": "calm",
    "age_check": "freeze grows old",
    "run_id_check": "redis starts again",
    "mark_check": "redis is emptied",
    "after_is_frozen": "calm",
    "after_is_another_freeze": "freeze grows old",
    "unfreeze_waits": "calm",
    "repair": "stall before move, redis refuses",
    "repair_spares_what_is_newer": "stall before move, slow repair",
    "repair_sees_gaps": "stall before move, redis refuses",
    "repair_freezes_anew": "stall before move, slow repair",
}
NEEDED_IN_LARGE = {
    "registry_is_whole": "redis starts again",
    "late_begins_again": "freeze grows old, gateway stalls",
}
# not for safety: a write that the rollout has copied is not done again, and step 7 finds less to repair
SPARING = ("redo_checks_presence", "give_up_reads_anew")
# a write held up under log 1 while log 2 is begun; both products of the check are copied
UNTIL_TWO_LOGS = (
    "service log 1 on",
    "g0 sees the state",
    "g1 sees the state",
    "service all have acknowledged",
    "w1(p0, g1) begins in c0",
    "g1 misses its beats",
    "service is cancelled, and asked again",
    "service log 2 on",
    "g0 sees the state",
    "service all have acknowledged",
    "service notes P, publishes the barrier",
    "g0 sees the state",
    "service all have acknowledged",
    "service reads p0 of c0",
    "service writes p0 to c1",
)
TWO_LOGS = Setting(TWO, Faults(redis_refuses=3, gateway_stall=1, cancel=1), attempts=1)


@pytest.mark.parametrize("name", SMALL)
def test_the_protocol_holds(name: str) -> None:
    found = explore(SMALL[name], liveness=name in LIVELY)
    assert not found.problem, found


@pytest.mark.large
@pytest.mark.parametrize("name", LARGE)
def test_the_protocol_holds_in_larger_models(name: str) -> None:
    found = explore(LARGE[name])
    assert not found.problem, found


@pytest.mark.parametrize("rule", NEEDED)
def test_no_rule_can_be_left_out(rule: str) -> None:
    name = NEEDED[rule]
    found = explore(replace(SMALL[name], rules=Rules().without(rule)), liveness=name in LIVELY)
    assert found.problem


@pytest.mark.parametrize(("rules", "holds"), [(Rules(), True), (Rules().without("gap_of_each_log"), False)])
def test_a_gap_of_an_old_log_does_not_hide_one_of_the_new(rules: Rules, holds: bool) -> None:
    found = explore(replace(TWO_LOGS, rules=rules), prefix=UNTIL_TWO_LOGS)
    assert bool(found.problem) != holds, found


@pytest.mark.large
@pytest.mark.parametrize("rule", NEEDED_IN_LARGE)
def test_no_rule_can_be_left_out_of_larger_models(rule: str) -> None:
    assert explore(replace(LARGE[NEEDED_IN_LARGE[rule]], rules=Rules().without(rule))).problem


@pytest.mark.parametrize("rule", SPARING)
@pytest.mark.parametrize("name", ["calm", "freeze grows old", "gateway stalls", "stall before move"])
def test_some_rules_only_spare_work(rule: str, name: str) -> None:
    found = explore(replace(SMALL[name], rules=Rules().without(rule)))
    assert not found.problem, found


def test_every_rule_is_looked_at() -> None:
    assert {*NEEDED, *NEEDED_IN_LARGE, *SPARING, "gap_of_each_log"} == set(Rules.names())
