"""What was trained in torch, in ONNX Runtime: the same vectors, in float and nearly so in INT8."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from services.common.manifest import FEATURES_NAME, INPUT_NAME, OUTPUT_NAME
from services.evaluation.inference import embed as embed_onnx
from services.evaluation.inference import open_session
from services.export import contract
from services.export.quantize import quantize
from services.trainer.learning.backbones import make_backbone
from services.trainer.learning.encoder import Encoder, GemPooling, embed, to_tensor
from services.trainer.learning.optimiser import prepare
from services.trainer.learning.to_onnx import to_onnx
from services.trainer.recipe import ModelRecipe, Regime
from tests.trainer import tiny

PIXELS = tiny.pixels_of(range(6), range(2))


def used(path: Path, **model: Any) -> Encoder:
    """Its normalisations have seen pictures, and no weight is 0 or 1 any more."""
    made = tiny.encoder(path / "tiny.onnx", **model)
    made.train()
    with torch.no_grad():
        for _ in range(20):
            made(to_tensor(PIXELS))
        for parameter in made.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return made.eval()


def cosine(encoder: nn.Module, model: onnx.ModelProto, pixels: Any = PIXELS) -> float:
    """The least of any picture."""
    vectors = embed_onnx(open_session(model.SerializeToString(), threads=1), pixels)
    return float((embed(encoder, pixels).numpy() * vectors).sum(axis=1).min())


@pytest.mark.parametrize(
    "model",
    [
        {},
        {"pooling": "gem"},
        {"batch_norm": False},
        {"head": "none"},
        {"head": "none", "batch_norm": False, "pooling": "gem"},
        {"dropout": 0.5},
        {"dimension": 64},
    ],
    ids=str,
)
def test_the_file_gives_what_torch_gives(tmp_path: Path, model: dict[str, Any]) -> None:
    encoder = used(tmp_path, **model)
    made = to_onnx(encoder, tiny.SIDE)
    shape = contract.check(made)
    assert shape.dimension == encoder.dimension == (32 if model.get("head") == "none" else model.get("dimension", 16))
    assert (shape.side, shape.features) == (tiny.SIDE, (32, 4, 4))
    assert cosine(encoder, made) >= 0.9999
    # the vectors differ from each other, so that this says something
    vectors = embed(encoder, PIXELS).numpy()
    assert (vectors @ vectors.T).min() < 0.99


def test_the_last_feature_map_is_the_second_output(tmp_path: Path) -> None:
    encoder = used(tmp_path)
    session = open_session(to_onnx(encoder, tiny.SIDE).SerializeToString(), threads=1)
    (maps,) = session.run([FEATURES_NAME], {INPUT_NAME: PIXELS})
    with torch.inference_mode():
        np.testing.assert_allclose(maps, encoder.features(to_tensor(PIXELS)), atol=1e-4)


def test_the_number_of_pictures_is_free(tmp_path: Path) -> None:
    encoder = used(tmp_path, pooling="gem")
    session = open_session(to_onnx(encoder, tiny.SIDE).SerializeToString(), threads=1)
    whole = session.run([OUTPUT_NAME], {INPUT_NAME: PIXELS})[0]
    for count in (1, 3, 11):
        np.testing.assert_allclose(
            session.run([OUTPUT_NAME], {INPUT_NAME: PIXELS[:count]})[0], whole[:count], atol=1e-5
        )


def test_it_is_free_after_features_without_a_map_too(tmp_path: Path) -> None:
    onnx.save(tiny.pooled_extractor(), tmp_path / "pooled.onnx")
    encoder = Encoder(make_backbone(str(tmp_path / "pooled.onnx")), ModelRecipe(side=tiny.SIDE, dimension=8)).eval()
    made = to_onnx(encoder, tiny.SIDE)
    assert contract.check(made).features == (tiny.CHANNELS[-1], 1, 1)
    for count in (1, 2, 5):
        assert cosine(encoder, made, PIXELS[:count]) >= 0.9999


def test_normalisations_are_folded_where_they_can_be(tmp_path: Path) -> None:
    kinds = Counter(node.op_type for node in to_onnx(used(tmp_path, dropout=0.3), tiny.SIDE).graph.node)
    assert kinds["Conv"] == 3
    assert kinds["Dropout"] == 0
    # the head's is in its linear layer, that of a sequence in the convolution before it
    lite = Encoder(make_backbone("efficientnet-lite0", "none"), ModelRecipe(side=64, dimension=8)).eval()
    assert isinstance(lite.backbone.stem[0][1], nn.BatchNorm2d)
    folded = Counter(node.op_type for node in to_onnx(lite, 64).graph.node)
    plain = sum(isinstance(m, nn.BatchNorm2d | nn.BatchNorm1d) for m in lite.modules())
    assert plain > 40
    assert folded["Gemm"] == 1
    assert folded["BatchNormalization"] == 0
    assert isinstance(lite.backbone.stem[0][1], nn.BatchNorm2d)


@pytest.mark.parametrize("dropout", [0.0, 0.4])
def test_the_normalisation_of_the_head_is_in_its_linear_layer(tmp_path: Path, dropout: float) -> None:
    made = to_onnx(used(tmp_path, dropout=dropout), tiny.SIDE)
    after = [node.op_type for node in made.graph.node]
    start = after.index("ReduceMean") if "ReduceMean" in after else after.index("GlobalAveragePool")
    assert Counter(after[start:])["Gemm"] == 1
    assert "BatchNormalization" not in after[start:]


def test_the_encoder_itself_is_left_as_it_is(tmp_path: Path) -> None:
    encoder = used(tmp_path)
    prepare(encoder, Regime.ADAPTERS)
    encoder.train()
    before = {name: tensor.clone() for name, tensor in encoder.state_dict().items()}
    to_onnx(encoder, tiny.SIDE)
    after = encoder.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
    assert encoder.training


def test_int8_is_close(tmp_path: Path) -> None:
    encoder = used(tmp_path)
    # an embedding of noise has no digits to lose
    encoder.begin_at_axes(encoder.pooled(to_tensor(PIXELS)).detach())
    fp32 = to_onnx(encoder, tiny.SIDE)
    int8 = quantize(fp32, PIXELS)
    assert contract.check(int8).features == (32, 4, 4)
    assert any(node.op_type == "QuantizeLinear" for node in int8.graph.node)
    assert 0.97 < cosine(encoder, int8) < 0.99999999


def test_a_generalised_mean_lies_between_average_and_maximum() -> None:
    maps = torch.rand(4, 5, 3, 3) + 0.1
    for p in (1.0, 3.0, 60.0):
        wanted = (maps.numpy().astype(np.float64) ** p).mean(axis=(2, 3)) ** (1 / p)
        np.testing.assert_allclose(GemPooling(p)(maps).detach(), wanted, rtol=1e-4)
    torch.testing.assert_close(GemPooling(1.0)(maps), maps.mean(dim=(2, 3)))
    assert (GemPooling(60.0)(maps) > 0.9 * maps.amax(dim=(2, 3))).all()
