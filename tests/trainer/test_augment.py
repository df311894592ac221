"""What training makes of a picture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from services.trainer.learning.augment import make_augmentation, mixed
from services.trainer.recipe import AugmentRecipe
from tests.trainer import tiny

NOTHING: dict[str, Any] = {
    "crop": (1.0, 1.0),
    "flip": 0,
    "rotation": 0,
    "perspective": 0,
    "colour": 0,
    "blur": 0,
    "noise": 0,
    "jpeg": 0,
    "occlusion": 0,
}
# each alone, so strong that it can't pass unseen
ALONE: dict[str, dict[str, Any]] = {
    "crop": {"crop": (0.2, 0.3)},
    "flip": {"flip": 1.0},
    "rotation": {"rotation": 90},
    "perspective": {"perspective": 1.0},
    "colour": {"colour": 1.0},
    "blur": {"blur": 1.0},
    "noise": {"noise": 1.0},
    "jpeg": {"jpeg": 1.0},
    "occlusion": {"occlusion": 1.0},
    "trivial": {"policy": "trivial"},
    "augmix": {"policy": "augmix"},
}

SIDE = 64


@pytest.fixture(scope="module")
def picture() -> torch.Tensor:
    """uint8 [3, 64, 64], with an upper half that differs from the lower, and a left one from the right."""
    return torch.tensor(np.asarray(tiny.photograph(9, 3, SIDE))).permute(2, 0, 1).contiguous()


def made(picture: torch.Tensor, seed: int = 0, side: int = SIDE, **options: Any) -> torch.Tensor:
    torch.manual_seed(seed)
    found: torch.Tensor = make_augmentation(AugmentRecipe(**(NOTHING | options)), side)(picture)
    return found


def test_without_any_of_it_a_picture_is_itself(picture: torch.Tensor) -> None:
    assert torch.equal(made(picture), picture)
    assert (made(picture, side=32).float().mean() - picture.float().mean()).abs() < 1


@pytest.mark.parametrize("option", ALONE)
def test_each_option_alone_does_something(picture: torch.Tensor, option: str) -> None:
    changed = [made(picture, seed, **ALONE[option]) for seed in range(4)]
    assert any((one.float() - picture.float()).abs().mean() > 1 for one in changed)


@pytest.mark.parametrize("option", ["flip", "perspective", "blur", "noise", "jpeg", "occlusion"])
def test_a_probability_is_how_often(picture: torch.Tensor, option: str) -> None:
    def share(probability: float) -> float:
        changed = [not torch.equal(made(picture, seed, **{option: probability}), picture) for seed in range(60)]
        return sum(changed) / len(changed)

    assert 0.3 < share(0.5) < 0.7
    assert share(1.0) > 0.95


@pytest.mark.parametrize("option", ["nothing", *ALONE])
@pytest.mark.parametrize("side", [32, 80])
def test_it_is_bytes_of_the_side_that_is_asked_for(picture: torch.Tensor, option: str, side: int) -> None:
    found = made(picture, side=side, **ALONE.get(option, {}))
    assert found.shape == (3, side, side)
    assert found.dtype == torch.uint8


def test_a_seed_gives_the_same_again_and_another_seed_does_not(picture: torch.Tensor) -> None:
    usual = AugmentRecipe(policy="trivial", blur=1, noise=1, jpeg=1, occlusion=1).model_dump()
    assert torch.equal(made(picture, 1, **usual), made(picture, 1, **usual))
    assert not torch.equal(made(picture, 1, **usual), made(picture, 2, **usual))


def test_the_picture_itself_stays(picture: torch.Tensor) -> None:
    before = picture.clone()
    for seed in range(5):
        made(picture, seed, **AugmentRecipe(noise=1, occlusion=1).model_dump())
    assert torch.equal(picture, before)


@pytest.mark.parametrize("seed", range(6))
def test_pictures_are_cut_together_and_labels_share_as_the_area_does(seed: int) -> None:
    n, side = 6, 20
    pixels = (torch.arange(n, dtype=torch.uint8) * 10).view(n, 1, 1, 1).expand(n, 3, side, side).contiguous()
    labels = torch.arange(n)
    before = pixels.clone()
    cut, others, share = mixed(pixels, labels, torch.Generator().manual_seed(seed))
    assert torch.equal(pixels, before)
    assert sorted(others.tolist()) == labels.tolist()
    assert 0.5 < share <= 1
    for place in range(n):
        own = cut[place] == 10 * place
        if others[place] != place:
            assert own.float().mean().item() == pytest.approx(share)
            assert bool((cut[place][~own] == 10 * others[place]).all())
    again = mixed(pixels, labels, torch.Generator().manual_seed(seed))
    assert torch.equal(again[0], cut)


def contact_sheet(path: Path, usual: AugmentRecipe | None = None) -> None:
    """Not a test: what to look at when something here changes. A row an option, the last row all that is usual."""
    one = torch.tensor(np.asarray(tiny.photograph(9, 3, SIDE))).permute(2, 0, 1)
    rows = [[made(one, seed, **options) for seed in range(8)] for options in ({}, *ALONE.values())]
    rows.append([made(one, seed, **(usual or AugmentRecipe()).model_dump()) for seed in range(8)])
    sheet = torch.cat([torch.cat(row, dim=2) for row in rows], dim=1)
    Image.fromarray(sheet.permute(1, 2, 0).numpy()).save(path)
