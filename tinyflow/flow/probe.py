"""One backward pass with everything kept: what every analysis starts from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from tinyflow import nn, ops
from tinyflow.backend import Array, array_module
from tinyflow.tape import EDGES, Tape
from tinyflow.tensor import Tensor

TOLERANCE = {"float64": 1e-12, "float32": 1e-5}
"""Largest relative closure error an analysis accepts, by precision."""


class FlowError(ValueError):
    """Something cannot be analysed; the message says what and why."""


@dataclass(frozen=True)
class Probe:
    """A tape that recorded one batch, and the loss it started from.

    Attributes:
        tape: retained every edge.
        loss: mean cross-entropy of the batch.
        images: the input, on whose batch everything is conditional.
        training: whether normalisation used the batch's own statistics, which couples
            its samples, or the running ones.
    """

    tape: Tape
    loss: Tensor
    images: Tensor
    training: bool


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
    was_training = [m.training for _, m in model.named_modules()]
    buffers = {name: b.copy() for name, b in model.named_buffers()}
    generators = [
        (m.generator, m.generator.bit_generator.state)
        for _, m in model.named_modules()
        if isinstance(m, nn.Dropout) and isinstance(m.generator, np.random.Generator)
    ]
    model.train(training)
    x = Tensor(images, name="images")
    try:
        with Tape(retain) as tape:
            watch(tape)
            loss = ops.cross_entropy(model(tape.watch(x)), labels)
        tape.backward(loss)
    finally:
        for (_, module), mode in zip(model.named_modules(), was_training, strict=True):
            module.training = mode
        for name, b in model.named_buffers():
            b[...] = buffers[name]
        for generator, state in generators:
            generator.bit_generator.state = state
    return Probe(tape, loss, x, training)


def norm(a: Array | None) -> float:
    """‖a‖₂ accumulated in float64; 0 for None."""
    return float(np.sqrt(dot(a, a))) if a is not None else 0.0


def dot(a: Array | None, b: Array | None) -> float:
    """⟨a, b⟩ accumulated in float64; 0 if either is None."""
    if a is None or b is None:
        return 0.0
    xp = array_module(a)
    return float(
        xp.einsum("nchw,nchw->", a, b, dtype="float64")
        if a.ndim == 4
        else xp.sum(a * b, dtype="float64")
    )


def cosine(a: Array | None, b: Array | None) -> float | None:
    """Cosine of the angle between two gradients; None if one of them is zero."""
    size = norm(a) * norm(b)
    return dot(a, b) / size if size else None


def relative(error: Array, reference: Array) -> float:
    """‖error‖ / ‖reference‖ (‖error‖ if the reference is zero)."""
    return norm(error) / (norm(reference) or 1.0)
