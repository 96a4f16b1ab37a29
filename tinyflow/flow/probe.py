"""One backward pass with everything kept: what every analysis starts from."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np

from tinyflow import nn, ops
from tinyflow.backend import Array, array_module
from tinyflow.heads import logits_of, loss_of
from tinyflow.lengths import exponent, trusted
from tinyflow.retain import EDGES
from tinyflow.state import in_mode
from tinyflow.tape import Tape
from tinyflow.tensor import Tensor

TOLERANCE = {"float64": 1e-12, "float32": 1e-5}
"""Largest relative closure error an analysis accepts, by precision."""


class FlowError(ValueError):
    """Something cannot be analysed; the message says what and why."""


@dataclass(frozen=True, repr=False)
class Probe:
    """A tape that recorded one batch, and the loss it started from.

    Attributes:
        tape: retained every edge.
        loss: mean cross-entropy of the batch, of all classifiers in training mode.
        images: the input, on whose batch everything is conditional.
        training: whether normalisation used the batch's own statistics, which couples
            its samples, or the running ones.
        logits: (N, K), of the classifier that counts.
    """

    tape: Tape
    loss: Tensor
    images: Tensor
    training: bool
    logits: Tensor

    def __repr__(self) -> str:
        return (
            f"Probe(loss={self.loss.item():.4f}, images of shape {self.images.shape}, "
            f"training={self.training}, {self.tape})"
        )


def probe(
    model: nn.Module,
    images: Array,
    labels: Array,
    *,
    training: bool = True,
    retain: str = EDGES,
    watch: Callable[[Tape], None] = lambda tape: None,
) -> Probe:
    """Run `model` forward and backward on one batch, keeping every edge.

    The model's mode, running statistics and random state are put back afterwards, so
    that looking changes nothing.

    Args:
        model: maps images (N, C, H, W) to logits (N, K).
        images, labels: the batch; images in the model's dtype.
        training: batch statistics and dropout (as in a training step), or not.
        retain: retention level of the tape.
        watch: given the tape before the first operator, to see how far it is.
    """
    x, tape = Tensor(images, name="images"), Tape(retain)
    watch(tape)
    with untouched(model, training):
        loss, logits = recorded(model, x, labels, tape)
        tape.backward(loss)
    return Probe(tape, loss, x, training, logits)


def recorded(
    model: nn.Module, x: Tensor, labels: Array, tape: Tape
) -> tuple[Tensor, Tensor]:
    """Mean cross-entropy of all classifiers and logits of the one that counts.

    The tape records them, and is asked for the gradient of the images x.
    """
    with tape:
        output = model(tape.watch(x))
        loss = loss_of(output, lambda y: ops.cross_entropy(y, labels))
    return loss, logits_of(output)


@contextmanager
def untouched(model: nn.Module, training: bool) -> Iterator[None]:
    """The model in that mode; its mode, buffers and random state are put back after."""
    buffers = {name: b.copy() for name, b in model.named_buffers()}
    held = model.named(lambda held: isinstance(held, np.random.Generator))
    generators = [(g, g.bit_generator.state) for _, g in held]
    try:
        with in_mode(model, training):
            yield
    finally:
        for name, b in model.named_buffers():
            b[...] = buffers[name]
        for generator, state in generators:
            generator.bit_generator.state = state


def norm(a: Array | None) -> float:
    """‖a‖₂ accumulated in float64; 0 for None."""
    square, k = _dot(a, a)  # k is even
    return _ldexp(math.sqrt(square), k // 2)


def dot(a: Array | None, b: Array | None) -> float:
    """⟨a, b⟩ accumulated in float64; 0 if either is None, or it is below its range."""
    return _ldexp(*_dot(a, b))


def cosine(a: Array | None, b: Array | None) -> float | None:
    """Cosine of the angle between two gradients; None if one of them is zero."""
    return _over(a, b, norm(a), norm(b))


def share(part: Array | None, whole: Array | None, size: float | None = None) -> float:
    """⟨part, whole⟩ / ‖whole‖²; 0 if the whole is zero. `size`: its norm, if known."""
    size = norm(whole) if size is None else size
    return _over(part, whole, size, size) or 0.0


def relative(error: Array, reference: Array) -> float:
    """‖error‖ / ‖reference‖ (‖error‖ if the reference is zero)."""
    return norm(error) / (norm(reference) or 1.0)


def _plain(a: Array, b: Array) -> float:
    xp = array_module(a)
    with np.errstate(all="ignore"):
        return float(
            xp.einsum("nchw,nchw->", a, b, dtype="float64")
            if a.ndim == 4
            else xp.multiply(a, b, dtype="float64").sum()
        )


def _dot(a: Array | None, b: Array | None) -> tuple[float, int]:
    """⟨a, b⟩ = x 2ᵏ as (x, k); k is 0 where plain products are in float64's range."""
    if a is None or b is None:
        return 0.0, 0
    found = _plain(a, b)
    if trusted(found, a.size) or a.dtype.itemsize < 8:
        return found, 0
    i, j = (exponent(float(abs(x).max())) if x.size else 0 for x in (a, b))
    return _plain(a / math.ldexp(1.0, i), b / math.ldexp(1.0, j)), i + j


def _over(a: Array | None, b: Array | None, one: float, other: float) -> float | None:
    """⟨a, b⟩ / (one · other), both in range or not; None if either number is 0."""
    if not one or not other:
        return None
    product, k = _dot(a, b)
    (x, i), (y, j), (z, m) = map(math.frexp, (one, other, product))
    return _ldexp(z / (x * y), k + m - i - j)


def _ldexp(x: float, k: int) -> float:
    """The number x 2ᵏ, infinite where it is beyond float64."""
    try:
        return math.ldexp(x, k)
    except OverflowError:
        return math.copysign(math.inf, x)
