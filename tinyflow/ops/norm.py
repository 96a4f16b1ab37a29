"""Normalisation: of batches, groups, layers, and by neighbouring channels."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from tinyflow.backend import Array, array_module
from tinyflow.kernels.engine import engine
from tinyflow.ops.arguments import (
    fits_parameters,
    flag,
    floats,
    listed,
    number,
    optional,
    shown,
    whole,
    wholes,
)
from tinyflow.ops.elementwise import add, mul
from tinyflow.ops.shape import reshape
from tinyflow.ops.stack import Stacked
from tinyflow.sums import total
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


def group_norm(
    input: Tensor,
    num_groups: int,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor:
    """y = γ x̂ + β with x̂ = (x - μ) / √(σ² + ε), per sample and group of channels.

    (Wu & He 2018.) μ and σ² are those of the M values of a group, σ² with 1/M. With
    h = γ g and the sums taken over those values

        ∂L/∂x = (h - Σh/M - x̂ Σ(h x̂)/M) / √(σ² + ε),  ∂L/∂γ = Σ g x̂,  ∂L/∂β = Σ g,

    the last two over everything but the channels. On the tape γ and β are a product
    and a sum of their own.

    Args:
        input: (N, C, …).
        num_groups: into how many groups the C channels are cut.
        weight, bias: γ and β, (C,), or None.
        eps: ε, in the units of x².
    """
    op = "group_norm"
    x, groups = floats(op, input), whole(op, num_groups, "num_groups", 1)
    if x.ndim < 2 or x.shape[1] % groups or 0 in x.shape[1:]:
        raise ValueError(
            f"{op}: input must be (N, C, …) whose channels make num_groups={groups} "
            f"groups of equal size, not {x.shape}"
        )
    n, c, *rest = x.shape
    _check_parameters(op, x, weight, bias, (c,))
    y = _standardised(op, input, (n, groups, c // groups, *rest), 2, eps)
    return _scaled(y, weight, bias, (c, *(1 for _ in rest)))


def layer_norm(
    input: Tensor,
    normalized_shape: int | Sequence[int],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor:
    """y = γ x̂ + β with x̂ = (x - μ) / √(σ² + ε), over the last axes (Ba et al. 2016).

    μ and σ² are those of the values along these axes, each of which has its own γ and
    β; the gradients are those of :func:`group_norm`.

    Args:
        input: (…, *normalized_shape).
        normalized_shape: sizes of the axes to normalise over, or the last one's.
        weight, bias: γ and β, of that shape, or None.
        eps: ε, in the units of x².
    """
    op = "layer_norm"
    x, shape = floats(op, input), normalized(op, normalized_shape)
    if len(shape) > x.ndim or x.shape[x.ndim - len(shape) :] != shape:
        raise ValueError(f"{op}: input {x.shape} must end in normalized_shape {shape}")
    _check_parameters(op, x, weight, bias, shape)
    y = _standardised(op, input, x.shape, x.ndim - len(shape), eps)
    return _scaled(y, weight, bias, shape)


def normalized(op: str, shape: Any) -> tuple[int, ...]:
    """The sizes of some axes, checked."""
    given = [shape] if listed(shape) is None else shape
    found = wholes(op, given, "normalized_shape", 1)
    if not found:
        raise ValueError(f"{op}: normalized_shape must name one axis or more")
    return found


def _standardised(
    op: str, input: Tensor, split: tuple[int, ...], first: int, eps: float
) -> Tensor:
    """x̂, where μ and σ² are those of x, reshaped to `split`, over axis `first` on."""
    eps = number(op, eps, "eps", 0)
    axes = tuple(range(first, len(split)))
    m = math.prod(split[first:])

    def mean(z: Array) -> Array:
        return total(z, axes, True) / m

    x = input.data.reshape(split)
    x = x - mean(x)
    inv_std = 1 / array_module(x).sqrt(mean(x * x) + eps)
    y = x * inv_std

    def pullback(g: Array, need: tuple[bool, ...]) -> tuple[Array]:
        g = g.reshape(split)
        return ((inv_std * (g - mean(g) - y * mean(g * y))).reshape(input.shape),)

    return record(op, y.reshape(input.shape), (input,), pullback)


def _check_parameters(
    op: str, x: Array, weight: Any, bias: Any, shape: tuple[int, ...]
) -> None:
    """Refuse γ and β of another shape, dtype or device than x needs."""
    gamma, beta = optional(op, weight, "weight"), optional(op, bias, "bias")
    for name, v in (("weight", gamma), ("bias", beta)):
        if v is not None and v.shape != shape:
            raise ValueError(f"{op}: {name} has shape {v.shape}, input needs {shape}")
    fits_parameters(op, ("input", "weight", "bias"), x, gamma, beta)


def _scaled(
    y: Tensor, weight: Tensor | None, bias: Tensor | None, shape: tuple[int, ...]
) -> Tensor:
    """γ y + β, which meet y in this shape."""
    if weight is not None:
        y = mul(y, weight if weight.shape == shape else reshape(weight, shape))
    if bias is not None:
        y = add(y, bias if bias.shape == shape else reshape(bias, shape))
    return y


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
