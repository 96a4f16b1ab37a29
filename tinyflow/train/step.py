"""One training step, and the evaluation of a network."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias, TypeVar

import numpy as np

from tinyflow import Tape, Tensor, nn
from tinyflow.backend import Array, asarray, device_of, numbers
from tinyflow.data import ImageSet
from tinyflow.heads import logits_of
from tinyflow.kernels.engine import engine
from tinyflow.ops import cross_entropy
from tinyflow.optim import Optimizer, clip_grad_norm, grad_norm
from tinyflow.retain import EDGES
from tinyflow.signals import deferred
from tinyflow.state import in_mode
from tinyflow.train.criterion import Labels, criterion, one_label
from tinyflow.train.overflow import Before, first_bad_value

T = TypeVar("T")


class Batches(Protocol):
    """Serves the batches of an epoch: ``tinyflow.data.Loader``, or one on a GPU."""

    @property
    def dataset(self) -> ImageSet:
        """The images and labels."""

    @property
    def dtype(self) -> Any:
        """Of the images."""

    def __len__(self) -> int:
        """Number of batches in an epoch."""

    def epoch(self, k: int, *, start: int = 0) -> Iterator[tuple[Array, Labels]]:
        """Images (N, C, H, W) and labels (N,), from batch `start` on."""


@contextmanager
def served(batches: Iterator[T]) -> Iterator[Iterator[T]]:
    """The batches of an epoch, closed when the block is left, however that is."""
    try:
        yield batches
    finally:
        if (close := getattr(batches, "close", None)) is not None:
            close()


@dataclass(frozen=True)
class StepResult:
    """Loss (mean over the batch), right answers, and gradient norm of one step."""

    loss: float
    correct: int
    grad_norm: float


Answer: TypeAlias = Callable[[], StepResult]
"""Waits for a step and says how it went, or raises what it raised."""

Look: TypeAlias = Callable[[float, Tape], None]
"""Given the loss and the tape of a step, before the update."""


class Stepper(Protocol):
    """How a run does its steps: each at once, or launched and waited for later."""

    def running(self) -> AbstractContextManager[None]:
        """Where steps, and what must be in order with them, are done."""

    def launch(
        self, images: Array, labels: Labels, inspected: bool = False
    ) -> Answer | None:
        """Start a step; None if it cannot be launched: then :meth:`eager` does it."""

    def eager(
        self,
        images: Array,
        labels: Labels,
        inspect: Look | None = None,
        update: bool = True,
    ) -> StepResult:
        """Do a step, all of it or nothing; see :func:`train_step`."""


@dataclass(frozen=True, eq=False)
class EagerStep:
    """Steps that are done at once, by :func:`train_step`, which says what these are."""

    model: nn.Module
    optimizer: Optimizer
    device: str
    label_smoothing: float
    clip_grad: float | None

    def running(self) -> AbstractContextManager[None]:
        """Anywhere."""
        return nullcontext()

    def launch(
        self, images: Array, labels: Labels, inspected: bool = False
    ) -> Answer | None:
        """Nothing is launched."""
        return None

    def eager(
        self,
        images: Array,
        labels: Labels,
        inspect: Look | None = None,
        update: bool = True,
    ) -> StepResult:
        """A step on a batch, wherever that lies."""
        return train_step(
            self.model,
            asarray(images, self.device),
            labels,
            self.optimizer,
            label_smoothing=self.label_smoothing,
            clip_grad=self.clip_grad,
            inspect=inspect,
            update=update,
        )


def train_step(
    model: nn.Module,
    images: Array,
    labels: Labels,
    optimizer: Optimizer,
    *,
    label_smoothing: float = 0.0,
    clip_grad: float | None = None,
    inspect: Look | None = None,
    update: bool = True,
) -> StepResult:
    """Forward, backward, update: all of it, or nothing.

    After any exception, Ctrl-C included, parameters, optimiser state, running
    statistics and the random state of layers (on the host) are as before the step, and
    gradients are None.

    Args:
        model: in training mode.
        images: (N, C, H, W), on the model's device.
        labels: N class indices, or what `mixup` made of them.
        optimizer: of the model's parameters.
        label_smoothing: ε of the loss.
        clip_grad: largest global gradient norm, or None.
        inspect: called with the loss and the tape of this step, every edge retained,
            before the update. It changes what is kept, never a value.
        update: False to leave the update out, and all as before the step.

    Raises:
        FloatingPointError: loss, gradient or running statistics are not finite; the
            message says where that began.
        ValueError: a parameter of the model was replaced after the optimiser was made.
    """
    optimizer.zero_grad()
    before, done = Before(model), False
    try:
        with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
            result = _forward_backward(
                model,
                (images, labels),
                optimizer,
                before,
                label_smoothing,
                clip_grad,
                inspect,
            )
            if update:
                with deferred():
                    optimizer.step()
                    done = True
    finally:
        if not done:
            before.restore()
            optimizer.zero_grad()
    return result


def _forward_backward(
    model: nn.Module,
    batch: tuple[Array, Labels],
    optimizer: Optimizer,
    before: Before,
    label_smoothing: float,
    clip_grad: float | None,
    inspect: Callable[[float, Tape], None] | None,
) -> StepResult:
    """All of a step but the update."""
    images, labels = batch
    parameters = optimizer.parameters.values()
    with Tape(fuse=True) if inspect is None else Tape(EDGES) as tape:
        output = model(Tensor(images))
        loss = criterion(output, labels, label_smoothing=label_smoothing)
    hits = _correct(logits_of(output), labels)
    loss_now, correct = numbers(before.marked(loss.data), hits)
    what = ""
    if not np.isfinite(loss_now):
        (loss_now,) = numbers(loss.data)
        if not np.isfinite(loss_now):
            what = f"the loss became {loss_now}"
        elif overflowed := before.overflowed():
            raise FloatingPointError(overflowed)
    if not what:
        tape.backward(loss, release=inspect is None)
        if inspect is not None:
            inspect(loss_now, tape)
        if any(p.grad is None for p in parameters):
            _refuse_strangers(model, optimizer)
        norm = grad_norm(parameters)
        if np.isfinite(norm):
            if clip_grad is not None:
                clip_grad_norm(parameters, clip_grad, norm)
            return StepResult(loss_now, int(correct), norm)
        what = f"the gradient's norm became {norm}"
    del tape, output, loss
    before.restore()
    smoothing = {"label_smoothing": label_smoothing}
    raise FloatingPointError(what + first_bad_value(model, images, labels, **smoothing))


def _refuse_strangers(model: nn.Module, optimizer: Optimizer) -> None:
    """ValueError if a layer was replaced after the optimiser took its parameters."""
    held = {p.node for p in optimizer.parameters.values()}
    own = dict(model.named_parameters())
    nodes = {p.node for p in own.values()}
    new = [n for n, p in own.items() if p.grad is not None and p.node not in held]
    old = [n for n, p in optimizer.parameters.items() if p.node not in nodes]
    if new and old:
        raise ValueError(
            f"the optimiser holds {old[0]!r}, which is not in the model, and not "
            f"{new[0]!r}, which is: a layer was replaced after the optimiser was made; "
            "make it anew"
        )


def evaluate(model: nn.Module, loader: Batches) -> tuple[float, float]:
    """Mean cross-entropy in nats and accuracy (0 to 1) over all images of `loader`.

    The model runs in evaluation mode; then each of its modules is put back into its
    own. A GPU is waited for once, after the last batch.
    """
    losses, hits = [], []
    with served(answers(model, loader)) as batches:
        for logits, labels, loss in batches:
            losses.append(loss)
            hits.append(_correct(logits, labels))
    found = numbers(*losses, *hits)
    n = len(losses)
    return sum(found[:n]) / len(loader.dataset), sum(found[n:]) / len(loader.dataset)


def answers(model: nn.Module, loader: Batches) -> Iterator[tuple[Tensor, Array, Array]]:
    """What a model in evaluation mode makes of each batch of epoch 0.

    Logits (N, K), labels (N,), and the sum of the cross-entropy, in nats, where the
    logits are. In the end each of its modules is put back into its own mode.
    """
    device = next((device_of(p.data) for p in model.parameters()), "cpu")
    quiet = np.errstate(over="ignore", invalid="ignore", divide="ignore")
    with in_mode(model, False), quiet, served(loader.epoch(0)) as batches:
        for images, given in batches:
            labels = one_label(given)
            logits = model(Tensor(asarray(images, device)))
            loss = cross_entropy(logits, labels, reduction="sum")
            yield logits, labels, loss.data


def _correct(logits: Tensor, labels: Labels) -> Array:
    """The number of right answers, where the logits are."""
    return engine(logits.data).hits(logits.data, one_label(labels))
