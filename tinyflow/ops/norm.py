"""Normalisation, of batches and of neighbouring channels, and dropout."""

from __future__ import annotations

from typing import Any

import numpy as np

from tinyflow.backend import Array
from tinyflow.kernels.engine import engine
from tinyflow.ops.arguments import (
    fits_parameters,
    flag,
    floats,
    generator_of,
    number,
    optional,
    shown,
    whole,
)
from tinyflow.ops.stack import Stacked
from tinyflow.tape import record
from tinyflow.tensor import Pullback, Tensor
from tinyflow.waiting import record_open


def batch_norm(
    input: Tensor,
    running_mean: Array | None = None,
    running_var: Array | None = None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """y = γ x̂ + β with x̂ = (x - μ) / √(σ² + ε), per channel (Ioffe & Szegedy 2015).

    In training μ and σ² are the batch's (σ² with 1/M, M values per channel), and with
    the sums taken over those values

        ∂L/∂x = γ/√(σ² + ε) · (g - Σg/M - x̂ Σ(g x̂)/M),  ∂L/∂γ = Σ g x̂,  ∂L/∂β = Σ g.

    In evaluation they are the running ones, constants: ∂L/∂x = γ g / √(σ² + ε).

    Args:
        input: (N, C, H, W) or (N, C).
        running_mean, running_var: (C,) arrays. In training they are updated *in place*,
            outside the tape: r ← (1 - momentum) r + momentum · batch statistic, the
            variance with 1/(M - 1).
        weight, bias: γ and β, (C,), or None.
        training: which statistics to use.
        momentum: share of the new batch, in [0, 1].
        eps: ε, in the units of x².

    Raises:
        ValueError: one value per channel in training, missing running statistics in
            evaluation, or a channel count that disagrees.
        TypeError: weight or bias of another dtype than the input.
    """
    x = floats("batch_norm", input)
    training = flag("batch_norm", training, "training")
    momentum = number("batch_norm", momentum, "momentum", 0, 1)
    eps = number("batch_norm", eps, "eps", 0)
    if x.ndim not in (2, 4):
        raise ValueError(
            f"batch_norm: input must be (N, C) or (N, C, H, W), not {x.shape}"
        )
    channels = x.shape[1]
    gamma = optional("batch_norm", weight, "weight")
    beta = optional("batch_norm", bias, "bias")
    for name, v in (("weight", gamma), ("bias", beta)):
        if v is not None and v.shape != (channels,):
            raise ValueError(
                f"batch_norm: {name} has shape {v.shape}, input has {channels} channels"
            )
    if not training and (running_mean is None or running_var is None):
        raise ValueError(
            "batch_norm: running_mean and running_var, the running statistics, are "
            "needed in evaluation"
        )
    _check_running(x, running_mean, "running_mean", training)
    _check_running(x, running_var, "running_var", training)
    if training and running_mean is running_var is not None:
        raise ValueError("batch_norm: running_mean and running_var are the same array")
    fits_parameters("batch_norm", ("input", "weight", "bias"), x, gamma, beta)
    shape = (*x.shape, 1, 1)[:4]  # (N, C) is an image of one pixel
    image = x if x.ndim == 4 else x.reshape(shape)
    m = image.size // max(channels, 1)
    if training and m < 2:
        raise ValueError(
            f"batch_norm cannot train on one value per channel (input {x.shape}): "
            "use a larger batch or larger images"
        )
    finish = engine(x).batch_norm(
        image,
        gamma,
        beta,
        (running_mean, running_var),
        input.moments if isinstance(input, Stacked) else None,
        training=training,
        momentum=momentum,
        eps=eps,
    )

    def last(residual: Array | None, relu: bool) -> tuple[Array, Pullback]:
        r = None if residual is None else residual.reshape(shape)
        y, back = finish(r, relu)

        def pullback(g: Array, need: tuple[bool, ...]) -> list[Array | None]:
            dx, dgamma, dbeta, sent = back(g.reshape(shape), need[0])
            answer = [None if dx is None else dx.reshape(x.shape)]
            if gamma is not None:
                answer.append(dgamma)
            if beta is not None:
                answer.append(dbeta)
            if r is not None:
                answer.append(sent.reshape(x.shape))
            return answer

        return y.reshape(x.shape), pullback

    inputs = [input, *(p for p in (weight, bias) if p is not None)]
    return record_open("batch_norm", x, inputs, last)


def _check_running(x: Array, r: Any, name: str, training: bool) -> None:
    """Refuse running statistics that could not be read or, in training, updated."""
    if r is None:
        return
    if type(r) is not type(x):
        raise TypeError(
            f"batch_norm: {name} must be an array on the input's device, training "
            f"updates it in place; not {shown(r)}"
        )
    if r.dtype.kind != "f" or r.shape != (x.shape[1],):
        raise ValueError(
            f"batch_norm: {name} must be {x.shape[1]} floating-point numbers, one per "
            f"channel, not {shown(r)}"
        )
    if training and isinstance(r, np.ndarray) and not r.flags.writeable:
        raise ValueError(
            f"batch_norm: {name} is read-only, but training updates it in place: give "
            "a copy"
        )


def local_response_norm(
    input: Tensor,
    size: int,
    alpha: float = 1e-4,
    beta: float = 0.75,
    k: float = 1.0,
) -> Tensor:
    """y = x / sᵝ with s = k + (α/n) Σ x² over the n channels around each.

    (Krizhevsky et al. 2012, section 3.3, whose α is not divided by n.) The n channels
    around c are c - ⌊n/2⌋ … c + ⌊(n-1)/2⌋, without those that are not there.

        ∂L/∂x = g / sᵝ - (2αβ/n) x Σ g y / s,  over the channels that have x around them

    Args:
        input: (N, C, …), with at least one axis after the channels.
        size: n.
        alpha, beta, k: α, β and k, none of them negative.
    """
    op = "local_response_norm"
    x, n = floats(op, input), whole(op, size, "size", 1)
    alpha = number(op, alpha, "alpha", 0) / n
    beta, k = number(op, beta, "beta", 0), number(op, k, "k", 0)
    if x.ndim < 3:
        raise ValueError(f"{op}: input must be (N, C, …) of 3 axes or more")
    s = k + alpha * _around(x * x, n // 2, (n - 1) // 2)
    root = s**beta
    y = x / root

    def pullback(g: Array, need: tuple[bool, ...]) -> tuple[Array]:
        sent = _around(g * (y / s), (n - 1) // 2, n // 2)
        return (g / root - (2 * alpha * beta) * x * sent,)

    return record(op, y, (input,), pullback)


def _around(x: Array, before: int, after: int) -> Array:
    """Σ x over the channels from `before` each to `after` it."""
    found: Array = x.copy("K")
    for d in range(1, min(before, x.shape[1] - 1) + 1):
        found[:, d:] += x[:, :-d]
    for d in range(1, min(after, x.shape[1] - 1) + 1):
        found[:, :-d] += x[:, d:]
    return found


def dropout(
    input: Tensor,
    p: float = 0.5,
    training: bool = True,
    generator: Any = None,
) -> Tensor:
    """y = x / (1 - p) with probability 1 - p, else 0;  ∂L/∂x = g / (1 - p), or 0.

    Args:
        input: any tensor.
        p: probability of dropping an entry, in [0, 1].
        training: if false, y = x and nothing is recorded.
        generator: a ``numpy.random.Generator``. There is no hidden global state:
            training with p > 0 demands one. A GPU takes from it only a seed, for a
            generator of its own that counts (Salmon et al. 2011, Philox): a run can be
            repeated there, but its masks are not those of the CPU.
    """
    x, p = floats("dropout", input), number("dropout", p, "p", 0, 1)
    training = flag("dropout", training, "training") and p > 0
    if training or generator is not None:
        generator_of("dropout", generator, "generator")
    if not training:
        return input
    y, back = engine(x).dropout(x, p, generator)
    return record("dropout", y, (input,), lambda g, need: (back(g),))
