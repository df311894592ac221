"""What each encoder version is to the system, and what gateways saw of a new one."""

from __future__ import annotations

from pathlib import Path

import pytest

from services.backends.index_schema import Collection
from services.backends.live_samples import Sample
from services.common.manifest import Manifest, Variant
from services.rollout.models import NO_FILES, ModelInfo, ModelState, describe_models, models_of
from services.rollout.sample_summary import Latency, canary_of, shadow_of


def manifest(version: int) -> Manifest:
    variants = (Variant("int8", "model_int8.onnx", "0" * 64),)
    made = "2026-11-25T18:00:00+00:00"
    return Manifest(
        version, "int8", variants, 224, 256, "p1", "net", "run-1", made, {"recall@1": 0.75}, "shop", golden=()
    )


def states(serving: int = 0, mirror: int = 0, rolling_out: int = 0) -> dict[int, ModelState]:
    """Of versions 1 to 3 with files, 3 of them damaged, and 4 with a collection alone."""
    files = {1: manifest(1), 2: manifest(2), 3: "model.onnx is missing"}
    collections = [Collection.of(version, 256, "p1") for version in (1, 4)]
    found = models_of(files, collections, {}, (), serving=serving, mirror=mirror, rolling_out=rolling_out)
    assert [info.version for info in found] == [4, 3, 2, 1]
    return {info.version: info.state for info in found}


def test_a_version_is_what_it_is_to_the_system() -> None:
    available, damaged = ModelState.AVAILABLE, ModelState.DAMAGED
    assert states() == {1: available, 2: available, 3: damaged, 4: damaged}
    assert states(serving=1) == {1: ModelState.SERVING, 2: available, 3: damaged, 4: damaged}
    # from its first stage on, and when the mirror is there too
    for mirror in (0, 2):
        assert states(1, mirror, 2)[2] is ModelState.ROLLING_OUT
    assert states(2, 1, 0) == {1: ModelState.RETAINED, 2: ModelState.SERVING, 3: damaged, 4: damaged}
    # a rollback
    assert states(2, 1, 1)[1] is ModelState.ROLLING_OUT


def test_a_version_whose_files_are_damaged_still_serves_and_says_so() -> None:
    (info,) = models_of({3: "gone"}, [], {}, (), serving=3, mirror=0, rolling_out=0)
    assert (info.state, info.problem) == (ModelState.SERVING, "gone")


def test_a_version_has_its_collection_rows_and_place_in_memory() -> None:
    collections = [Collection.of(version, 256, "p1") for version in (1, 4)]
    found = models_of({1: manifest(1), 2: manifest(2)}, collections, {1: 7}, {1}, serving=1, mirror=0, rolling_out=0)
    assert found == [
        ModelInfo(4, ModelState.DAMAGED, NO_FILES, None, "products_m4"),
        ModelInfo(2, ModelState.AVAILABLE, "", manifest(2)),
        ModelInfo(1, ModelState.SERVING, "", manifest(1), "products_m1", 7, True),
    ]


def test_files_are_looked_at(tmp_path: Path) -> None:
    (tmp_path / "3").mkdir()
    (info,) = describe_models(tmp_path, [], {}, (), serving=0, mirror=0, rolling_out=0)
    assert (info.version, info.state) == (3, ModelState.DAMAGED)
    assert "manifest.json is missing" in info.problem


def test_without_samples_there_is_nothing_to_say() -> None:
    assert shadow_of([Sample("canary", 1), Sample("serving", 1)]) is None
    assert canary_of([Sample("shadow", 1), Sample("serving", 1)]) is None


def test_shadow_answers_in_a_few_numbers() -> None:
    samples = [
        *(Sample("shadow", ms, ms / 100, 1 - ms / 100, overlap=0.5 + ms / 200) for ms in range(101)),
        # a failed one has no latency, one without results no similarity and no overlap
        Sample("shadow", 9e9, failed=True),
        Sample("shadow", 50),
        Sample("canary", 9e9, 0.5),
    ]
    found = shadow_of(samples)
    assert found is not None
    assert (found.queries, found.failed) == (103, 1)
    assert found.overlap_10 == pytest.approx(0.75)
    assert (found.latency.p50_ms, found.latency.p95_ms) == pytest.approx((50, 94.95))
    assert found.similarity_after == pytest.approx((0.05, 0.25, 0.5, 0.75, 0.95))
    assert found.similarity_before == pytest.approx((0.05, 0.25, 0.5, 0.75, 0.95))


def test_a_canary_is_set_against_the_others() -> None:
    samples = [
        *(Sample("canary", ms) for ms in (10, 20, 30)),
        Sample("canary", 9e9, failed=True),
        *(Sample("serving", ms) for ms in (1, 2, 3)),
        Sample("serving", 9e9, failed=True),
        Sample("shadow", 9e9),
    ]
    found = canary_of(samples)
    assert found is not None
    assert (found.queries, found.failed) == (4, 1)
    assert (found.latency.p50_ms, found.serving.p50_ms) == (20, 2)
    assert (found.latency.p95_ms, found.serving.p95_ms) == pytest.approx((29, 2.9))


def test_only_failures_leave_no_figures() -> None:
    shadow, canary = shadow_of([Sample("shadow", 1, failed=True)]), canary_of([Sample("canary", 1, failed=True)])
    assert shadow is not None
    assert canary is not None
    assert (shadow.failed, shadow.overlap_10, shadow.latency, shadow.similarity_after) == (1, 0, Latency(), ())
    assert (canary.failed, canary.latency, canary.serving) == (1, Latency(), Latency())
