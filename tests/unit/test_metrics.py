"""Retrieval metrics: by hand, and against an implementation without vectors."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.evaluation.metrics import (
    mean_average_precision,
    mean_cosine,
    mean_reciprocal_rank,
    ndcg_at_k,
    nearest,
    rank,
    recall_at_k,
)


def at(*degrees: float) -> np.ndarray:
    radians = np.deg2rad(degrees)
    return np.stack([np.cos(radians), np.sin(radians)], axis=1).astype(np.float32)


GALLERY, GALLERY_IDS = at(0, 10, 90, 180), ("a", "b", "a", "c")


class TestByHand:
    def test_ranking(self) -> None:
        # places: query at 1 degree 0 1 2 3; at 9 degrees 1 0 2 3; at 60 degrees 2 1 0 3
        ranking = rank(at(1, 9, 60, 60), ("a", "a", "b", "c"), GALLERY, GALLERY_IDS)
        np.testing.assert_array_equal(ranking.rank, [1, 2, 2, 4])
        np.testing.assert_array_equal(ranking.relevant, [2, 2, 1, 1])
        # a: right at 1 and 3 of R = 2, so 1/1 over 2; at 2 and 3, so (1/2) over 2; b, c: R = 1 and not at 1
        np.testing.assert_allclose(ranking.average_precision, [0.5, 0.25, 0, 0])
        np.testing.assert_allclose(ranking.reciprocal_rank, [1, 0.5, 0.5, 0.25])
        np.testing.assert_array_equal(ranking.found(1), [True, False, False, False])
        np.testing.assert_array_equal(ranking.found(3), [True, True, True, False])

    def test_map_at_r_of_the_paper(self) -> None:
        # R = 4; right at 1, 3, 4 of the first four: (1/1 + 2/3 + 3/4) / 4; what comes after does not count
        gallery = at(0, 10, 20, 30, 40, 50)
        ids = ("x", "y", "x", "x", "x", "y")
        assert mean_average_precision(at(0), ("x",), gallery, ids) == pytest.approx((1 + 2 / 3 + 3 / 4) / 4)

    def test_means(self) -> None:
        queries, ids = at(1, 9), ("a", "a")
        assert mean_reciprocal_rank(queries, ids, GALLERY, GALLERY_IDS) == pytest.approx(0.75)
        assert mean_average_precision(queries, ids, GALLERY, GALLERY_IDS) == pytest.approx(0.375)

    def test_nothing_right_counts_as_zero(self) -> None:
        ranking = rank(at(0), ("z",), GALLERY, GALLERY_IDS)
        assert (ranking.rank[0], ranking.average_precision[0], ranking.reciprocal_rank[0]) == (0, 0, 0)
        assert not ranking.found(4)[0]

    def test_ndcg(self) -> None:
        # R = 2: the best order gains 1 / log2(2) + 1 / log2(3)
        best = 1 + 1 / np.log2(3)
        found = ndcg_at_k(at(1, 9, 60, 60), ("a", "a", "b", "c"), GALLERY, GALLERY_IDS)
        # a: right at 1 and 3; at 2 and 3. b: R = 1, at 2. c: at 4
        expected = [(1 + 1 / 2) / best, (1 / np.log2(3) + 1 / 2) / best, 1 / np.log2(3), 1 / np.log2(5)]
        np.testing.assert_allclose(found, expected)

    def test_ndcg_counts_the_first_k_alone(self) -> None:
        queries, ids = at(1, 60, 0), ("a", "c", "z")
        # a: of two right pictures one can be among the first, and is; c is the fourth; z has none
        np.testing.assert_allclose(ndcg_at_k(queries, ids, GALLERY, GALLERY_IDS, k=1), [1, 0, 0])
        best = 1 + 1 / np.log2(3)
        np.testing.assert_allclose(ndcg_at_k(queries, ids, GALLERY, GALLERY_IDS, k=2), [1 / best, 0, 0])

    def test_ndcg_passes_over_the_query_itself(self) -> None:
        vectors, ids = at(0, 10, 25, 90), ("a", "a", "b", "b")
        found = ndcg_at_k(vectors, ids, vectors, ids, own=np.arange(4))
        # the other one of its product comes first, first, third (after 10 and 0), first
        np.testing.assert_allclose(found, [1, 1, 1 / 2, 1])

    def test_leave_one_out_passes_over_the_query_itself(self) -> None:
        vectors, ids = at(0, 10, 25, 90), ("a", "a", "b", "b")
        assert recall_at_k(vectors, ids, vectors, ids, ks=(1,)) == {1: 1.0}
        own = np.arange(4)
        np.testing.assert_array_equal(nearest(vectors, vectors, 1, own)[:, 0], [1, 0, 1, 2])
        assert recall_at_k(vectors, ids, vectors, ids, ks=(1, 3), own=own) == {1: 0.75, 3: 1.0}
        ranking = rank(vectors, ids, vectors, ids, own)
        np.testing.assert_array_equal(ranking.relevant, [1, 1, 1, 1])
        np.testing.assert_array_equal(ranking.rank, [1, 1, 3, 1])

    def test_twins_of_a_query_stay_when_it_is_left_out(self) -> None:
        vectors = at(0, 0, 50)
        np.testing.assert_array_equal(nearest(vectors, vectors, 2, np.arange(3)), [[1, 2], [0, 2], [0, 1]])

    def test_undefined_is_refused(self) -> None:
        with pytest.raises(ValueError, match="0 queries"):
            rank(at(), (), GALLERY, GALLERY_IDS)
        with pytest.raises(ValueError, match="in 0 pictures"):
            rank(at(0), ("a",), at(0), ("a",), np.arange(1))
        with pytest.raises(ValueError, match="recall@4"):
            recall_at_k(GALLERY, GALLERY_IDS, GALLERY, GALLERY_IDS, ks=(4,), own=np.arange(4))

    def test_mean_cosine(self) -> None:
        assert mean_cosine(at(0, 0), at(60, 90)) == pytest.approx(0.25)


ids = st.sampled_from("abc")
# small integers: inner products are exact, so that ties are ties
vector = st.lists(st.integers(-3, 3), min_size=3, max_size=3)


@given(
    st.lists(st.tuples(ids, vector), min_size=1, max_size=6),
    st.lists(st.tuples(ids, vector), min_size=1, max_size=12),
    st.booleans(),
)
def test_as_counted_one_by_one(
    queries: list[tuple[str, list[int]]], gallery: list[tuple[str, list[int]]], leave_one_out: bool
) -> None:
    if leave_one_out:
        queries = gallery
        if len(gallery) < 2:
            return
    own = np.arange(len(gallery)) if leave_one_out else None
    query_ids, query_vectors = [q[0] for q in queries], np.array([q[1] for q in queries], np.float32)
    gallery_ids, gallery_vectors = [g[0] for g in gallery], np.array([g[1] for g in gallery], np.float32)
    ranking = rank(query_vectors, query_ids, gallery_vectors, gallery_ids, own)
    top = nearest(query_vectors, gallery_vectors, len(gallery), own)
    for number, (wanted, query) in enumerate(queries):
        others = [i for i in range(len(gallery)) if not (leave_one_out and i == number)]
        order = sorted(others, key=lambda i: (-sum(a * b for a, b in zip(query, gallery[i][1], strict=True)), i))
        right = [gallery_ids[i] == wanted for i in order]
        r = sum(right)
        precision = sum(sum(right[: i + 1]) / (i + 1) for i in range(r) if right[i]) / r if r else 0
        assert list(top[number]) == order
        assert ranking.rank[number] == (right.index(True) + 1 if r else 0)
        assert ranking.relevant[number] == r
        assert ranking.average_precision[number] == pytest.approx(precision)
        assert 0 <= precision <= 1
    for k in range(1, len(gallery) - leave_one_out + 1):
        recall = recall_at_k(query_vectors, query_ids, gallery_vectors, gallery_ids, (k,), own)[k]
        assert recall == pytest.approx(ranking.found(k).mean())
