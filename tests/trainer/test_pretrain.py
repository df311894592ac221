"""Pre-training on pictures without labels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional

from services.trainer.learning import pretrain as module
from services.trainer.learning.encoder import Encoder, to_tensor
from services.trainer.learning.pretrain import SimSiam, pretrain, spread
from services.trainer.recipe import Recipe
from tests.trainer import tiny

PICTURES = tiny.pixels_of(range(12), range(16), side=36)
SEEN = to_tensor(tiny.pixels_of(range(12), range(100, 104)))


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module.SimSiam.__init__, "__defaults__", (64,))


def recipe(folder: Path, epochs: int = 8) -> Recipe:
    return tiny.recipe(
        folder,
        folder / "tiny.onnx",
        data={"unlabelled": str(folder)},
        pretrain={"epochs": epochs, "rate": 3e-3},
        augment={"crop": (0.5, 1.0), "colour": 0.2, "flip": 0.5},
    )


def train(folder: Path, encoder: Encoder, what: Recipe | None = None) -> tuple[Any, tiny.Heard]:
    log = tiny.Heard()
    used = what or recipe(folder)
    progress = pretrain(tiny.one_process(), used, encoder, tiny.CHANNELS[-1], PICTURES, folder / "checkpoint", log)
    return progress, log


def test_the_loss_falls_and_the_features_do_not_collapse(tmp_path: Path) -> None:
    encoder = tiny.encoder(tmp_path / "tiny.onnx")
    head = {name: tensor.clone() for name, tensor in encoder.head.state_dict().items()}
    backbone = {name: tensor.clone() for name, tensor in encoder.backbone.state_dict().items()}
    before = spread(encoder.eval(), SEEN)
    progress, log = train(tmp_path, encoder)
    losses = [row["loss"] for row in progress.history]
    assert losses[-1] < losses[0] - 0.2
    assert -1 < losses[-1] < 0
    assert spread(encoder.eval(), SEEN) > 0.5 * before
    assert all(torch.equal(tensor, head[name]) for name, tensor in encoder.head.state_dict().items())
    after = encoder.backbone.state_dict()
    assert all(not torch.equal(after[name], tensor) for name, tensor in backbone.items() if tensor.dim() == 4)
    # the head is trained in the next stage
    assert all(weight.requires_grad for weight in encoder.parameters())
    assert [(event["stage"], event["epoch"]) for event in log.of("epoch")] == [("pretrain", n) for n in range(1, 9)]


def test_spread_is_none_at_one_point_and_nearly_one_all_around(tmp_path: Path) -> None:
    class Fixed(torch.nn.Module):
        def __init__(self, rows: torch.Tensor) -> None:
            super().__init__()
            self.rows = rows

        def pooled(self, _: Any) -> torch.Tensor:
            return self.rows

    one_point: Any = Fixed(torch.ones(50, 8) * torch.arange(1, 51)[:, None])
    around: Any = Fixed(torch.randn(2000, 8, generator=torch.Generator().manual_seed(0)))
    assert spread(one_point, None) == pytest.approx(0, abs=1e-6)
    assert spread(around, None) > 0.99


def test_only_the_prediction_learns_from_a_view(tmp_path: Path) -> None:
    """The gradient does not flow through the target: Chen and He 2021, algorithm 1."""
    torch.manual_seed(0)
    model = SimSiam(tiny.encoder(tmp_path / "tiny.onnx"), tiny.CHANNELS[-1]).eval()
    one, other = SEEN[:8], SEEN[8:16]
    found = model(one, other)
    with torch.no_grad():
        z1, z2 = (model.projector(model.encoder.pooled(view)) for view in (one, other))
        p1, p2 = model.predictor(z1), model.predictor(z2)
    cosines = [functional.cosine_similarity(p, z, dim=1).mean().item() for p, z in ((p1, z2), (p2, z1))]
    assert found.item() == pytest.approx(-np.mean(cosines), rel=1e-4)
    found.backward()
    last = model.projector[3].weight
    similar = [
        functional.cosine_similarity(model.predictor(model.projector(model.encoder.pooled(view))), target, dim=1).mean()
        for view, target in ((one, z2), (other, z1))
    ]
    (wanted,) = torch.autograd.grad(-sum(similar) / 2, last)
    torch.testing.assert_close(last.grad, wanted)


def test_what_was_killed_goes_on_to_the_same_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("whole", "killed"):
        (tmp_path / name).mkdir()
    whole = tiny.encoder(tmp_path / "whole" / "tiny.onnx")
    train(tmp_path / "whole", whole, recipe(tmp_path, 3))

    class Killed(BaseException):
        pass

    real = module.epoch_batches

    def until_the_third(*arguments: Any) -> Any:
        if arguments[4] == 2:
            raise Killed
        return real(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(module, "epoch_batches", until_the_third)
        with pytest.raises(Killed):
            train(tmp_path / "killed", tiny.encoder(tmp_path / "tiny.onnx"), recipe(tmp_path, 3))
    resumed = tiny.encoder(tmp_path / "tiny.onnx")
    _, log = train(tmp_path / "killed", resumed, recipe(tmp_path, 3))
    assert [event["epoch"] for event in log.of("epoch")] == [3]
    state = resumed.state_dict()
    assert all(torch.equal(tensor, state[name]) for name, tensor in whole.state_dict().items())
