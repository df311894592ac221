"""The running catalogue as training data, the whole way: products in, photographs out of it, a version that serves."""

from __future__ import annotations

import asyncio
import io
import json
import random
import shutil
import sys
from pathlib import Path

import pytest
from PIL import Image, ImageEnhance

from services.common.manifest import MODEL_NAME, Manifest
from services.evaluation.inference import open_encoder
from services.export.publish import verify
from services.trainer.environment import training_python
from services.trainer.errors import NoTrainingEnvironment
from tests.integration.shop import OK, Shop, picture, product

pytestmark = pytest.mark.timeout(600)

PRODUCTS, PICTURES = 6, 6

RECIPE = """
name = "catalogue"

[data]
source = "catalogue"
address = "{address}"
image_store = "{store}"
split = "images"
validation_share = 0.3

[model]
side = 64
dimension = 32
head = "linear"

[optimiser]
regime = "frozen"
epochs = 4
head_rate = 1e-2

[sampler]
batch = 8

[export]
calibration = 8

[report]
robustness_queries = 0
"""


def shot(original: bytes, seed: int) -> bytes:
    """As if the product was photographed: turned, cropped, in another light."""
    chance = random.Random(seed)
    picture = Image.open(io.BytesIO(original)).convert("RGB").rotate(chance.uniform(-25, 25), fillcolor="white")
    edge = picture.width * chance.uniform(0.0, 0.2)
    picture = picture.crop((int(edge), int(edge), picture.width, picture.height))
    made = io.BytesIO()
    ImageEnhance.Brightness(picture).enhance(chance.uniform(0.6, 1.4)).save(made, "JPEG", quality=90)
    return made.getvalue()


@pytest.fixture
def python() -> Path:
    try:
        return training_python()
    except NoTrainingEnvironment as error:
        pytest.skip(f"{error}")


async def test_a_shop_trains_on_its_own_pictures(
    python: Path, make_stack, model_repository: Path, tmp_path: Path
) -> None:
    repository = tmp_path / "models"
    shutil.copytree(model_repository, repository)
    async with make_stack() as stack, Shop(stack.gateway_address) as shop:
        originals = [picture(900 + number) for number in range(PRODUCTS)]
        products = [
            product(f"p{number}", original, *(shot(original, 10 * number + i) for i in range(1, PICTURES)))
            for number, original in enumerate(originals)
        ]
        assert {answer.status.code for answer in await shop.upsert(products)} == {OK}
        recipe = tmp_path / "recipe.toml"
        recipe.write_text(RECIPE.format(address=stack.gateway_address, store=stack.image_store_url))
        command = (Path(sys.prefix) / "bin" / "lookalike", "train", recipe, "--runs", tmp_path / "runs")
        options = ("--repository", repository, "--python", python, "--json")
        child = await asyncio.create_subprocess_exec(
            *map(str, (*command, *options)), stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
        )
        printed, complaints = await child.communicate()
    assert child.returncode == 0, complaints.decode()
    state = json.loads(printed)
    assert (state["state"], state["version"], state["epoch"]) == ("succeeded", 2, 4)
    assert Path(state["report"]).stat().st_size > 10_000

    events = [json.loads(line) for line in (Path(state["folder"]) / "events.jsonl").read_text().splitlines()]
    losses = [event["loss"] for event in events if event["event"] == "epoch"]
    assert losses[-1] < 0.7 * losses[0]
    # of six products one in six would be found by chance
    assert state["after"]["recall@1"] > 0.5

    folder = repository / MODEL_NAME / "2"
    manifest = verify(folder)
    assert (manifest.side, manifest.dimension, manifest.parent) == (64, 32, 1)
    assert manifest.training_run == state["id"]
    assert {variant.precision for variant in manifest.variants} == {"fp32", "int8"}
    assert Manifest.read(folder).served_variant.metrics["recall@1"] == pytest.approx(state["after"]["recall@1"])
    assert open_encoder(folder / "model.onnx").dimension == 32
