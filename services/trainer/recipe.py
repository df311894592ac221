"""A training recipe: one TOML file that says everything a run depends on.

What is not known, or out of its range, is refused with the place in the file; what is left out has the default that
did best on grocery photographs.
"""

from __future__ import annotations

import hashlib
import json
import tomllib
from enum import StrEnum
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from services.common.errors import InvalidArgument


class Group(BaseModel):
    """A frozen table of the recipe; an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Source(StrEnum):
    FOLDER = "folder"
    MANIFEST = "manifest"
    GROCERY = "grocery"
    CATALOGUE = "catalogue"


class DataRecipe(Group):
    """Where photographs come from and how they are split."""

    source: Source = Source.FOLDER
    path: str = Field("", description="folder or file, relative to the recipe; unused for a catalogue")
    address: str = Field("", description="host:port of the gateway, for a catalogue")
    image_store: str = Field("", description="URL of the image store, for a catalogue")
    split: Literal["file", "images", "products"] = Field("file", description="file: as the source says")
    validation_share: float = Field(0.1, gt=0, lt=0.9)
    test_share: float = Field(0.0, ge=0, lt=0.9)
    catalogue_repeats: int = Field(1, ge=1, le=100, description="how often an epoch sees each catalogue picture")
    unlabelled: str = Field("", description="folder of pictures without labels, for pretrain and pseudo_labels")
    products: int = Field(0, ge=0, description="take only so many products, the first by id; 0: all")
    images_per_product: int = Field(0, ge=0, description="train on at most so many of each product; 0: all")


class ModelRecipe(Group):
    """Backbone, pooling and head."""

    backbone: str = Field(
        "bundled", description="bundled, a torchvision name such as resnet50, or a path ending in .onnx"
    )
    weights: str = Field("", description="'': the backbone's own; imagenet, none, or a .safetensors file")
    side: int = Field(224, ge=32, le=1024, description="S, in pixels")
    pooling: Literal["average", "gem"] = "average"
    dimension: int = Field(512, ge=8, le=4096, description="D")
    batch_norm: bool = True
    dropout: float = Field(0.0, ge=0, lt=1)
    head: Literal["linear", "pca", "none"] = Field(
        "linear", description="pca: linear, begun from the features' main axes"
    )


class LossRecipe(Group):
    """See `services.trainer.learning.losses`."""

    name: Literal["triplet", "contrastive", "normalised-softmax", "arcface", "proxy-anchor", "supcon"] = (
        "normalised-softmax"
    )
    temperature: float = Field(0.07, gt=0, description="normalised-softmax, supcon")
    margin: float | None = Field(None, description="triplet, contrastive, arcface (degrees), proxy-anchor")
    scale: float | None = Field(None, gt=0, description="arcface, proxy-anchor")
    centres: int = Field(1, ge=1, le=8, description="arcface: sub-centres of each product")
    memory: int = Field(0, ge=0, description="embeddings of earlier batches to compare with as well; 0: none")


class SamplerRecipe(Group):
    batch: int = Field(32, ge=2, le=4096)
    images_per_product: int = Field(0, ge=0, description="M in a batch; 0: plain shuffling")


class Regime(StrEnum):
    FULL = "full"
    FROZEN = "frozen"
    ADAPTERS = "adapters"


class OptimiserRecipe(Group):
    """AdamW, cosine with warm-up."""

    regime: Regime = Regime.FULL
    epochs: int = Field(20, ge=1, le=1000)
    backbone_rate: float = Field(1e-4, gt=0, le=1)
    head_rate: float = Field(1e-3, gt=0, le=1)
    loss_rate: float = Field(1e-2, gt=0, le=1, description="of proxies and class weights")
    layer_decay: float = Field(
        1.0, gt=0, le=1, description="each stage nearer to the pixels learns so many times slower"
    )
    weight_decay: float = Field(1e-4, ge=0)
    warmup_share: float = Field(0.1, ge=0, lt=1, description="of all steps")
    clip_norm: float = Field(5.0, ge=0, description="0: no clipping")
    ema: float = Field(0.0, ge=0, lt=1, description="decay a step of the averaged weights; 0: none")
    label_smoothing: float = Field(0.0, ge=0, lt=1)
    patience: int = Field(0, ge=0, description="stop after so many epochs without a better recall@1; 0: never")
    sides: tuple[int, ...] = Field(
        (), description="train at these sides one after the other, equal shares of the epochs"
    )
    batch_norm: Literal["frozen", "train"] = Field("frozen", description="frozen: keep the backbone's statistics")
    pretrained_pull: float = Field(0.0, ge=0, description="decay of the backbone's weights towards the pretrained ones")
    interpolation: float = Field(
        1.0, gt=0, le=1, description="share of the trained weights in the end, the rest as before"
    )


class AugmentRecipe(Group):
    """What shoppers' cameras do to a picture; shares are probabilities."""

    crop: tuple[float, float] = Field((0.35, 1.0), description="share of the area that stays")
    flip: float = Field(0.5, ge=0, le=1)
    rotation: float = Field(15.0, ge=0, le=180, description="degrees")
    perspective: float = Field(0.2, ge=0, le=1)
    colour: float = Field(0.3, ge=0, le=1, description="strength of brightness, contrast and saturation")
    blur: float = Field(0.1, ge=0, le=1)
    noise: float = Field(0.1, ge=0, le=1)
    jpeg: float = Field(0.1, ge=0, le=1)
    occlusion: float = Field(0.1, ge=0, le=1)
    policy: Literal["none", "trivial", "augmix"] = "none"
    mixup: float = Field(0.0, ge=0, le=1, description="share of batches in which two pictures are cut together")


