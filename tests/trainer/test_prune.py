"""Channels are cut: the encoder is smaller, embeds as before, and learns again."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from services.common.errors import InvalidArgument
from services.export import contract
from services.trainer.learning.backbones import make_backbone
from services.trainer.learning.encoder import Encoder, embed, to_tensor
from services.trainer.learning.prune import ROUND_TO, prune
from services.trainer.learning.to_onnx import to_onnx
from services.trainer.recipe import ModelRecipe
from tests.trainer import tiny
from tests.trainer.test_to_onnx import PIXELS, cosine


def weights(encoder: Encoder) -> int:
    return sum(parameter.numel() for parameter in encoder.backbone.parameters())


@pytest.mark.parametrize("pooling", ["average", "gem"])
def test_it_is_smaller_and_has_the_same_d(tmp_path: Path, pooling: str) -> None:
    encoder = tiny.encoder(tmp_path / "tiny.onnx", pooling=pooling)
    before = weights(encoder)
    gone = prune(encoder, 0.5, tiny.SIDE)
    assert gone == pytest.approx(1 - weights(encoder) / before)
    assert 0.3 < gone < 0.9
    vectors = embed(encoder, PIXELS)
    assert vectors.shape == (len(PIXELS), 16)
    torch.testing.assert_close(vectors.norm(dim=1), torch.ones(len(PIXELS)))
    kept = {m.out_channels for m in encoder.backbone.modules() if isinstance(m, torch.nn.Conv2d)}
    assert all(channels % ROUND_TO == 0 for channels in kept)
    # and what is exported is as small
    made = to_onnx(encoder.eval(), tiny.SIDE)
    assert contract.check(made).dimension == 16
    assert cosine(encoder, made) >= 0.9999


def test_what_matters_least_goes(tmp_path: Path) -> None:
    encoder = tiny.encoder(tmp_path / "tiny.onnx")
    last = [m for m in encoder.backbone.modules() if isinstance(m, torch.nn.Conv2d)][-1]
    with torch.no_grad():
        last.weight[::2] *= 1e-3
        (linear,) = (m for m in encoder.head if isinstance(m, torch.nn.Linear))
        linear.weight[:, ::2] *= 1e-3
        (norm,) = (m for m in encoder.head if isinstance(m, torch.nn.BatchNorm1d))
        norm.weight[::2] *= 1e-3
    strong = last.weight[1::2].abs().sum(dim=(1, 2, 3)).sort().values
    prune(encoder, 0.5, tiny.SIDE)
    left = [m for m in encoder.backbone.modules() if isinstance(m, torch.nn.Conv2d)][-1]
    assert left.out_channels == len(strong)
    # its inputs were cut as well, so its sums are smaller, but none is one of the weak ones
    assert left.weight.abs().sum(dim=(1, 2, 3)).min() > 0.1 * strong.min()


def test_a_residual_network_is_cut_too() -> None:
    torch.manual_seed(0)
    encoder = Encoder(make_backbone("resnet18", "none"), ModelRecipe(side=64, dimension=16))
    gone = prune(encoder, 0.25, 64)
    assert 0.3 < gone < 0.6
    assert encoder.eval()(to_tensor(PIXELS)).shape == (len(PIXELS), 16)


def test_without_a_linear_head_it_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument) as caught:
        prune(tiny.encoder(tmp_path / "tiny.onnx", head="none"), 0.5, tiny.SIDE)
    assert caught.value.reason == "PRUNE_UNSUITABLE"


def test_training_mode_is_as_before(tmp_path: Path) -> None:
    for training in (True, False):
        encoder = tiny.encoder(tmp_path / "tiny.onnx").train(training)
        prune(encoder, 0.5, tiny.SIDE)
        assert encoder.training is training
