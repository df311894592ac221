"""Many random histories of the model, longer than can be gone through exhaustively. Hypothesis shortens what fails.

The machine has only abstract operations, so that it can drive a real implementation beside the model later.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule, run_state_machine_as_test

from tests.protocol.explore import faults, problem_between, problem_in, steps, walk
from tests.protocol.gateway_steps import Step
from tests.protocol.world import Faults, Rules, Setting, World

WRITES = ((0, 0, False), (0, 1, True), (1, 1, False), (0, 1, False), (1, 0, True), (0, 0, False))
MANY = Setting(
    writes=WRITES,
    products=2,
    switches=3,
    attempts=6,
    faults=Faults(
        service_crash=2, gateway_stall=2, redis_restart=1, redis_flush=1, redis_refuses=2, freeze_expires=1, cancel=1
    ),
)
# a write, one step of it; a step of the service; a gateway sees the state, registers or loses trust
WRITE, SERVICE, GATEWAY = "w", "service", "g"


class Histories(RuleBasedStateMachine):
    """Each rule takes one of the steps of its kind that are possible now."""

    setting = MANY

    def __init__(self) -> None:
        super().__init__()
        self.world: World = self.setting.start()

    @rule(number=st.integers(0, 10**6), deletes=st.booleans())
    def write_or_delete(self, number: int, deletes: bool) -> None:
        """One step of some write, preferring writes or deletes."""
        preferred = {f"w{each}(" for each, (_, _, kind) in enumerate(self.setting.writes) if kind == deletes}
        if not self._take(lambda label: label[: label.find("(") + 1] in preferred, number):
            self._take(lambda label: label.startswith(WRITE), number)

    @rule()
    def service_step(self) -> None:
        self._take(lambda label: label.startswith(SERVICE), 0)

    @rule(count=st.integers(1, 20), number=st.integers(0, 10**6))
    def service_goes_on(self, count: int, number: int) -> None:
        """Several steps of the service, and gateways that see what it publishes: a rollout needs many."""
        for _ in range(count):
            if not self._take(lambda label: label.startswith(SERVICE), 0):
                self._take(lambda label: label.startswith(GATEWAY), number)

    @rule(number=st.integers(0, 10**6))
    def gateway_step(self, number: int) -> None:
        self._take(lambda label: label.startswith(GATEWAY), number)

    @precondition(lambda self: self.world.faults != Faults())
    @rule(number=st.integers(0, 10**6), often=st.integers(0, 3))
    def crash(self, number: int, often: int) -> None:
        """Some fault, one time in four."""
        if not often:
            self._take(lambda _: True, number, harm=True)

    def _take(self, wanted: Callable[[str], bool], number: int, *, harm: bool = False) -> bool:
        source = faults if harm else steps
        found: list[Step] = [each for each in source(self.setting, self.world) if wanted(each[0])]
        if not found:
            return False
        label, after = found[number % len(found)]
        problem = problem_between(self.setting, self.world, after) or problem_in(self.setting, after)
        assert not problem, f"after {label}: {problem}"
        self.world = after
        return True


def test_no_random_history_breaks_the_protocol() -> None:
    run_state_machine_as_test(  # type: ignore[no-untyped-call]
        Histories,
        settings=settings(
            max_examples=150, stateful_step_count=60, deadline=None, suppress_health_check=list(HealthCheck)
        ),
    )


@pytest.mark.parametrize("stall_before_move", [False, True])
def test_no_random_walk_breaks_the_protocol(stall_before_move: bool) -> None:
    setting = Setting(**{**vars(MANY), "stall_before_move": stall_before_move})
    switches = 0
    for seed in range(1000):
        found = walk(setting, seed)
        assert not found.problem, found
        switches += sum("moves the alias" in label for label in found.trace)
    assert switches > 1000  # the walks get somewhere


def test_random_walks_would_find_a_broken_rule() -> None:
    broken = Setting(**{**vars(MANY), "rules": Rules().without("confirm")})
    assert any(walk(broken, seed).problem for seed in range(1000))
