"""What the tests of training share: made photographs, a network of three convolutions, recipes that take seconds."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import psutil
import torch
from lightning.fabric import Fabric
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from services.export import contract
from services.trainer.events import EventLog
from services.trainer.learning.backbones import Backbone, make_backbone
from services.trainer.learning.checkpoint import Progress
from services.trainer.learning.compatible import Influence
from services.trainer.learning.encoder import Encoder, to_tensor
from services.trainer.learning.fit import Fit, More, TrainingSet
from services.trainer.learning.losses import MetricLoss
from services.trainer.learning.objective import Objective, Teacher
from services.trainer.learning.optimiser import prepare
from services.trainer.learning.pipeline import Pipeline
from services.trainer.learning.validation import Validation
from services.trainer.recipe import ModelRecipe, Recipe
from services.trainer.runs import Run

SIDE = 32
CHANNELS = (16, 24, 32)
NORMALISATION = contract.Normalisation((120.0, 118.0, 115.0), (64.0, 64.0, 64.0))

COLOURS = ((220, 40, 40), (40, 170, 60), (50, 70, 210), (230, 200, 40))
# two colours, and which of the four tiles have the second one
DESIGNS = tuple((one, other, tiles) for tiles in ((0, 1), (0, 2)) for one in range(4) for other in range(one))

Pixels = npt.NDArray[np.uint8]


# --- photographs ------------------------------------------------------------------------------------------------------


def photograph(product: int, number: int, side: int = 48) -> Image.Image:
    """A patch of four tiles in two colours on a ground of any colour, turned and moved about, in some light.

    Products share their colours; what tells them apart is which two they have, and how they lie.
    """
    one, other, pattern = DESIGNS[product % len(DESIGNS)]
    tiles = np.array([COLOURS[other] if place in pattern else COLOURS[one] for place in range(4)], np.uint8)
    taken = np.random.default_rng((product, number))
    size = int(side * taken.uniform(0.6, 0.75))
    patch = Image.fromarray(tiles.reshape(2, 2, 3)).resize((size, size), Image.Resampling.NEAREST).convert("RGBA")
    patch = patch.rotate(taken.uniform(-20, 20), Image.Resampling.BILINEAR, expand=True)
    ground = Image.new("RGB", (side, side), tuple(map(int, taken.uniform(30, 220) + taken.uniform(-30, 30, 3))))
    room = max(1, side - patch.width)
    ground.paste(patch, (int(taken.integers(0, room)), int(taken.integers(0, room))), patch)
    light = np.asarray(ground) * taken.uniform(0.7, 1.2) + taken.normal(0, 12, (side, side, 3))
    return Image.fromarray(light.clip(0, 255).astype(np.uint8))


def jpeg(picture: Image.Image) -> bytes:
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=92)
    return file.getvalue()


def write_folder(folder: Path, products: Sequence[int], numbers: Sequence[int], *, kinds: bool = False) -> Path:
    """`product-0/0.jpg` ...; with `kinds` below a folder of their category."""
    for product in products:
        place = folder / (f"kind-{product // 3}" if kinds else "") / f"product-{product}"
        place.mkdir(parents=True, exist_ok=True)
        for number in numbers:
            (place / f"{number}.jpg").write_bytes(jpeg(photograph(product, number)))
    return folder


def write_shop(folder: Path, products: int = 12, taken: int = 10, asked: int = 4) -> Path:
    """With train/, validation/ and catalogue/."""
    write_folder(folder / "train", range(products), range(taken), kinds=True)
    write_folder(folder / "validation", range(products), range(100, 100 + asked), kinds=True)
    write_folder(folder / "catalogue", range(products), (200,), kinds=True)
    return folder


def pixels_of(products: Sequence[int], numbers: Sequence[int], side: int = SIDE) -> Pixels:
    """uint8 [len(products) * len(numbers), side, side, 3], product by product."""
    pictures = [photograph(product, number).resize((side, side)) for product in products for number in numbers]
    return np.stack([np.asarray(picture) for picture in pictures])


def training_set(products: int = 12, numbers: Sequence[int] = range(16), side: int = 36) -> TrainingSet:
    labels = [product for product in range(products) for _ in numbers]
    return TrainingSet(pixels_of(range(products), numbers, side), labels)


def validation(products: int = 12, numbers: Sequence[int] = range(100, 108)) -> Validation:
    """Each photograph among all the others."""
    ids = tuple(f"product-{product}" for product in range(products) for _ in numbers)
    return Validation(pixels_of(range(products), numbers), ids, None, ())


# --- networks ---------------------------------------------------------------------------------------------------------


def extractor(seed: int = 0, channels: Sequence[int] = CHANNELS, batch_norm: bool = True) -> onnx.ModelProto:
    """Convolutions of stride 2, the first with a batch normalisation: float32 [N, 3, H, W] -> [N, C, H / 8, W / 8]."""
    random = np.random.default_rng(seed)
    nodes, weights, last, width = [], [], "pixels", 3
    for place, out in enumerate(channels):
        kernel = random.normal(0, (2 / (9 * width)) ** 0.5, (out, width, 3, 3))
        weights.append(numpy_helper.from_array(kernel.astype(np.float32), f"kernel{place}"))
        weights.append(numpy_helper.from_array(np.zeros(out, np.float32), f"bias{place}"))
        nodes.append(
            helper.make_node(
                "Conv",
                [last, f"kernel{place}", f"bias{place}"],
                [f"conv{place}"],
                f"conv{place}",
                pads=[1, 1, 1, 1],
                strides=[2, 2],
                kernel_shape=[3, 3],
            )
        )
        last = f"conv{place}"
        if batch_norm and place == 0:
            statistics = {"scale": np.ones(out), "shift": np.zeros(out), "mean": np.zeros(out), "var": np.ones(out)}
            weights += [numpy_helper.from_array(value.astype(np.float32), name) for name, value in statistics.items()]
            nodes.append(helper.make_node("BatchNormalization", [last, *statistics], ["normal"], "normal"))
            last = "normal"
        nodes.append(helper.make_node("Relu", [last], [f"relu{place}"], f"relu{place}"))
        last, width = f"relu{place}", out
    shape = ["N", width, "h", "w"]
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("pixels", TensorProto.FLOAT, ["N", 3, "H", "W"])],
        [helper.make_tensor_value_info(last, TensorProto.FLOAT, shape)],
        weights,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", contract.OPSET)])
    model.ir_version = contract.IR_VERSION
    return model


def pooled_extractor(seed: int = 0) -> onnx.ModelProto:
    """The same up to vectors, [N, C]."""
    model = _with_pool(extractor(seed), CHANNELS[-1])
    model.graph.node.append(helper.make_node("Flatten", ["pooled"], ["flat"], "flat"))
    model.graph.output.pop()
    model.graph.output.append(helper.make_tensor_value_info("flat", TensorProto.FLOAT, ["N", CHANNELS[-1]]))
    return model


def contract_encoder(seed: int = 0, channels: Sequence[int] = CHANNELS, side: int = SIDE) -> onnx.ModelProto:
    """The same with a pool, and the encoder contract around it."""
    model = _with_pool(extractor(seed, channels), channels[-1])
    for dim in model.graph.input[0].type.tensor_type.shape.dim[2:]:
        dim.dim_value = side
    return contract.wrap(model, NORMALISATION)


def _with_pool(model: onnx.ModelProto, channels: int) -> onnx.ModelProto:
    maps = model.graph.output.pop().name
    model.graph.node.append(helper.make_node("GlobalAveragePool", [maps], ["pooled"], "pool"))
    model.graph.output.append(helper.make_tensor_value_info("pooled", TensorProto.FLOAT, ["N", channels, 1, 1]))
    return model


def write_backbone(path: Path, seed: int = 0) -> Path:
    onnx.save(extractor(seed), path)
    return path


def backbone(path: Path) -> Backbone:
    """`path` is where its file goes."""
    return make_backbone(str(write_backbone(path)))


def encoder(path: Path, **model: Any) -> Encoder:
    """Seeded."""
    torch.manual_seed(0)
    return Encoder(backbone(path), ModelRecipe(**({"side": SIDE, "dimension": 16} | model)))


# --- runs -------------------------------------------------------------------------------------------------------------

# little augmentation: the pictures vary by themselves, and it is most of the time
PLAIN = {"crop": (0.7, 1.0), "rotation": 0, "perspective": 0, "colour": 0, "blur": 0, "noise": 0, "jpeg": 0}


def recipe(path: Path | str, backbone: Path | str, **tables: Any) -> Recipe:
    """Args:
    tables: what is different, for example `optimiser={"epochs": 2}`, `name="other"`.
    """
    made: dict[str, Any] = {
        "name": "tiny",
        "data": {"path": str(path) or "/nowhere"},
        "model": {"backbone": str(backbone), "side": SIDE, "dimension": 16, "head": "pca"},
        "sampler": {"batch": 24},
        "optimiser": {"epochs": 8, "backbone_rate": 1e-2, "head_rate": 1e-2},
        "augment": PLAIN | {"occlusion": 0, "flip": 0},
        "compute": {"accelerator": "cpu"},
        "export": {"calibration": 8},
        "report": {"robustness_queries": 0},
    }
    for name, table in tables.items():
        made[name] = made.get(name, {}) | table if isinstance(table, dict) else table
    return Recipe.model_validate(made)


def one_process() -> Fabric:
    return Fabric(accelerator="cpu", devices=1)


class Heard(EventLog):
    """Keeps what is told."""

    def __init__(self) -> None:
        self.events: list[dict[str, Any]] = []

    def emit(self, event: str, **fields: Any) -> None:
        self.events.append({"event": event, **fields})

    def of(self, event: str) -> list[dict[str, Any]]:
        return [one for one in self.events if one["event"] == event]


@dataclass(frozen=True, slots=True)
class Learnt:
    """Args:
    before: recall@1 of the encoder before it was trained. start: the state of its backbone then.
    """

    encoder: Encoder
    objective: Objective
    progress: Progress
    before: float
    start: dict[str, torch.Tensor]
    log: Heard

    @property
    def gain(self) -> float:
        """Of recall@1, on photographs that were not trained on."""
        return self.progress.best - self.before


def learn(
    folder: Path,
    *,
    fabric: Fabric | None = None,
    watch: Validation | None = None,
    more: More | None = None,
    data: TrainingSet | None = None,
    products: int = 12,
    influence: Influence | None = None,
    **tables: Any,
) -> Learnt:
    """Trains the tiny network as a pipeline does, without its files.

    Args:
        folder: for the backbone's file and the checkpoint, which is gone on from.
        tables: see `recipe`.
    """
    what = recipe("", write_backbone(folder / "tiny.onnx"), **tables)
    fabric, watch, data, log = fabric or one_process(), watch or validation(), data or training_set(), Heard()
    torch.manual_seed(what.seed)
    made = make_backbone(what.model.backbone)
    encoder = Encoder(made, what.model)
    encoder.eval()
    with torch.no_grad():
        encoder.begin_at_axes(encoder.pooled(to_tensor(data.pixels)), project=what.model.head == "pca")
    before, start = watch.recall(encoder), {k: v.clone() for k, v in encoder.backbone.state_dict().items()}
    prepare(encoder, what.optimiser.regime)
    loss = MetricLoss(what.loss, products, encoder.dimension, what.optimiser.label_smoothing)
    teacher = Teacher(Path(what.distil.teacher)) if what.distil.teacher else None
    objective = Objective(encoder, loss, what.adversarial, teacher, what.distil.weight, influence)
    fit = Fit(fabric, what, "train", folder / "checkpoint", log, watch, None, more)
    progress = fit(objective, made.stages, data, what.optimiser.epochs)
    return Learnt(encoder, objective, progress, before, start, log)


def write_recipe(path: Path, what: Recipe) -> Path:
    """As the TOML file that an operator writes."""
    lines = []
    for name, value in what.model_dump(mode="json", exclude_unset=True, exclude_none=True).items():
        if isinstance(value, dict):
            lines += [f"[{name}]", *(f"{key} = {_toml(entry)}" for key, entry in value.items())]
        else:
            lines.insert(0, f"{name} = {_toml(value)}")
    path.write_text("\n".join(lines) + "\n")
    return path


def _toml(value: Any) -> str:
    # JSON and TOML write numbers, texts, lists and truth values alike
    return json.dumps(value)


def pipeline(runs: Path, models: Path, what: Recipe) -> tuple[Run, Heard]:
    """A whole run in this process; what it told."""
    run, log = Run.of(runs, what), Heard()
    Pipeline(run, models, one_process(), log)()
    return run, log


def workers_of(run: Run) -> list[psutil.Process]:
    """Processes that were started for a run and have not ended."""
    found = []
    for process in psutil.process_iter(["cmdline", "status"]):
        if str(run.folder) in (process.info["cmdline"] or ()) and process.info["status"] != psutil.STATUS_ZOMBIE:
            found.append(process)
    return found
