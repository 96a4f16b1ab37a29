"""Batch normalisation and dropout, which differ between training and testing."""

from __future__ import annotations

import math
from typing import Any

from tinyflow.backend import Array, array_module
from tinyflow.kernels.layout import from_rows, to_rows
from tinyflow.ops.elementwise import same_dtype
from tinyflow.tape import record
from tinyflow.tensor import Tensor, value


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
    """Y = γ x̂ + β with x̂ = (x - μ) / √(σ² + ε), per channel (Ioffe & Szegedy 2015).

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
        momentum: share of the new batch.
        eps: ε, in the units of x².

    Raises:
        ValueError: one value per channel in training, missing running statistics in
            evaluation, or a channel count that disagrees.
        TypeError: weight or bias of another dtype than the input.
    """
    x = input.data
    if x.ndim not in (2, 4):
        raise ValueError(f"batch_norm needs (N, C) or (N, C, H, W), got {x.shape}")
    channels = x.shape[1]
    for name, v in (
        ("running_mean", running_mean),
        ("running_var", running_var),
        ("weight", value(weight)),
        ("bias", value(bias)),
    ):
        if v is not None and v.shape != (channels,):
            raise ValueError(
                f"batch_norm: {name} has shape {v.shape}, input has {channels} channels"
            )
    same_dtype("batch_norm", x, value(weight), value(bias))
    shape = (*x.shape, 1, 1)[:4]  # (N, C) is an image of one pixel
    rows = to_rows(x.reshape(shape))
    m = rows.shape[0]
    xp = array_module(x)
    if training:
        if m < 2:
            raise ValueError(
                f"batch_norm cannot train on one value per channel (input {x.shape}): "
                "use a larger batch or larger images"
            )
        mean = column_sum(rows, shape) / m
        centred = rows - mean
        var = column_sum(xp.square(centred, out=centred), shape) / m
        if running_mean is not None:
            running_mean *= 1 - momentum
            running_mean += momentum * mean
        if running_var is not None:
            running_var *= 1 - momentum
            running_var += (momentum * m / (m - 1)) * var
    else:
        if running_mean is None or running_var is None:
            raise ValueError("batch_norm needs running statistics in evaluation mode")
        mean, var = running_mean.astype(x.dtype), running_var.astype(x.dtype)
    inv_std = 1 / xp.sqrt(var + eps)
    gamma, beta = value(weight), value(bias)
    gain = inv_std if gamma is None else gamma * inv_std
    y = rows * gain
    y += (0 if beta is None else beta) - mean * gain

    def pullback(g: Array, need: tuple[bool, ...]) -> list[Array | None]:
        grows = to_rows(g.reshape(shape))
        batch = training and need[0]
        dbeta = column_sum(grows, shape) if batch or need[-1] else None
        dgamma = None
        if batch or (gamma is not None and need[1]):
            scratch = rows - mean
            scratch *= grows
            dgamma = column_sum(scratch, shape) * inv_std
        dx: Array | None = None
        if need[0]:
            dx = grows * gain
            if batch:
                slope = gain * inv_std * dgamma / m  # of (x - μ)
                scratch = rows * slope
                dx -= scratch
                dx += mean * slope - gain * dbeta / m
            dx = from_rows(dx, shape).reshape(x.shape)
        answer = [dx]
        if gamma is not None:
            answer.append(dgamma)
        if beta is not None:
            answer.append(dbeta)
        return answer

    inputs: list[Any] = [input]
    inputs += [p for p in (weight, bias) if p is not None]
    out = from_rows(y, shape).reshape(x.shape)
    return record("batch_norm", out, inputs, pullback)


def column_sum(rows: Array, shape: tuple[int, ...]) -> Array:
    """Σ over the rows of a (H·W·N, C) matrix, in two levels: per pixel, then samples.

    Two levels keep the float32 rounding of 10⁵ terms at that of a few hundred, and the
    first runs along contiguous memory.
    """
    n, c = shape[:2]
    if n > 1:
        rows = rows.reshape(-1, n * c).sum(axis=0).reshape(n, c)
    total: Array = rows.sum(axis=0)
    return total


def dropout(
    input: Tensor,
    p: float = 0.5,
    training: bool = True,
    generator: Any = None,
) -> Tensor:
    """Y = x ⊙ m / (1 - p), m = 1 with probability 1 - p;  ∂L/∂x = g ⊙ m / (1 - p).

    Args:
        input: any tensor.
        p: probability of dropping an entry, in [0, 1].
        training: if false, y = x and nothing is recorded.
        generator: a ``numpy.random.Generator``. There is no hidden global state:
            training with p > 0 demands one. On a GPU its numbers are drawn by the host
            and copied, so that a seed means the same mask everywhere.
    """
    if not (math.isfinite(p) and 0 <= p <= 1):
        raise ValueError(f"dropout probability must lie in [0, 1], not {p}")
    if not training or p == 0:
        return input
    if generator is None:
        raise ValueError("dropout in training needs generator=, e.g. default_rng(0)")
    x = input.data
    drawn = generator.random(x.shape, dtype="float32")
    keep = array_module(x).asarray(drawn) >= p
    factor = keep * x.dtype.type(0 if p == 1 else 1 / (1 - p))
    return record("dropout", x * factor, (input,), lambda g, need: (g * factor,))
