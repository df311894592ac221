"""`lookalike train`, as an operator types it: a folder of photographs becomes a version and a report."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from services.common.images import PREPROCESSING
from services.common.manifest import GOLDEN_COSINE, MANIFEST_FILE, MODEL_FILE, MODEL_NAME, golden_pixels
from services.evaluation.inference import embed, open_session
from services.export.contract import check
from services.export.publish import verify, versions_in
from services.trainer.learning import checkpoint
from services.trainer.learning.backbones import make_backbone
from services.trainer.learning.encoder import Encoder
from services.trainer.learning.encoder import embed as embed_torch
from services.trainer.learning.pipeline import WEIGHTS_FILE
from services.trainer.runs import State
from tests.trainer import tiny
from tests.trainer.trained import EPOCHS, Trained, lookalike


def test_the_command_ends_well_and_says_what_it_made(trained: Trained) -> None:
    assert (trained.ran.returncode, trained.ran.stderr) == (0, "")
    assert f"epoch {EPOCHS}/{EPOCHS}" in " ".join(trained.ran.stdout.split())
    assert f"version 1: models/{MODEL_NAME}/1" in trained.ran.stdout
    assert "recall@1" in trained.ran.stdout
    state = trained.run.state()
    assert (state.state, state.version, state.epoch, state.epochs) == (State.SUCCEEDED, 1, EPOCHS, EPOCHS)
    # there was no version before
    assert state.before == {}


def test_it_has_learnt(trained: Trained) -> None:
    backbone = make_backbone(trained.recipe.model.backbone)
    torch.manual_seed(0)
    untrained = Encoder(backbone, trained.recipe.model)
    after = trained.run.state().after
    assert after["recall@1"] > tiny.validation(numbers=range(100, 104)).recall(untrained) + 0.2
    # both protocols, and categories
    assert {"recall@1", "recall@5", "map@r", "coarse recall@1", "catalogue recall@1"} <= set(after)


def test_events_are_complete(trained: Trained) -> None:
    events = trained.events
    assert all(isinstance(event["time"], float) for event in events)
    stages = list(dict.fromkeys(event["stage"] for event in events if event["event"] == "stage"))
    assert stages == ["data", "train", "export", "evaluate", "report"]
    epochs = [event for event in events if event["event"] == "epoch"]
    assert [event["epoch"] for event in epochs] == list(range(1, EPOCHS + 1))
    wanted = {"stage", "epoch", "epochs", "loss", "recall@1", "images_per_s", "eta_s", "best"}
    assert all(wanted <= set(event) for event in epochs)
    assert epochs[-1]["loss"] < epochs[0]["loss"]
    assert [event["event"] for event in events].count("finished") == 1
    last = events[-1]
    assert (last["event"], last["version"], last["report"]) == ("finished", 1, str(trained.run.report))
    assert last["after"] == trained.run.state().after


def test_the_version_is_whole_and_keeps_the_contract(trained: Trained) -> None:
    manifest = verify(trained.version)
    assert {path.name for path in trained.version.iterdir()} == {
        MANIFEST_FILE,
        MODEL_FILE,
        WEIGHTS_FILE,
        "model_fp32.onnx",
        "model_int8.onnx",
    }
    assert [variant.precision for variant in manifest.variants] == ["fp32", "int8"]
    assert (manifest.side, manifest.dimension, manifest.preprocessing) == (tiny.SIDE, 16, PREPROCESSING)
    assert (manifest.training_run, manifest.recipe) == (trained.run.id, "tiny")
    assert manifest.recipe_fingerprint == trained.recipe.fingerprint
    assert (manifest.parent, manifest.backbone) == (0, trained.recipe.model.backbone)
    for variant in manifest.variants:
        assert variant.metrics["recall@1"] > 0
        assert check(onnx.load(trained.version / variant.file)).features == (tiny.CHANNELS[-1], 4, 4)
    assert manifest.metrics == manifest.served_variant.metrics
    by_name = {variant.precision: variant.metrics for variant in manifest.variants}
    assert by_name["fp32"]["cosine_to_torch"] >= 0.9999
    assert 0.9 < by_name["int8"]["cosine_to_fp32"] < 0.99999999
    golden = np.stack([golden_pixels(one.seed, tiny.SIDE) for one in manifest.golden])
    vectors = embed(open_session(trained.version / MODEL_FILE), golden)
    cosines = (vectors * manifest.golden_embeddings()).sum(axis=1)
    assert cosines.min() >= GOLDEN_COSINE[manifest.served]


def test_the_weights_are_those_of_the_file(trained: Trained) -> None:
    encoder = Encoder(make_backbone(trained.recipe.model.backbone), trained.recipe.model)
    encoder.load_state_dict(load_file(trained.version / WEIGHTS_FILE))
    pixels = tiny.pixels_of(range(4), range(2))
    vectors = embed(open_session(trained.version / "model_fp32.onnx"), pixels)
    assert (embed_torch(encoder, pixels).numpy() * vectors).sum(axis=1).min() > 0.9999


def test_the_report_and_the_curves_are_there(trained: Trained) -> None:
    page = trained.run.report.read_text()
    assert page.startswith("<!DOCTYPE html>")
    assert "data:image/" in page
    curves = EventAccumulator(str(trained.run.folder / "tensorboard"))
    curves.Reload()
    assert [point.step for point in curves.Scalars("train/loss")] == list(range(1, EPOCHS + 1))
    told = [event["recall@1"] for event in trained.events if event["event"] == "epoch"]
    assert [point.value for point in curves.Scalars("train/recall@1")] == pytest.approx(told)


def test_the_same_recipe_is_the_same_run(trained: Trained) -> None:
    events = trained.run.events.read_text()
    again = lookalike(trained.folder, *trained.arguments)
    assert again.returncode == 0
    assert "has been trained" in again.stdout
    assert trained.run.events.read_text() == events
    assert versions_in(trained.models / MODEL_NAME) == [1]


def test_a_checkpoint_is_of_the_stage_it_is_named_after(trained: Trained) -> None:
    saved = checkpoint.load(trained.run.checkpoint / "train")
    assert saved is not None
    assert (saved[0].stage, saved[0].epoch, len(saved[0].history)) == ("train", EPOCHS, EPOCHS)
