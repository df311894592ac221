"""What an operator may ask of a rollout, as a request says it."""

from __future__ import annotations

import math
from typing import Any

import pytest
from google.protobuf import duration_pb2
from hypothesis import given
from hypothesis import strategies as st
from lookalike.v1 import model_pb2

from services.common.errors import InvalidArgument
from services.rollout.names import model_name, model_version, rollout_id, rollout_name
from services.rollout.record import Missing, Options
from services.rollout.request import MAX_LATENCY_BUDGET_S, MAX_RETENTION_S, to_options, to_request

Duration = duration_pb2.Duration
SHARES = ("canary", "shadow", "tolerance", "category_tolerance")


def test_what_is_absent_has_its_default() -> None:
    assert to_options(model_pb2.RolloutModelRequest(name="models/2")) == Options()


def test_what_is_present_counts_also_when_it_is_nothing() -> None:
    asked = to_options(
        model_pb2.RolloutModelRequest(
            canary=0.1,
            shadow=1,
            validate_only=True,
            auto=True,
            compatible=True,
            golden_set="/photographs",
            tolerance=0,
            category_tolerance=0,
            latency_budget=Duration(nanos=5 * 10**7),
            missing_originals=model_pb2.MISSING_ORIGINALS_SKIP,
            retention=Duration(seconds=60),
        )
    )
    assert asked == Options(0.1, 1, True, True, True, "/photographs", 0, 0, 50, Missing.SKIP, 60)


@given(
    st.builds(
        Options,
        *(st.floats(0, 1) for _ in range(2)),
        *(st.booleans() for _ in range(3)),
        st.text(max_size=20),
        *(st.floats(0, 1) for _ in range(2)),
        # whole microseconds and milliseconds
        st.integers(1, int(MAX_LATENCY_BUDGET_S * 1e3)).map(float),
        st.sampled_from(Missing),
        st.integers(1, int(MAX_RETENTION_S)).map(float),
    )
)
def test_a_request_says_all_that_was_asked_for(options: Options) -> None:
    assert to_options(to_request(2, options)) == options


@pytest.mark.parametrize("field", SHARES)
@pytest.mark.parametrize("value", [-0.01, 1.01, math.nan, math.inf])
def test_a_share_is_from_0_to_1(field: str, value: float) -> None:
    refused({field: value}, field)


@pytest.mark.parametrize("field", ["latency_budget", "retention"])
@pytest.mark.parametrize(
    "value", [Duration(), Duration(seconds=-1), Duration(nanos=-1), Duration(seconds=2**62), Duration(nanos=-(2**31))]
)
def test_a_duration_is_more_than_nothing_and_has_a_limit(field: str, value: Duration) -> None:
    refused({field: value}, field)


def test_other_values_that_mean_nothing_are_refused() -> None:
    refused({"missing_originals": 7}, "missing_originals")
    refused({"golden_set": "x" * 5000}, "golden_set")


def refused(fields: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidArgument, match=field) as caught:
        to_options(model_pb2.RolloutModelRequest(**fields))
    assert caught.value.field == field


@pytest.mark.parametrize(
    "name", ["", "2", "models/", "models/0", "models/02", "models/-1", "models/2 ", "models/2/3", "models/²"]
)
def test_what_is_no_model_is_refused(name: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        model_version(name)
    assert (caught.value.reason, caught.value.field) == ("MODEL_NAME_INVALID", "name")


@pytest.mark.parametrize("name", ["", "x", "rollouts/", "rollouts/../x", "rollouts/a b", "rollouts/" + "a" * 129])
def test_what_is_no_rollout_is_refused(name: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        rollout_id(name)
    assert (caught.value.reason, caught.value.field) == ("ROLLOUT_NAME_INVALID", "name")


def test_names_are_read_as_they_are_written() -> None:
    assert model_version(model_name(12)) == 12
    assert model_name(0) == ""
    assert rollout_id(rollout_name("2-20261125-180000-123")) == "2-20261125-180000-123"
