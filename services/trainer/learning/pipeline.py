"""One training run from photographs to a published version and its report.

    data -> [pretrain] -> train -> [prune, train again] -> export -> evaluate -> report

Every stage finds what it has finished before, so a run that was killed at any moment goes on with the same command and
loses at most one epoch.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any

import torch
from lightning.fabric import Fabric
from safetensors.torch import save_file
from torch.utils.tensorboard import SummaryWriter

from services.common.errors import FailedPrecondition
from services.common.images import PREPROCESSING
from services.common.manifest import MODEL_FILE, MODEL_NAME, Manifest
from services.evaluation.compatibility import check_dimensions
from services.evaluation.inference import Encoder as OnnxEncoder
from services.evaluation.inference import Pixels, decode_photographs, open_encoder
from services.evaluation.metrics import Vectors
from services.evaluation.protocols import Protocol
from services.export.publish import Origin, publish, verify, versions_in
from services.export.quantize import quantize
from services.photographs.photograph import Photograph
from services.trainer.events import EventLog
from services.trainer.learning import reporting
from services.trainer.learning.adapters import merge_adapters
from services.trainer.learning.backbones import make_backbone, stages_of
from services.trainer.learning.checkpoint import Progress
from services.trainer.learning.compatible import Influence, open_older
from services.trainer.learning.data import Data, DataReader
from services.trainer.learning.encoder import Encoder, embed, to_tensor
from services.trainer.learning.fit import Fit, More, TrainingSet
from services.trainer.learning.losses import MetricLoss
from services.trainer.learning.measuring import Exported, Measured, asked_protocols, compared, measured, robust, sized
from services.trainer.learning.objective import Objective, Teacher
from services.trainer.learning.optimiser import prepare
from services.trainer.learning.pretrain import pretrain
from services.trainer.learning.prune import prune
from services.trainer.learning.pseudo_labels import PseudoLabels
from services.trainer.learning.to_onnx import to_onnx
from services.trainer.learning.validation import Validation
from services.trainer.report import contents
from services.trainer.report.page import write_report
from services.trainer.runs import Run

# training photographs whose features set the head's axes
AXES = 1024
WEIGHTS_FILE = "weights.safetensors"


class Pipeline:
    """Args:
    models: Triton's model repository, where the encoder is published as the next version.
    log: events; silent in all processes but the first.
    """

    def __init__(self, run: Run, models: Path, fabric: Fabric, log: EventLog) -> None:
        self._run, self._recipe, self._fabric, self._log = run, run.recipe(), fabric, log
        self._models = models / MODEL_NAME
        self._warnings: list[str] = []
        self._older = open_older(self._models, self._recipe)
        self._reader = DataReader(run, self._recipe, fabric, log)

    def __call__(self) -> None:
        started = time.time()
        data = self._reader.read(self._warn)
        encoder, history = self._train(data)
        if not self._fabric.is_global_zero:
            return
        asked = asked_protocols(data.found.splits)
        published = self._published()
        before = self._before(asked, published)
        exported = self._export(encoder, data, asked, self._measured_older(asked, before))
        manifest = published or self._publish(exported, encoder, asked, before[1] if before else None)
        self._report(data, history, before, exported, manifest, started)
        self._log.emit(
            "finished",
            version=manifest.version,
            before=before[0].metrics if before else {},
            after=exported.metrics,
            report=str(self._run.report),
        )

    # --- training -----------------------------------------------------------------------------------------------------

    def _train(self, data: Data) -> tuple[Encoder, list[contents.Epoch]]:
        recipe, fabric, log = self._recipe, self._fabric, self._log
        fabric.seed_everything(recipe.seed, verbose=False)
        backbone = make_backbone(recipe.model.backbone, recipe.model.weights)
        encoder = Encoder(backbone, recipe.model).to(fabric.device)
        influence = self._influence(data, encoder.dimension)
        history: list[contents.Epoch] = []
        unlabelled = self._reader.unlabelled(self._warn) if recipe.data.unlabelled else ()
        if recipe.pretrain.epochs:
            log.emit("stage", stage="pretrain", message=f"SimSiam on {len(unlabelled)} pictures without labels")
            pixels = self._reader.canvases(unlabelled)
            progress = pretrain(
                fabric, recipe, encoder, backbone.channels, pixels, self._run.checkpoint / "pretrain", log
            )
            history += reporting.epochs("pretrain", progress.history)
        if recipe.model.head == "pca" or recipe.model.batch_norm:
            encoder.begin_at_axes(
                _features(encoder, self._reader.spread(data, AXES)), project=recipe.model.head == "pca"
            )
        begun = {name: tensor.clone() for name, tensor in encoder.state_dict().items()}
        # what is drawn from here on is the same whether this process did the pre-training or an earlier one
        fabric.seed_everything(recipe.seed, verbose=False)
        prepare(encoder, recipe.optimiser.regime)
        log.emit("stage", stage="train", message=f"{recipe.model.backbone}, {recipe.loss.name}")
        curves = SummaryWriter(str(self._run.folder / "tensorboard")) if fabric.is_global_zero else None
        watch = self._reader.validation(data)
        more = self._pseudo_labels(unlabelled, data)
        progress = self._fit(
            "train", encoder, backbone.stages, data, influence, recipe.optimiser.epochs, watch, curves, more
        )
        history += reporting.epochs("train", progress.history)
        merge_adapters(encoder)
        if recipe.optimiser.interpolation < 1:
            _interpolate(encoder, begun, recipe.optimiser.interpolation)
        if recipe.prune.share:
            gone = prune(encoder, recipe.prune.share, recipe.model.side)
            log.emit("stage", stage="prune", message=f"{gone:.0%} of the backbone's weights are gone")
            stages = stages_of(encoder.backbone)
            fabric.seed_everything(recipe.seed, verbose=False)
            progress = self._fit("prune", encoder, stages, data, influence, recipe.prune.epochs, watch, curves, None)
            history += reporting.epochs("prune", progress.history)
        if curves is not None:
            curves.close()
        return encoder, history

    def _fit(
        self,
        stage: str,
        encoder: Encoder,
        stages: Sequence[Sequence[torch.nn.Module]],
        data: Data,
        influence: Influence | None,
        epochs: int,
        watch: Validation,
        curves: Any,
        more: More | None,
    ) -> Progress:
        recipe = self._recipe
        loss = MetricLoss(recipe.loss, len(data.products), encoder.dimension, recipe.optimiser.label_smoothing)
        teacher = Teacher(Path(recipe.distil.teacher)) if recipe.distil.teacher else None
        objective = Objective(encoder, loss, recipe.adversarial, teacher, recipe.distil.weight, influence)
        folder = self._run.checkpoint / stage
        fit = Fit(self._fabric, recipe, stage, folder, self._log, watch, curves, more)
        return fit(objective, stages, data.train, epochs)

    def _influence(self, data: Data, dimension: int) -> Influence | None:
        if self._older is None:
            return None
        name = f"version {self._older.version}"
        check_dimensions(self._older.encoder.dimension, dimension, name)
        self._log.emit("stage", stage="data", message=f"{name} on the training photographs, to be compatible with it")
        return Influence(self._reader.prototypes(data, self._older), self._recipe.compatible)

    def _pseudo_labels(self, unlabelled: Sequence[Photograph], data: Data) -> More | None:
        if not self._recipe.pseudo_labels.every:
            return None
        side = self._recipe.model.side
        labelled = TrainingSet(decode_photographs(data.photographs, side), data.train.labels)
        pixels = self._reader.canvases(unlabelled)
        return PseudoLabels(self._recipe.pseudo_labels, labelled, pixels, decode_photographs(unlabelled, side))

    # --- what came of it ----------------------------------------------------------------------------------------------

    def _published(self) -> Manifest | None:
        """The version that this run has published already, if it was killed before it was noted."""
        begun = datetime.fromisoformat(self._run.state().created).replace(microsecond=0)
        for version in versions_in(self._models):
            folder = self._models / str(version)
            with suppress(FailedPrecondition):  # a version without a readable manifest is another's
                manifest = Manifest.read(folder)
                # a run that is trained once more has the name of the first
                if manifest.training_run == self._run.id and datetime.fromisoformat(manifest.created) >= begun:
                    return verify(folder)
        return None

    def _before(
        self, asked: Sequence[Protocol], published: Manifest | None
    ) -> tuple[Measured, int, OnnxEncoder] | None:
        """The newest version before this run's own: measured, its number, and its encoder."""
        versions = [v for v in versions_in(self._models) if published is None or v < published.version]
        if not versions:
            return None
        verify(self._models / str(versions[-1]))
        self._log.emit("stage", stage="evaluate", message=f"version {versions[-1]}, to compare with")
        encoder = open_encoder(self._models / str(versions[-1]) / MODEL_FILE)
        return measured(asked, encoder.side, encoder), versions[-1], encoder

    def _measured_older(
        self, asked: Sequence[Protocol], before: tuple[Measured, int, OnnxEncoder] | None
    ) -> Measured | None:
        older = self._older
        if older is None:
            return None
        if before and before[1] == older.version:
            return before[0]
        self._log.emit("stage", stage="evaluate", message=f"version {older.version}, to be compatible with")
        return measured(asked, older.encoder.side, older.encoder)

    def _export(self, encoder: Encoder, data: Data, asked: Sequence[Protocol], older: Measured | None) -> Exported:
        recipe, side = self._recipe, self._recipe.model.side
        self._log.emit("stage", stage="export", message="ONNX, FP32 and INT8")
        fp32 = to_onnx(encoder, side)
        int8 = quantize(fp32, self._reader.spread(data, recipe.export.calibration))
        self._log.emit("stage", stage="evaluate", message="torch, FP32 and INT8 on the same photographs")

        def by_torch(pixels: Pixels) -> Vectors:
            vectors: Vectors = embed(encoder, pixels).numpy()
            return vectors

        return compared(asked, by_torch, fp32, int8, older)

    def _publish(self, exported: Exported, encoder: Encoder, asked: Sequence[Protocol], parent: int | None) -> Manifest:
        recipe, main = self._recipe, asked[0]
        origin = Origin(
            preprocessing=PREPROCESSING,
            backbone=recipe.model.backbone,
            training_run=self._run.id,
            evaluated_on=f"{len(main.queries)} photographs in {len(main.gallery)}, {recipe.data.source.value}",
            recipe=recipe.name,
            recipe_fingerprint=recipe.fingerprint,
            parent=parent or 0,
            teacher=Path(recipe.distil.teacher).name,
            compatible_with=self._older.version if self._older else 0,
            compatible_sha256=self._older.sha256 if self._older else "",
        )
        comparison = exported.comparison
        served = comparison.served if recipe.export.served == "best" else recipe.export.served
        weights = {name: tensor.contiguous().clone() for name, tensor in encoder.state_dict().items()}
        return publish(
            self._models,
            max(versions_in(self._models), default=0) + 1,
            (comparison.fp32, comparison.int8),
            served,
            origin,
            write_extras=lambda folder: save_file(weights, folder / WEIGHTS_FILE),
        )

    def _report(
        self,
        data: Data,
        history: Sequence[contents.Epoch],
        before: tuple[Measured, int, OnnxEncoder] | None,
        exported: Exported,
        manifest: Manifest,
        started: float,
    ) -> None:
        recipe = self._recipe
        self._log.emit("stage", stage="report", message=str(self._run.report))
        served = open_encoder(self._models / str(manifest.version) / MODEL_FILE)
        queries = recipe.report.robustness_queries
        after_robust = robust(exported.served, served, queries)
        before_robust = robust(before[0], before[2], queries) if before else None
        main, earlier = exported.served.results[0], before[0].results[0] if before else None
        report = contents.Report(
            recipe.name,
            manifest.version,
            f"version {before[1]}" if before else "the version before",
            "int8" if manifest.served == "int8" else "fp32",
            manifest.created,
            self._facts(started, history),
            recipe,
            recipe.model_dump_json(indent=1),
            reporting.split_counts(data.found),
            reporting.broken(data.found),
            history,
            reporting.protocols(before[0] if before else None, exported),
            reporting.groups(earlier.per_category if earlier else None, main.per_category),
            reporting.groups(earlier.per_product if earlier else None, main.per_product),
            reporting.worst(main),
            reporting.confusions(main),
            reporting.robustness(before_robust, after_robust) if after_robust else None,
            reporting.sizes(sized(exported.served)),
            reporting.precisions(exported, None),
            "Batches of eight on all cores, by turns.",
            reporting.augmented(data.photographs, data.train.pixels, recipe),
            self._warnings,
            reporting.compatibility(exported, f"version {recipe.compatible.version}"),
        )
        write_report(self._run.report, report)

    def _facts(self, started: float, history: Sequence[contents.Epoch]) -> dict[str, str]:
        trained = sum(epoch.seconds or 0.0 for epoch in history)
        device = str(self._fabric.device)
        return {
            "Run": self._run.id,
            "Device": f"{device}, {torch.get_num_threads()} threads, {self._fabric.world_size} processes",
            "Epochs": f"{len(history)}, {trained / 60:.0f} min",
            "All of it": f"{(time.time() - started) / 60:.0f} min since it was last started",
            "torch": torch.__version__,
        }

    def _warn(self, message: str) -> None:
        self._warnings.append(message)
        self._log.emit("warning", message=message)


def _features(encoder: Encoder, pixels: Pixels) -> torch.Tensor:
    """float32 [n, C] of uint8 [n, S, S, 3]."""
    device = next(encoder.parameters()).device
    encoder.eval()
    with torch.inference_mode():
        parts = [
            encoder.pooled(to_tensor(pixels[start : start + 32]).to(device)) for start in range(0, len(pixels), 32)
        ]
    # a copy, because what inference mode makes can't be trained
    return torch.cat(parts).clone()


def _interpolate(encoder: Encoder, begun: dict[str, torch.Tensor], share: float) -> None:
    """Between the weights it began with and the trained ones, which often finds better on what it was not trained for
    (WiSE-FT; Wortsman et al. 2022)."""
    state = encoder.state_dict()
    mixed = {
        name: begun[name].lerp(tensor, share) if tensor.is_floating_point() and name in begun else tensor
        for name, tensor in state.items()
    }
    encoder.load_state_dict(mixed)
