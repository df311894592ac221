"""Fixtures of the tests of training."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from services.trainer.recipe import read_recipe
from tests.trainer import tiny
from tests.trainer.trained import EPOCHS, Trained, lookalike

# the training process itself shows no warnings of libraries: it can't act on them
WARNINGS_OF_LIBRARIES = ("ignore::DeprecationWarning:torchvision", "ignore:Unwrapped parameters:UserWarning")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.parent == Path(__file__).parent:
            for expected in WARNINGS_OF_LIBRARIES:
                item.add_marker(pytest.mark.filterwarnings(expected))


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> Iterator[None]:
    """Networks of three convolutions: more threads would wait for each other longer than they work."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")  # of the processes that are started
        yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of photographs with train/, validation/ and catalogue/."""
    return tiny.write_shop(tmp_path_factory.mktemp("shop"))


@pytest.fixture(scope="session")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file of a network of three convolutions."""
    return tiny.write_backbone(tmp_path_factory.mktemp("backbone") / "tiny.onnx")


@pytest.fixture(scope="session")
def trained(shop: Path, backbone: Path, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """By the command that an operator types."""
    folder = tmp_path_factory.mktemp("trained")
    file = tiny.write_recipe(folder / "tiny.toml", tiny.recipe(shop, backbone, optimiser={"epochs": EPOCHS}))
    arguments = ("train", file.name, "--runs", "runs", "--repository", "models", "--python", sys.executable)
    return Trained(folder, read_recipe(file), arguments, lookalike(folder, *arguments))