class ComputeRecipe(Group):
    accelerator: Literal["auto", "cpu", "cuda"] = "auto"
    processes: int = Field(1, ge=1, le=64, description="DDP; each gets its share of every batch")
    precision: Literal["auto", "32", "bf16", "16"] = Field("auto", description="auto: bf16 on a GPU, 32 on a CPU")
    workers: int = Field(0, ge=0, description="processes that augment pictures; 0: in the training process itself")


class ValidationRecipe(Group):
    """What is measured after every epoch; the final figures are always of everything."""

    gallery_per_product: int = Field(
        8, ge=1, description="training photographs of each product that queries are compared with"
    )


class PretrainRecipe(Group):
    """SimSiam on pictures without labels, before the labels are used."""

    epochs: int = Field(0, ge=0)
    rate: float = Field(1e-4, gt=0)


class PseudoLabelRecipe(Group):
    """Nearest neighbours name the product of unlabelled pictures, after each `every` epochs."""

    every: int = Field(0, ge=0, description="0: off")
    neighbours: int = Field(5, ge=1)
    agreement: float = Field(0.8, gt=0, le=1, description="share of the neighbours' votes that one product needs")
    similarity: float = Field(0.6, ge=0, le=1, description="the nearest must be at least so similar")


class DistilRecipe(Group):
    teacher: str = Field("", description="an encoder in ONNX; '': none")
    weight: float = Field(1.0, ge=0)


class CompatibleRecipe(Group):
    """Queries of the new version find in the collection of an older one too, before anything is embedded again."""

    version: int = Field(0, ge=0, description="the older one, in the model repository that is exported to; 0: none")
    weight: float = Field(1.0, gt=0, description="of the influence loss beside the metric loss")
    temperature: float = Field(0.03, gt=0, description="of the influence loss; vectors of the older one may lie close")


class AdversarialRecipe(Group):
    epsilon: float = Field(0.0, ge=0, le=32, description="FGSM step in pixel values 0..255; 0: off")
    weight: float = Field(0.5, ge=0)


class PruneRecipe(Group):
    share: float = Field(0.0, ge=0, lt=0.9, description="of the channels inside each block that are cut; 0: none")
    epochs: int = Field(2, ge=0, description="of fine-tuning afterwards")


class ExportRecipe(Group):
    calibration: int = Field(128, ge=8, description="training pictures that set the INT8 ranges")
    served: Literal["best", "fp32", "int8"] = Field(
        "best", description="best: INT8 if it drops recall@1 by at most 0.5 points"
    )


class ReportRecipe(Group):
    robustness_queries: int = Field(60, ge=0, description="photographs that are corrupted in 75 ways; 0: not measured")


