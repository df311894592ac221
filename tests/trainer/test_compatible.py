"""Backward-compatible training: the influence loss by hand, and queries that find in an older version's collection."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from torch.optim.optimizer import register_optimizer_step_pre_hook

from services.common.errors import FailedPrecondition, InvalidArgument
from services.common.images import PREPROCESSING, decode_image
from services.common.manifest import MODEL_FILE, MODEL_NAME, Manifest
from services.evaluation.compatibility import Compatibility, compatibility
from services.evaluation.inference import Encoder, open_encoder
from services.evaluation.metrics import Vectors
from services.export.publish import Candidate, Origin, publish, verify
from services.trainer.learning import data as training_data
from services.trainer.learning.compatible import Influence, prototypes_of
from services.trainer.learning.encoder import embed, to_tensor
from services.trainer.learning.losses import MetricLoss
from services.trainer.learning.objective import Objective
from services.trainer.learning.pipeline import WEIGHTS_FILE
from services.trainer.recipe import AdversarialRecipe, CompatibleRecipe, LossRecipe, Recipe
from services.trainer.runs import Run
from tests.trainer import tiny

# another network than the one that is trained, at another S, of the same D
OLDER = {"seed": 11, "channels": (24, 32, 16), "side": 40}
TAKEN, ASKED = range(16), range(100, 108)


def influence(prototypes: Vectors, **compatible: Any) -> Influence:
    return Influence(prototypes, CompatibleRecipe(version=1, **compatible))


# --- the loss ---------------------------------------------------------------------------------------------------------


def test_the_loss_is_the_cross_entropy_over_the_prototypes() -> None:
    loss = influence(np.eye(2, dtype=np.float32), temperature=0.5, weight=3.0)
    embeddings, labels = torch.tensor([[0.6, 0.8], [0.0, 1.0]]), torch.tensor([0, 1])
    # cosines over 0.5: 1.2 against 1.6, and 2 against 0
    wanted = 3 * (math.log(1 + math.exp(0.4)) + math.log(1 + math.exp(-2))) / 2
    assert loss(embeddings, labels).item() == pytest.approx(wanted, rel=1e-6)


def test_prototypes_are_mean_vectors_at_unit_length() -> None:
    vectors = np.array([[1, 0], [0, 1], [0.6, 0.8]], np.float32)
    found = prototypes_of(vectors, [1, 1, 0])
    np.testing.assert_allclose(found, [[0.6, 0.8], [0.5**0.5, 0.5**0.5]], rtol=1e-6)
    assert found.dtype == np.float32


def test_it_is_added_to_the_metric_loss_and_cut_pictures_share_it(tmp_path: Path) -> None:
    encoder = tiny.encoder(tmp_path / "tiny.onnx").eval()
    pixels, labels = to_tensor(tiny.pixels_of(range(12), (0, 1))), torch.arange(12).repeat_interleave(2)
    torch.manual_seed(0)
    metric = MetricLoss(LossRecipe(), 12, 16)
    prototypes = np.random.default_rng(0).normal(size=(12, 16)).astype(np.float32)
    loss = influence(prototypes / np.linalg.norm(prototypes, axis=1, keepdims=True), weight=0.5)
    alone, both = (Objective(encoder, metric, AdversarialRecipe(), influence=one) for one in (None, loss))
    embeddings, others = encoder(pixels), labels.flip(0)
    added = both(pixels, labels) - alone(pixels, labels)
    assert added.item() == pytest.approx(loss(embeddings, labels).item(), rel=1e-4)
    shared = both(pixels, labels, others, 0.7) - alone(pixels, labels, others, 0.7)
    wanted = 0.7 * loss(embeddings, labels) + 0.3 * loss(embeddings, others)
    assert shared.item() == pytest.approx(wanted.item(), rel=1e-4)
    # nothing of it is trained or kept
    assert list(both.state_dict()) == list(alone.state_dict())
    assert len(list(both.parameters())) == len(list(alone.parameters()))


def test_queries_find_in_the_older_collection_only_when_it_is_asked_for(tmp_path: Path) -> None:
    old = open_encoder(tiny.contract_encoder(**OLDER).SerializeToString())
    labels = [product for product in range(12) for _ in TAKEN]
    vectors = old(tiny.pixels_of(range(12), TAKEN, side=40))
    asked = old(tiny.pixels_of(range(12), ASKED, side=40))

    def trained(name: str, loss: Influence | None) -> Compatibility:
        (tmp_path / name).mkdir()
        encoder = tiny.learn(tmp_path / name, influence=loss).encoder
        new = tuple(embed(encoder, tiny.pixels_of(range(12), numbers)).numpy() for numbers in (ASKED, TAKEN))
        ids = [str(product) for product in range(12) for _ in ASKED]
        return compatibility((asked, vectors), new, ids, [str(label) for label in labels])

    without, with_it = trained("without", None), trained("with", influence(prototypes_of(vectors, labels)))
    # among twelve products
    assert without.new_old[1] < 0.2
    assert with_it.new_old[1] > without.new_old[1] + 0.3
    # compatible: it finds more in the old collection than the old one does
    assert with_it.gain > 0
    # and costs little where everything is embedded again
    assert with_it.new_new[1] > without.new_new[1] - 0.1


# --- a whole run ------------------------------------------------------------------------------------------------------


@pytest.fixture
def models(tmp_path: Path) -> Path:
    """A model repository: version 1 of D 16, and version 2 of another D, which is the newest."""
    origin = Origin(PREPROCESSING, "tiny", training_run="", evaluated_on="")
    for version, channels in ((1, OLDER["channels"]), (2, (16, 24, 32))):
        model = tiny.contract_encoder(seed=11, channels=channels, side=40)
        publish(tmp_path / "models" / MODEL_NAME, version, (Candidate("fp32", model),), "fp32", origin)
    return tmp_path / "models"


def recipe(shop: Path, backbone: Path, **tables: Any) -> Recipe:
    made: dict[str, Any] = {"compatible": {"version": 1}, "optimiser": {"epochs": 16}}
    return tiny.recipe(shop, backbone, **(made | tables))


def served(models: Path, version: int) -> Manifest:
    return verify(models / MODEL_NAME / str(version))


def test_the_version_says_what_it_is_compatible_with_and_how_well(
    shop: Path, backbone: Path, models: Path, tmp_path: Path
) -> None:
    run, log = tiny.pipeline(tmp_path / "runs", models, recipe(shop, backbone))
    manifest = served(models, 3)
    # not with the newest
    assert (manifest.compatible_with, manifest.parent) == (1, 2)
    assert manifest.compatible_sha256 == served(models, 1).served_variant.sha256
    for variant in manifest.variants:
        found = variant.metrics
        # among twelve products
        assert min(found["new/old recall@1"], found["old/old recall@1"]) > 0.4
        assert {"new/old recall@5", "catalogue new/old recall@1", "catalogue old/old recall@1"} <= set(found)
        # that is recall@1 itself
        assert "new/new recall@1" not in found
    (finished,) = log.of("finished")
    assert finished["after"]["new/old recall@1"] == manifest.metrics["new/old recall@1"]
    assert "new/old recall@1" not in finished["before"]
    assert 'id="compatibility"' in run.report.read_text()
    # the files that serve do what the manifest says
    old, new = (open_encoder(models / MODEL_NAME / str(version) / MODEL_FILE) for version in (1, 3))
    queries, gallery = (sorted((shop / split).rglob("*.jpg")) for split in ("validation", "train"))
    by_old, by_new = ((embedded(one, queries), embedded(one, gallery)) for one in (old, new))
    again = compatibility(by_old, by_new, *([path.parent.name for path in part] for part in (queries, gallery)))
    for name in ("old/old recall@1", "new/old recall@1", "new/old recall@5"):
        assert again.metrics[name] == pytest.approx(manifest.metrics[name])


def embedded(encoder: Encoder, files: list[Path]) -> Vectors:
    found: Vectors = encoder(np.stack([decode_image(path.read_bytes(), encoder.side) for path in files]))
    return found


def test_without_the_option_nothing_is_claimed(shop: Path, backbone: Path, models: Path, tmp_path: Path) -> None:
    _, log = tiny.pipeline(tmp_path / "runs", models, recipe(shop, backbone, compatible={}, optimiser={"epochs": 1}))
    manifest = served(models, 3)
    assert (manifest.compatible_with, manifest.compatible_sha256) == (0, "")
    assert not any("/old" in name for name in (*manifest.metrics, *log.of("finished")[0]["after"]))


class Killed(BaseException):
    """Stands for SIGKILL."""


def test_a_run_that_was_killed_ends_as_one_that_was_not(
    shop: Path, backbone: Path, models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    what = recipe(shop, backbone, optimiser={"epochs": 3}, prune={"share": 0.4, "epochs": 1}, model={"pooling": "gem"})
    others = Path(shutil.copytree(models, tmp_path / "others"))
    tiny.pipeline(tmp_path / "whole", models, what)
    steps: list[int] = []

    def die_in_the_second_epoch(*_: Any) -> None:
        steps.append(1)
        if len(steps) == 5 + 2:
            raise Killed

    hook = register_optimizer_step_pre_hook(die_in_the_second_epoch)
    with pytest.raises(Killed):
        tiny.pipeline(tmp_path / "killed", others, what)
    hook.remove()
    # version 1 has looked at the training pictures once
    monkeypatch.setattr(training_data, "embed_photographs", _never)
    asked: list[nn.Module] = []
    counting = nn.modules.module.register_module_forward_hook(
        lambda module, *_: asked.append(module) if isinstance(module, Influence) else None
    )
    _, log = tiny.pipeline(tmp_path / "killed", others, what)
    counting.remove()
    # in each of five batches of the two epochs that were left, and after pruning
    assert len(asked) == 5 * (2 + 1)
    assert [event["epoch"] for event in log.of("epoch") if event["stage"] == "train"] == [2, 3]
    whole, resumed = (load_file(place / MODEL_NAME / "3" / WEIGHTS_FILE) for place in (models, others))
    assert all(torch.equal(tensor, resumed[name]) for name, tensor in whole.items())
    assert served(others, 3).metrics["new/old recall@1"] == served(models, 3).metrics["new/old recall@1"]


def _never(*_: Any) -> Vectors:
    raise AssertionError("it embeds them once more")


# --- what is refused --------------------------------------------------------------------------------------------------


def wrong_version(models: Path) -> dict[str, Any]:
    return {"compatible": {"version": 9}}


def wrong_dimension(models: Path) -> dict[str, Any]:
    return {"compatible": {"version": 2}}


def damaged(models: Path) -> dict[str, Any]:
    file = models / MODEL_NAME / "1" / "model_fp32.onnx"
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    return {}


@pytest.mark.parametrize(
    ("spoil", "error", "reason", "said"),
    [
        (wrong_version, InvalidArgument, "COMPATIBLE_VERSION_MISSING", "has no version 9; there are: 1, 2"),
        (wrong_dimension, InvalidArgument, "DIMENSION_MISMATCH", "16 dimensions.* version 2, which have 32"),
        (damaged, FailedPrecondition, "MODEL_DAMAGED", "not what the manifest says"),
    ],
)
def test_before_a_picture_is_read(
    shop: Path,
    backbone: Path,
    models: Path,
    tmp_path: Path,
    spoil: Callable[[Path], dict[str, Any]],
    error: type[InvalidArgument | FailedPrecondition],
    reason: str,
    said: str,
) -> None:
    what = recipe(shop, backbone, **spoil(models))
    with pytest.raises(error, match=said) as caught:
        tiny.pipeline(tmp_path / "runs", models, what)
    assert caught.value.reason == reason
    assert not (Run.named(tmp_path / "runs", what).folder / "pixels").exists()


def test_without_a_head_the_backbone_has_to_fit(shop: Path, backbone: Path, models: Path, tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument, match=r"32 dimensions.* version 1, which have 16") as caught:
        tiny.pipeline(tmp_path / "runs", models, recipe(shop, backbone, model={"head": "none"}))
    assert caught.value.reason == "DIMENSION_MISMATCH"
