"""Which photographs come together."""

from __future__ import annotations

import functools
import operator
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.common.errors import InvalidArgument
from services.trainer.learning.batches import epoch_batches

# products with 7, 4, 1 and 12 photographs
LABELS = [0] * 7 + [1] * 4 + [2] + [3] * 12


def test_plain_batches_hold_each_photograph_at_most_once() -> None:
    batches = epoch_batches(LABELS, 5, 0, seed=1, epoch=0)
    places = np.concatenate(batches)
    assert [len(batch) for batch in batches] == [5, 5, 5, 5]
    assert len(set(places.tolist())) == 20
    assert set(places.tolist()) <= set(range(len(LABELS)))


@pytest.mark.parametrize("m", [2, 3, 4])
def test_a_batch_holds_m_photographs_of_each_of_its_products(m: int) -> None:
    batches = epoch_batches(LABELS, 4 * m, m, seed=1, epoch=0)
    assert batches
    seen: Counter[int] = Counter()
    for batch in batches:
        labels = [LABELS[place] for place in batch]
        groups = [labels[start : start + m] for start in range(0, len(labels), m)]
        assert all(len(set(group)) == 1 for group in groups)
        seen.update(batch.tolist())
    whole = Counter(LABELS[place] for place in seen)
    assert set(whole) <= {0, 1, 2, 3}


def test_with_m_every_photograph_comes_and_only_small_products_repeat() -> None:
    (batch,) = epoch_batches(LABELS, 1000, 4, seed=3, epoch=2)
    counts = Counter(batch.tolist())
    assert set(counts) == set(range(len(LABELS)))
    assert {LABELS[place] for place, count in counts.items() if count > 1} <= {0, 2}
    assert counts[11] == 4  # the product with one photograph


def test_an_epoch_can_be_had_again_and_the_next_one_is_another() -> None:
    for m in (0, 2):
        again = [epoch_batches(LABELS, 6, m, seed=5, epoch=4) for _ in range(2)]
        assert [batch.tolist() for batch in again[0]] == [batch.tolist() for batch in again[1]]
        for other in (epoch_batches(LABELS, 6, m, 5, 5), epoch_batches(LABELS, 6, m, 6, 4)):
            assert [batch.tolist() for batch in other] != [batch.tolist() for batch in again[0]]


@settings(max_examples=60, deadline=None)
@given(
    labels=st.lists(st.integers(0, 5), min_size=4, max_size=60),
    batch=st.integers(4, 40),
    m=st.sampled_from([0, 2, 4]),
    ranks=st.integers(1, 4),
    epoch=st.integers(0, 3),
)
def test_processes_share_every_batch(labels: list[int], batch: int, m: int, ranks: int, epoch: int) -> None:
    """Together they have what one process would have had, but for what can't be shared out evenly."""
    parts = [epoch_batches(labels, batch, m, 1, epoch, rank, ranks) for rank in range(ranks)]
    sizes = {len(share) for part in parts for share in part}
    assert len(sizes) == 1
    assert len({len(part) for part in parts}) == 1
    (size,) = sizes
    together = [np.concatenate(shares).tolist() for shares in zip(*parts, strict=True)]
    if not m or size % m == 0:
        assert together == [one.tolist() for one in epoch_batches(labels, size * ranks, m, 1, epoch)]
    if m and size >= m:
        groups = [share[start : start + m] for part in parts for share in part for start in range(0, size, m)]
        assert all(len({labels[place] for place in group}) == 1 for group in groups)
    if not m:
        assert all(count == 1 for count in Counter(functools.reduce(operator.iadd, together, [])).values())


def test_a_batch_too_small_for_its_processes_is_refused() -> None:
    with pytest.raises(InvalidArgument) as caught:
        epoch_batches(LABELS, 2, 0, 1, 0, rank=0, ranks=3)
    assert caught.value.reason == "BATCH_TOO_SMALL"
