"""The gate's judgement, and what is drawn to judge by; the measuring itself is in tests/integration/test_gate.py."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from services.common.products import Region
from services.rollout import golden_set
from services.rollout.gate import JUDGED_QUERIES, Scores, compare, gate_error
from services.rollout.golden_set import GoldenSet, Picture, named
from services.rollout.record import Gate, GateRow, Options

LENIENT = Options(tolerance=0.05, category_tolerance=0.2)


def pictures(*categories: tuple[str, int]) -> list[Picture]:
    return [
        Picture(f"{name}-{number}", name, f"{number:064x}") for name, count in categories for number in range(count)
    ]


def scores(values: list[float]) -> Scores:
    array = np.array(values, np.float64)
    return Scores(array, array, array)


class TestCompare:
    def test_means_overall_and_by_category(self) -> None:
        golden = pictures(("hats", 2), ("shoes", 3))
        old = Scores(np.array([1.0, 0, 1, 1, 0]), np.array([1.0, 1, 1, 1, 0]), np.array([1, 0.5, 1, 1, 0.25]))
        new = Scores(np.array([1.0, 1, 1, 0, 0]), np.array([1.0, 1, 1, 1, 1]), np.array([1, 1, 1, 0.5, 0.5]))
        overall, shoes, hats = compare(golden, old, new, LENIENT)
        assert overall == GateRow("", 5, (0.6, 0.6), (0.8, 1.0), (0.75, 0.8))
        # those with most queries first
        assert (shoes.category, shoes.queries, hats.category, hats.queries) == ("shoes", 3, "hats", 2)
        assert hats.recall_1 == (0.5, 1.0)
        assert shoes.recall_1 == (pytest.approx(2 / 3), pytest.approx(1 / 3))
        # far over the tolerance, but one query in three
        assert not shoes.failed

    @pytest.mark.parametrize(("lost", "failed"), [(0, False), (5, False), (6, True)])
    def test_a_drop_of_the_tolerance_passes_and_more_does_not(self, lost: int, failed: bool) -> None:
        golden = pictures(("", 100))
        old, new = scores([1.0] * 100), scores([0.0] * lost + [1.0] * (100 - lost))
        (row,) = compare(golden, old, new, LENIENT)
        assert row.failed is failed

    @pytest.mark.parametrize(("count", "failed"), [(JUDGED_QUERIES, True), (JUDGED_QUERIES - 1, False)])
    def test_a_category_is_judged_when_it_has_queries_enough(self, count: int, failed: bool) -> None:
        golden = pictures(("hats", 1000), ("rare", count))
        old = scores([1.0] * (1000 + count))
        new = scores([1.0] * 1000 + [0.0] * (count // 2) + [1.0] * (count - count // 2))
        overall, hats, rare = compare(golden, old, new, LENIENT)
        assert (overall.failed, hats.failed, rare.failed) == (False, False, failed)

    @pytest.mark.parametrize("metric", ["recall_1", "recall_5", "ndcg_10"])
    def test_each_metric_counts(self, metric: str) -> None:
        golden, same = pictures(("", 10)), scores([1.0] * 10)
        (row,) = compare(golden, same, replace(same, **{metric: np.full(10, 0.5)}), LENIENT)
        assert row.failed
        (row,) = compare(golden, replace(same, **{metric: np.full(10, 0.5)}), same, LENIENT)
        assert not row.failed

    def test_compatible_queries(self) -> None:
        same = scores([1.0, 1.0])
        rows = compare(pictures(("hats", 2)), same, same, LENIENT, np.array([1.0, 0.0]))
        assert [row.compatible for row in rows] == [0.5, 0.5]


class TestError:
    ROW = GateRow("", 200, (0.9, 0.9), (0.95, 0.95), (0.9, 0.9))

    def gate(self, *rows: GateRow, latency: float = 20.0) -> Gate:
        return Gate(False, "a set", rows, (10.0, latency), 100.0)

    def test_the_worst_metric_is_named(self) -> None:
        category = replace(self.ROW, category="hats", queries=40, ndcg_10=(0.8, 0.3), failed=True)
        error = gate_error(self.gate(replace(self.ROW, recall_1=(0.9, 0.7), failed=True), category, latency=500))
        assert error.reason == "GATE_FAILED"
        assert error.message == "nDCG@10 in category 'hats' falls from 80.0% to 30.0% (40 queries)"

    def test_what_did_not_fail_is_not_named(self) -> None:
        small = replace(self.ROW, category="rare", queries=2, recall_1=(1.0, 0.0))
        error = gate_error(self.gate(replace(self.ROW, recall_5=(0.9, 0.8), failed=True), small))
        assert error.message == "recall@5 overall falls from 90.0% to 80.0% (200 queries)"

    def test_queries_that_do_not_find_the_old_vectors(self) -> None:
        assert gate_error(self.gate(replace(self.ROW, compatible=0.2))).reason == "NOT_COMPATIBLE"

    def test_a_slow_version(self) -> None:
        error = gate_error(self.gate(self.ROW, latency=123.4))
        assert error.reason == "LATENCY_OVER_BUDGET"
        assert "123 ms" in error.message
        assert "100 ms" in error.message


class TestGoldenSet:
    def test_what_is_lost_takes_its_query_along(self) -> None:
        a, b = (Picture(name, "", name * 64) for name in "ab")
        shown = [Picture("a", "", "1" * 64), Picture("b", "", "2" * 64), Picture("b", "", "3" * 64)]
        whole = GoldenSet("", [a, b], shown)
        left = whole.without(lambda picture: picture is shown[1])
        assert (list(left.queries), list(left.gallery)) == ([a, b], [shown[0], shown[2]])
        left = whole.without(lambda picture: picture is shown[0])
        assert (list(left.queries), list(left.gallery)) == ([b], shown[1:])
        left = whole.without(lambda picture: picture is a)
        assert (list(left.queries), list(left.gallery)) == ([b], shown)

    def test_what_is_lost_of_a_set_that_asks_among_itself(self) -> None:
        own = [Picture("a", "", "1"), Picture("a", "", "2"), Picture("b", "", "3"), Picture("b", "", "4")]
        whole = GoldenSet("", own, own, np.arange(4))
        assert whole.pictures == own
        left = whole.without(lambda picture: picture is own[0])
        assert list(left.queries) == list(left.gallery) == own[2:]
        np.testing.assert_array_equal(left.own, [0, 1])

    def test_the_middle_of_a_region(self) -> None:
        assert golden_set._middle(None).as_tuple() == pytest.approx((0.05, 0.05, 0.95, 0.95))
        assert golden_set._middle(Region(0.5, 0, 1, 0.5)).as_tuple() == pytest.approx((0.525, 0.025, 0.975, 0.475))

    def test_a_named_folder(self, tmp_path: Path) -> None:
        shop(tmp_path, products=3, each=2)
        golden = named(tmp_path)
        assert len(golden.queries) == 6
        assert golden.own is not None
        assert {picture.category for picture in golden.queries} == {"hats"}
        assert str(tmp_path) in golden.name

    def test_a_large_one_is_cut_to_whole_products(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(golden_set, "MAX_QUERIES", 10)
        shop(tmp_path, products=8, each=3)
        golden = named(tmp_path)
        assert 8 <= len(golden.queries) <= 10
        assert min(Counter(picture.product for picture in golden.queries).values()) > 1
        # the same each time
        assert list(named(tmp_path).queries) == list(golden.queries)

    def test_a_large_one_with_a_training_split(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(golden_set, "MAX_QUERIES", 5)
        monkeypatch.setattr(golden_set, "MAX_GALLERY", 9)
        shop(tmp_path / "train", products=6, each=4)
        shop(tmp_path / "validation", products=6, each=2)
        golden = named(tmp_path)
        assert golden.own is None
        assert (len(golden.queries), len(golden.gallery)) == (5, 6)
        assert {picture.product for picture in golden.queries} <= {picture.product for picture in golden.gallery}


def shop(folder: Path, products: int, each: int) -> None:
    for product in range(products):
        place = folder / "hats" / f"hat-{product}"
        place.mkdir(parents=True)
        for number in range(each):
            Image.new("RGB", (32, 32), (product, number, 0)).save(place / f"{number}.png")
