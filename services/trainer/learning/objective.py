"""What is minimised: a metric loss, and what a recipe adds to it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
import torch
from torch import nn
from torch.nn import functional

from services.common.errors import InvalidArgument
from services.common.manifest import INPUT_NAME, OUTPUT_NAME
from services.trainer.learning.compatible import Influence
from services.trainer.learning.encoder import Encoder
from services.trainer.learning.losses import MetricLoss
from services.trainer.recipe import AdversarialRecipe


class Teacher:
    """A larger encoder to learn from: any ONNX file that keeps the encoder contract.

    Raises InvalidArgument (TEACHER_UNSUITABLE).
    """

    def __init__(self, file: Path) -> None:
        try:
            self._session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
            (image,) = self._session.get_inputs()
            if image.name != INPUT_NAME or OUTPUT_NAME not in [made.name for made in self._session.get_outputs()]:
                raise ValueError("it does not keep the encoder contract")
        except Exception as error:  # ONNX Runtime has no exceptions of its own that could be named
            raise InvalidArgument(f"{file} can't teach: {error}", reason="TEACHER_UNSUITABLE") from None
        self._side = int(image.shape[1])

    def __call__(self, pixels: torch.Tensor) -> torch.Tensor:
        """uint8 [N, 3, S, S] -> float32 [N, D of the teacher], unit length."""
        resized = functional.interpolate(
            pixels.float().cpu(), (self._side, self._side), mode="bilinear", antialias=True
        )
        image = resized.round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).contiguous().numpy()
        return torch.from_numpy(np.asarray(self._session.run([OUTPUT_NAME], {INPUT_NAME: image})[0])).to(pixels.device)


class Objective(nn.Module):
    """Encoder and loss as one module, so that all that is trained is in one place.

    Args:
        teacher: None: no distillation.
        distil_weight: of the distillation beside the metric loss.
        influence: of an older version; None: the encoder need not be compatible with any.
    """

    def __init__(
        self,
        encoder: Encoder,
        loss: MetricLoss,
        adversarial: AdversarialRecipe,
        teacher: Teacher | None = None,
        distil_weight: float = 0.0,
        influence: Influence | None = None,
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.loss = loss
        self._adversarial = adversarial
        self._teacher = teacher
        self._distil_weight = distil_weight
        self._influence = influence

    def forward(
        self,
        pixels: torch.Tensor,
        labels: torch.Tensor,
        others: torch.Tensor | None = None,
        share: float = 1.0,
    ) -> torch.Tensor:
        """The loss of a batch.

        Args:
            pixels: uint8 [n, 3, S, S]. labels: int64 [n].
            others: labels of what was cut into the pictures. share: of each picture that shows its own label.
        """
        if not self._adversarial.epsilon or not torch.is_grad_enabled():
            return self._loss(self.encoder(pixels), pixels, labels, others, share)
        visible = pixels.float().requires_grad_()
        clean = self._loss(self.encoder(visible), pixels, labels, others, share)
        # FGSM (Goodfellow, Shlens, Szegedy 2015): one step to where the loss grows
        (slope,) = torch.autograd.grad(clean, visible, retain_graph=True)
        attacked = (pixels.float() + self._adversarial.epsilon * slope.sign()).clamp(0, 255)
        hard = self._loss(self.encoder(attacked), pixels, labels, others, share)
        return (1 - self._adversarial.weight) * clean + self._adversarial.weight * hard

    def _loss(
        self,
        embeddings: torch.Tensor,
        pixels: torch.Tensor,
        labels: torch.Tensor,
        others: torch.Tensor | None,
        share: float,
    ) -> torch.Tensor:
        found = self._of_products(embeddings, labels)
        if others is not None:
            found = share * found + (1 - share) * self._of_products(embeddings, others)
        if self._teacher is not None:
            found = found + self._distil_weight * relation_loss(embeddings, self._teacher(pixels))
        return found

    def _of_products(self, embeddings: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.loss(embeddings, labels)
        if self._influence is not None:
            found = found + self._influence(embeddings, labels)
        return found


def relation_loss(embeddings: torch.Tensor, taught: torch.Tensor, temperature: float = 0.1) -> torch.Tensor:
    """How differently two encoders see who is near whom in a batch (Passalis and Tefas 2018); their D may differ.

    Args:
        embeddings: float32 [n, D], unit length. taught: float32 [n, D of the teacher], unit length.

    Returns:
        The mean divergence KL(teacher | student) of the distributions over each one's neighbours.
    """
    apart = ~torch.eye(len(embeddings), dtype=torch.bool, device=embeddings.device)
    ours = (embeddings @ embeddings.T)[apart].view(len(embeddings), -1) / temperature
    theirs = (taught @ taught.T)[apart].view(len(taught), -1) / temperature
    return functional.kl_div(ours.log_softmax(1), theirs.log_softmax(1), log_target=True, reduction="batchmean")
