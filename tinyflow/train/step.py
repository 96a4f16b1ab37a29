"""One training step, and the evaluation of a network."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from tinyflow import Tape, Tensor, nn
from tinyflow.backend import Array, asarray, device_of, numbers
from tinyflow.data import Dataset
from tinyflow.kernels.engine import engine
from tinyflow.ops import cross_entropy
from tinyflow.optim import Optimizer, clip_grad_norm, grad_norm
from tinyflow.tape import EDGES


class Batches(Protocol):
    """Serves the batches of an epoch: ``tinyflow.data.Loader``, or one on a GPU."""

    @property
    def dataset(self) -> Dataset:
        """The images and labels."""

    def __len__(self) -> int:
        """Number of batches in an epoch."""

    def epoch(self, k: int) -> Iterator[tuple[Array, Array]]:
        """Images (N, C, H, W) and labels (N,), batch by batch."""


@dataclass(frozen=True)
class StepResult:
    """Loss (mean over the batch), right answers, and gradient norm of one step."""

    loss: float
    correct: int
    grad_norm: float


def train_step(
    model: nn.Module,
    images: Array,
    labels: Array,
    optimizer: Optimizer,
    *,
    label_smoothing: float = 0.0,
    clip_grad: float | None = None,
    inspect: Callable[[float, Tape], None] | None = None,
) -> StepResult:
    """Forward, backward, update.

    Args:
        model: in training mode.
        images: (N, C, H, W), on the model's device.
        labels: N class indices.
        optimizer: of the model's parameters.
        label_smoothing: ε of the loss.
        clip_grad: largest global gradient norm, or None.
        inspect: called with the loss and the tape of this step, every edge retained,
            before the update. It changes what is kept, never a value.

    Raises:
        FloatingPointError: loss or gradient is not finite; nothing was updated.
    """
    optimizer.zero_grad()
    parameters = optimizer.parameters.values()
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        with Tape(fuse=True) if inspect is None else Tape(EDGES) as tape:
            logits = model(Tensor(images))
            loss = cross_entropy(logits, labels, label_smoothing=label_smoothing)
        mean_loss, correct = numbers(loss.data, _correct(logits, labels))
        if not np.isfinite(mean_loss):
            raise FloatingPointError(f"the loss became {mean_loss}")
        tape.backward(loss, release=inspect is None)
        if inspect is not None:
            inspect(mean_loss, tape)
        if clip_grad is None:
            norm = grad_norm(parameters)
        else:
            norm = clip_grad_norm(parameters, clip_grad)
        if not np.isfinite(norm):
            raise FloatingPointError(f"the gradient's norm became {norm}")
        optimizer.step()
    return StepResult(mean_loss, int(correct), norm)


def evaluate(model: nn.Module, loader: Batches) -> tuple[float, float]:
    """Mean cross-entropy in nats and accuracy (0 to 1) over all images of `loader`.

    The model runs in evaluation mode and is then put back as it was.
    """
    training, total, correct = model.training, 0.0, 0.0
    device = device_of(model.parameters()[0].data)
    model.eval()
    try:
        with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
            for images, labels in loader.epoch(0):
                logits = model(Tensor(asarray(images, device)))
                loss = cross_entropy(logits, labels, reduction="sum")
                batch = numbers(loss.data, _correct(logits, labels))
                total, correct = total + batch[0], correct + batch[1]
    finally:
        model.train(training)
    return total / len(loader.dataset), correct / len(loader.dataset)


def _correct(logits: Tensor, labels: Array) -> Array:
    """The number of right answers, where the logits are."""
    return engine(logits.data).hits(logits.data, labels)
