"""Each loss against what its paper says, computed by hand in numpy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from services.common.errors import InvalidArgument
from services.trainer.learning.losses import PAIRS, MetricLoss
from services.trainer.recipe import LossRecipe

Array = npt.NDArray[np.float64]

LABELS = np.array([0, 0, 1, 1, 2, 2, 0, 1])
# one more than are in the batch: proxies without a picture are treated differently
PRODUCTS, DIMENSION = 4, 5


def unit(rows: Array) -> Array:
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


# near enough to each other that semi-hard triplets, near negatives and far positives all occur
EMBEDDINGS = unit(np.random.default_rng(7).normal(0.4, 1, (len(LABELS), DIMENSION)))
WEIGHTS = np.random.default_rng(8).normal(size=(PRODUCTS, DIMENSION))


def value(loss: MetricLoss, embeddings: Array = EMBEDDINGS, labels: npt.NDArray[np.int64] = LABELS) -> float:
    return float(loss(torch.tensor(embeddings, dtype=torch.float32), torch.tensor(labels)).detach())


def of(name: str, smoothing: float = 0.0, **fields: Any) -> MetricLoss:
    return MetricLoss(LossRecipe(name=name, **fields), PRODUCTS, DIMENSION, smoothing)


def with_weights(loss: MetricLoss, rows: Array) -> MetricLoss:
    """rows: [number of weights, D], in the order of the labels."""
    (weights,) = loss.parameters()
    made = torch.tensor(rows, dtype=torch.float32)
    with torch.no_grad():
        weights.copy_(made if weights.shape == made.shape else made.T)
    return loss


def distances(embeddings: Array, others: Array) -> Array:
    return np.linalg.norm(embeddings[:, None] - others[None], axis=2)


def cross_entropy(logits: Array, labels: npt.NDArray[np.int64], smoothing: float = 0.0) -> float:
    logs = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    right = logs[np.arange(len(labels)), labels]
    return float(-((1 - smoothing) * right + smoothing * logs.mean(axis=1)).mean())


# --- by hand ----------------------------------------------------------------------------------------------------------


def semi_hard_triplets(
    embeddings: Array, labels: npt.NDArray[np.int64], margin: float, anchors: Sequence[int] | None = None
) -> float:
    """Negatives that are farther than the positive, but not by the margin."""
    apart = distances(embeddings, embeddings)
    found = []
    for a in range(len(labels)) if anchors is None else anchors:
        for p in np.flatnonzero((labels == labels[a]) & (np.arange(len(labels)) != a)):
            for n in np.flatnonzero(labels != labels[a]):
                if apart[a, p] < apart[a, n] < apart[a, p] + margin:
                    found.append(apart[a, p] - apart[a, n] + margin)
    assert found, "the batch must have some"
    return float(np.mean(found))


def contrastive(
    embeddings: Array,
    labels: npt.NDArray[np.int64],
    margin: float,
    others: Array | None = None,
    other_labels: npt.NDArray[np.int64] | None = None,
) -> float:
    """Positives to distance 0, negatives to the margin; means over those that are not there yet. The embeddings are the
    last of the others."""
    others, other_labels = (embeddings, labels) if others is None or other_labels is None else (others, other_labels)
    apart, same = distances(embeddings, others), labels[:, None] == other_labels[None]
    themselves = np.zeros_like(same)
    offset = len(others) - len(embeddings)
    themselves[np.arange(len(labels)), np.arange(len(labels)) + offset] = True
    positive, negative = apart[same & ~themselves], margin - apart[~same]
    return float(sum(part[part > 0].mean() for part in (positive, negative) if (part > 0).any()))


def cosines(embeddings: Array, rows: Array = WEIGHTS) -> Array:
    return embeddings @ unit(rows).T


def arcface(cosine: Array, labels: npt.NDArray[np.int64], margin: float, scale: float, smoothing: float = 0) -> float:
    logits, rows = cosine.copy(), np.arange(len(labels))
    logits[rows, labels] = np.cos(np.arccos(cosine[rows, labels]) + np.deg2rad(margin))
    return cross_entropy(scale * logits, labels, smoothing)


def proxy_anchor(embeddings: Array, labels: npt.NDArray[np.int64], proxies: Array, delta: float, alpha: float) -> float:
    similar = cosines(embeddings, proxies)
    pulled, pushed = [], []
    for proxy in range(len(proxies)):
        positive, negative = similar[labels == proxy, proxy], similar[labels != proxy, proxy]
        if len(positive):
            pulled.append(np.log(1 + np.exp(-alpha * (positive - delta)).sum()))
        pushed.append(np.log(1 + np.exp(alpha * (negative + delta)).sum()))
    return float(np.mean(pulled) + np.mean(pushed))


def supervised_contrastive(embeddings: Array, labels: npt.NDArray[np.int64], temperature: float) -> float:
    similar = np.exp(embeddings @ embeddings.T / temperature)
    found = []
    for i, label in enumerate(labels):
        others = np.arange(len(labels)) != i
        positive = others & (labels == label)
        found.append(-np.log(similar[i, positive] / similar[i, others].sum()).mean())
    return float(np.mean(found))


# --- the losses -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("margin", [None, 0.5])
def test_triplets_are_semi_hard(margin: float | None) -> None:
    wanted = semi_hard_triplets(EMBEDDINGS, LABELS, 0.2 if margin is None else margin)
    assert value(of("triplet", margin=margin)) == pytest.approx(wanted, rel=1e-5)


@pytest.mark.parametrize("margin", [None, 0.7])
def test_contrastive(margin: float | None) -> None:
    wanted = contrastive(EMBEDDINGS, LABELS, 1.0 if margin is None else margin)
    assert value(of("contrastive", margin=margin)) == pytest.approx(wanted, rel=1e-5)


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_normalised_softmax(smoothing: float) -> None:
    loss = with_weights(of("normalised-softmax", smoothing, temperature=0.1), WEIGHTS)
    wanted = cross_entropy(cosines(EMBEDDINGS) / 0.1, LABELS, smoothing)
    assert value(loss) == pytest.approx(wanted, rel=1e-5)


@pytest.mark.parametrize(("margin", "scale", "smoothing"), [(None, None, 0.0), (30.0, 16.0, 0.0), (30.0, 16.0, 0.1)])
def test_arcface(margin: float | None, scale: float | None, smoothing: float) -> None:
    loss = with_weights(of("arcface", smoothing, margin=margin, scale=scale), WEIGHTS)
    wanted = arcface(cosines(EMBEDDINGS), LABELS, margin or 20.0, scale or 30.0, smoothing)
    assert value(loss) == pytest.approx(wanted, rel=1e-5)


def test_arcface_takes_the_nearest_of_its_sub_centres() -> None:
    centres = np.random.default_rng(9).normal(size=(PRODUCTS * 3, DIMENSION))
    nearest = cosines(EMBEDDINGS, centres).reshape(len(LABELS), PRODUCTS, 3).max(axis=2)
    loss = with_weights(of("arcface", centres=3), centres)
    assert value(loss) == pytest.approx(arcface(nearest, LABELS, 20.0, 30.0), rel=1e-5)


@pytest.mark.parametrize(("margin", "scale"), [(None, None), (0.3, 8.0)])
def test_proxy_anchor(margin: float | None, scale: float | None) -> None:
    loss = with_weights(of("proxy-anchor", margin=margin, scale=scale), WEIGHTS)
    assert value(loss) == pytest.approx(
        proxy_anchor(EMBEDDINGS, LABELS, WEIGHTS, margin or 0.1, scale or 32.0), rel=1e-5
    )


def test_supervised_contrastive() -> None:
    wanted = supervised_contrastive(EMBEDDINGS, LABELS, 0.15)
    assert value(of("supcon", temperature=0.15)) == pytest.approx(wanted, rel=1e-5)


# --- the memory of earlier batches ------------------------------------------------------------------------------------


def test_the_second_batch_is_compared_with_the_first() -> None:
    loss, half = of("contrastive", memory=16), np.array([0, 2, 4])
    other = np.array([1, 3, 5])
    value(loss, EMBEDDINGS[half], LABELS[half])  # three products, one picture each: no pair is alike within a batch
    seen = value(loss, EMBEDDINGS[other], LABELS[other])
    both = np.concatenate([half, other])
    wanted = contrastive(EMBEDDINGS[other], LABELS[other], 1.0, EMBEDDINGS[both], LABELS[both])
    assert seen == pytest.approx(wanted, rel=1e-5)
    alone = value(of("contrastive"), EMBEDDINGS[other], LABELS[other])
    assert alone < seen - 0.1


def test_triplets_with_the_first_batch_are_semi_hard_too() -> None:
    loss, order = of("triplet", margin=0.5, memory=16), np.array([0, 2, 4, 7, 1, 3, 5, 6])
    value(loss, EMBEDDINGS[order[:4]], LABELS[order[:4]])
    seen = value(loss, EMBEDDINGS[order[4:]], LABELS[order[4:]])
    wanted = semi_hard_triplets(EMBEDDINGS[order], LABELS[order], 0.5, anchors=range(4, 8))
    assert seen == pytest.approx(wanted, rel=1e-5)


@pytest.mark.parametrize("name", PAIRS)
def test_memory_brings_pairs_to_every_loss_of_pairs(name: str) -> None:
    half, other = np.array([0, 2, 4]), np.array([1, 3, 5])
    margin = None if name == "supcon" else 1.0
    plain, remembering = of(name, margin=margin), of(name, margin=margin, memory=16)
    found = [[value(loss, EMBEDDINGS[rows], LABELS[rows]) for rows in (half, other)] for loss in (plain, remembering)]
    assert found[0][0] == pytest.approx(found[1][0])
    assert found[1][1] != pytest.approx(found[0][1])


def test_memory_forgets_what_is_oldest() -> None:
    loss = of("contrastive", memory=3)
    for rows in ([0, 2, 4], [1, 3, 5]):
        value(loss, EMBEDDINGS[rows], LABELS[rows])
    last = np.array([6, 7, 4])
    seen = value(loss, EMBEDDINGS[last], LABELS[last])
    # the queue holds the batch itself by then, and nothing of the two before
    assert seen == pytest.approx(value(of("contrastive"), EMBEDDINGS[last], LABELS[last]), rel=1e-5)


@pytest.mark.parametrize("name", ["normalised-softmax", "arcface", "proxy-anchor"])
def test_memory_is_refused_where_a_product_has_a_weight(name: str) -> None:
    with pytest.raises(InvalidArgument, match=r"loss\.memory") as caught:
        of(name, memory=16)
    assert caught.value.reason == "RECIPE_INVALID"


@pytest.mark.parametrize(
    ("name", "weights"), [("normalised-softmax", 4), ("arcface", 4), ("proxy-anchor", 4), ("supcon", 0), ("triplet", 0)]
)
def test_what_has_weights_trains_them(name: str, weights: int) -> None:
    loss = of(name)
    assert sum(p.numel() for p in loss.parameters()) == weights * DIMENSION
    assert loss.classifies == bool(weights)
