"""What is minimised beside the metric loss: attacked pictures, cut pictures, and what a teacher sees."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch

from services.common.errors import InvalidArgument
from services.evaluation.inference import embed as embed_onnx
from services.evaluation.inference import open_session
from services.trainer.learning.encoder import Encoder, embed, to_tensor
from services.trainer.learning.losses import MetricLoss
from services.trainer.learning.objective import Objective, Teacher, relation_loss
from services.trainer.recipe import AdversarialRecipe, LossRecipe
from tests.trainer import tiny

PICTURES = tiny.pixels_of(range(12), range(100, 104))
PIXELS, LABELS = to_tensor(PICTURES), torch.arange(12).repeat_interleave(4)


def objective(encoder: Encoder, epsilon: float = 0.0, weight: float = 0.5, loss: Any = None) -> Objective:
    torch.manual_seed(0)
    made = loss or MetricLoss(LossRecipe(temperature=0.5), 12, 16)
    return Objective(encoder, made, AdversarialRecipe(epsilon=epsilon, weight=weight)).eval()


# --- attacked pictures ------------------------------------------------------------------------------------------------


def test_the_attack_goes_uphill_and_no_farther_than_it_may(tmp_path: Path) -> None:
    encoder, seen = tiny.encoder(tmp_path / "tiny.onnx"), []
    encoder.register_forward_pre_hook(lambda module, arguments: seen.append(arguments[0].detach().clone()))
    clean = objective(encoder)(PIXELS, LABELS)
    attacked = objective(encoder, epsilon=4, weight=1.0)(PIXELS, LABELS)
    assert attacked > clean + 0.05
    moved = seen[-1] - PIXELS
    assert moved.abs().max() == 4
    assert 0 <= seen[-1].min() < seen[-1].max() <= 255
    # a step in any other direction is worse for the attacker
    random = (PIXELS.float() + 4 * torch.randn(PIXELS.shape).sign()).clamp(0, 255)
    assert attacked > objective(encoder)(random, LABELS) + 0.05


def test_both_are_weighted(tmp_path: Path) -> None:
    encoder = tiny.encoder(tmp_path / "tiny.onnx")
    clean = objective(encoder)(PIXELS, LABELS).item()
    attacked = objective(encoder, 4, 1.0)(PIXELS, LABELS).item()
    both = objective(encoder, 4, 0.3)
    found = both(PIXELS, LABELS)
    assert found.item() == pytest.approx(0.7 * clean + 0.3 * attacked, rel=1e-5)
    found.backward()
    assert all(weight.grad is not None and bool(weight.grad.any()) for weight in encoder.backbone.parameters())


def test_without_gradients_nothing_is_attacked(tmp_path: Path) -> None:
    encoder = tiny.encoder(tmp_path / "tiny.onnx")
    with torch.no_grad():
        assert objective(encoder, 4)(PIXELS, LABELS) == objective(encoder)(PIXELS, LABELS)


def test_who_has_trained_with_attacks_withstands_them(tmp_path: Path) -> None:
    def attacked(epsilon: float) -> float:
        """How much the loss grows by an attack on pictures that were not trained on."""
        folder = tmp_path / str(epsilon)
        folder.mkdir()
        learnt = tiny.learn(folder, adversarial={"epsilon": epsilon})
        assert learnt.gain > 0.1
        loss = learnt.objective.loss
        clean, hard = (objective(learnt.encoder, eps, 1.0, loss)(PIXELS, LABELS).item() for eps in (0.0, 6.0))
        return hard - clean

    plain, hardened = attacked(0.0), attacked(6.0)
    assert hardened < 0.7 * plain


# --- cut pictures -----------------------------------------------------------------------------------------------------


def test_labels_of_cut_pictures_share_the_loss(tmp_path: Path) -> None:
    encoder = tiny.encoder(tmp_path / "tiny.onnx")
    one, others = objective(encoder), LABELS.flip(0)
    own, other = one(PIXELS, LABELS).item(), one(PIXELS, others).item()
    assert one(PIXELS, LABELS, others, 0.7).item() == pytest.approx(0.7 * own + 0.3 * other, rel=1e-5)
    assert one(PIXELS, LABELS, others, 1.0).item() == pytest.approx(own, rel=1e-5)


# --- a teacher --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Larger than the student, at another S, and pretrained: it knows products that it was not told of."""
    folder = tmp_path_factory.mktemp("teacher")
    onnx.save(tiny.contract_encoder(11, channels=(24, 48, 96), side=40), folder / "teacher.onnx")
    return folder / "teacher.onnx"


def relations(vectors: np.ndarray) -> np.ndarray:
    """Who is how near to whom, without oneself."""
    apart = ~np.eye(len(vectors), dtype=bool)
    found: np.ndarray = (vectors @ vectors.T)[apart]
    return found


def test_relations_are_compared_as_distributions_over_neighbours() -> None:
    random = np.random.default_rng(0)
    ours, theirs = (random.normal(size=(5, d)) for d in (4, 7))
    ours, theirs = (rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (ours, theirs))

    def neighbours(rows: np.ndarray) -> np.ndarray:
        similar = np.exp(rows @ rows.T / 0.2) * (1 - np.eye(len(rows)))
        found: np.ndarray = similar / similar.sum(axis=1, keepdims=True)
        return found

    p, q = neighbours(theirs), neighbours(ours)
    apart = ~np.eye(5, dtype=bool)
    wanted = (p[apart] * np.log(p[apart] / q[apart])).sum() / 5
    found = relation_loss(torch.tensor(ours), torch.tensor(theirs), temperature=0.2)
    assert found.item() == pytest.approx(wanted)
    assert relation_loss(torch.tensor(theirs), torch.tensor(theirs)).item() == pytest.approx(0, abs=1e-9)


def test_a_teacher_gives_what_its_file_gives(teacher: Path) -> None:
    scaled = tiny.pixels_of(range(3), range(2), side=40)
    wanted = embed_onnx(open_session(teacher), scaled)
    np.testing.assert_allclose(Teacher(teacher)(to_tensor(scaled)), wanted, atol=1e-5)
    # pictures of another side are scaled to its own
    found = Teacher(teacher)(to_tensor(tiny.pixels_of(range(3), range(2), side=32))).numpy()
    assert (found * wanted).sum(axis=1).min() > 0.95


def test_the_student_comes_to_see_what_the_teacher_sees(tmp_path: Path, teacher: Path) -> None:
    taught = relations(Teacher(teacher)(PIXELS).numpy())

    def alike(name: str, **distil: Any) -> tuple[float, float]:
        """Correlation of relations on pictures that were not trained on, before and after."""
        (tmp_path / name).mkdir()
        learnt = tiny.learn(tmp_path / name, distil=distil, optimiser={"epochs": 12, "head_rate": 3e-3})
        after = relations(embed(learnt.encoder, PICTURES).numpy())
        return float(np.corrcoef(taught, after)[0, 1]), learnt.gain

    alone, _ = alike("alone")
    with_teacher, _ = alike("taught", teacher=str(teacher), weight=30.0)
    assert with_teacher > alone + 0.2


@pytest.mark.parametrize("what", ["missing", "junk", "no encoder"])
def test_what_can_not_teach_is_refused(tmp_path: Path, what: str) -> None:
    file = tmp_path / "teacher.onnx"
    if what == "junk":
        file.write_bytes(b"junk")
    elif what == "no encoder":
        onnx.save(tiny.extractor(), file)
    with pytest.raises(InvalidArgument, match=r"teacher\.onnx") as caught:
        Teacher(file)
    assert caught.value.reason == "TEACHER_UNSUITABLE"