class Recipe(Group):
    name: str = Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,63}$")
    seed: int = 1
    data: DataRecipe = DataRecipe()
    model: ModelRecipe = ModelRecipe()
    loss: LossRecipe = LossRecipe()
    sampler: SamplerRecipe = SamplerRecipe()
    optimiser: OptimiserRecipe = OptimiserRecipe()
    augment: AugmentRecipe = AugmentRecipe()
    compute: ComputeRecipe = ComputeRecipe()
    validation: ValidationRecipe = ValidationRecipe()
    pretrain: PretrainRecipe = PretrainRecipe()
    pseudo_labels: PseudoLabelRecipe = PseudoLabelRecipe()
    distil: DistilRecipe = DistilRecipe()
    compatible: CompatibleRecipe = CompatibleRecipe()
    adversarial: AdversarialRecipe = AdversarialRecipe()
    prune: PruneRecipe = PruneRecipe()
    export: ExportRecipe = ExportRecipe()
    report: ReportRecipe = ReportRecipe()

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.data.source is not Source.CATALOGUE and not self.data.path:
            raise ValueError("data.path is missing")
        if self.data.source is Source.CATALOGUE and not (self.data.address and self.data.image_store):
            raise ValueError("a catalogue needs data.address and data.image_store")
        if self.data.source is Source.CATALOGUE and self.data.split == "file":
            raise ValueError("a catalogue has no split of its own: data.split must be 'images' or 'products'")
        if (self.pretrain.epochs or self.pseudo_labels.every) and not self.data.unlabelled:
            raise ValueError("pretrain and pseudo_labels need data.unlabelled")
        if self.sampler.images_per_product and self.sampler.batch % self.sampler.images_per_product:
            raise ValueError("sampler.batch must be a multiple of sampler.images_per_product")
        return self

    @property
    def fingerprint(self) -> str:
        """8 hexadecimal digits of everything in it: the same recipe is the same run, and is resumed."""
        text = json.dumps(self.model_dump(mode="json"), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:8]


def read_recipe(path: Path) -> Recipe:
    """A recipe with its paths made absolute. Raises InvalidArgument (RECIPE_INVALID), naming the key or line."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidArgument(f"{path} can't be read: {error}", reason="RECIPE_INVALID") from None
    return parse_recipe(text, path.parent, str(path))


def parse_recipe(text: str, folder: Path, name: str = "the recipe", *, confined: bool = False) -> Recipe:
    """The same from its text; relative paths start at `folder`.

    Args:
        confined: refuse paths that could leave `folder`, for recipes that come from elsewhere; links are followed.
    """
    try:
        return Recipe.model_validate(_absolute(tomllib.loads(text), folder, confined))
    except tomllib.TOMLDecodeError as error:
        raise InvalidArgument(f"{name} is not TOML: {error}", reason="RECIPE_INVALID") from None
    except RecursionError:
        raise InvalidArgument(f"{name} is nested too deeply", reason="RECIPE_INVALID") from None
    except ValidationError as error:
        places = [
            f"{'.'.join(map(str, problem['loc'])) or 'recipe'}: {problem['msg'].removeprefix('Value error, ')}"
            for problem in error.errors()
        ]
        raise InvalidArgument(f"{name}: {'; '.join(places)}", reason="RECIPE_INVALID") from None


def _absolute(raw: dict[str, Any], folder: Path, confined: bool) -> dict[str, Any]:
    """Paths in a recipe are relative to it, wherever the command is called."""
    for table, key in (("data", "path"), ("data", "unlabelled"), ("distil", "teacher")):
        _make_absolute(raw, table, key, folder, confined)
    for key in ("backbone", "weights"):
        _make_absolute(raw, "model", key, folder, confined, suffixes=(".onnx", ".safetensors"))
    return raw


def _make_absolute(
    raw: dict[str, Any], table: str, key: str, folder: Path, confined: bool, suffixes: tuple[str, ...] = ("",)
) -> None:
    """Leaves alone what is not a path, and what is of a wrong type: the model refuses it."""
    group = raw.get(table)
    value = group.get(key) if isinstance(group, dict) else None
    if not isinstance(group, dict) or not isinstance(value, str) or not value or not value.endswith(suffixes):
        return
    if "\0" in value:
        raise InvalidArgument(f"{table}.{key}: no path has a null character", reason="RECIPE_INVALID")
    if confined and (Path(value).is_absolute() or ".." in Path(value).parts):
        raise InvalidArgument(f"{table}.{key}: {value} is outside of {folder}", reason="RECIPE_INVALID")
    group[key] = str((folder / value).resolve())
