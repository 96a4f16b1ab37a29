"""Batch normalisation on rows (M, C): launches norm.cu and norm_grad.cu."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from tinyflow.backend import Array
from tinyflow.kernels.cuda.module import (
    APPLY_BLOCKS,
    counters,
    empty_like,
    floats,
    launch,
    new_floats,
    rows,
    sum_tiles,
    tiles,
)
from tinyflow.kernels.cuda.source import Variant


class Statistics(NamedTuple):
    """Per channel, float32 (C,); the variance is the biased one."""

    mean: Array
    var: Array
    inv_std: Array
    scale: Array
    """γ / √(σ² + ε)."""
    shift: Array
    """β - μ scale."""


class Gradients(NamedTuple):
    """Per channel, float32 (C,): dγ, dβ, and dx = scale g' + b x + c."""

    weight: Array
    bias: Array
    b: Array
    c: Array


def batch_norm_statistics(
    x: Array,
    eps: float,
    *,
    weight: Array | None = None,
    bias: Array | None = None,
    momentum: float = 0.0,
    running_mean: Array | None = None,
    running_var: Array | None = None,
    mean: Array | None = None,
    var: Array | None = None,
) -> Statistics:
    """Mean and variance of each column of x (M, C), and what follows from them.

    Mean and variance are written to `mean` and `var` if given. Running statistics are
    updated in place: r ← (1 - momentum) r + momentum · batch statistic, the variance
    with 1/(M - 1).
    """
    of = rows("norm", "batch_norm_statistics", x)
    known = (weight, bias, running_mean, running_var, mean, var)
    floats("batch_norm_statistics", of.c, *known)
    if of.m < 1 or (of.m < 2 and running_var is not None):
        raise ValueError(f"batch_norm_statistics: {of.m} rows are too few")
    t = sum_tiles(of.m, of.c, of.variant.vector)
    partial = new_floats(x, 3, t.chunks, of.c) if t.chunks > 1 else None
    found = (mean, var, None, None, None)
    out = Statistics(*(new_floats(x, of.c) if a is None else a for a in found))
    launch(
        *(of.variant, "bn_statistics", t.grid, t.block),
        *(x, *of.steps, of.m, of.c, t.chunk, np.float64(1 / of.m), _unbiased(of.m)),
        *(partial, counters(x), float(eps)),
        *(weight, bias, float(momentum), running_mean, running_var, *out),
    )
    return out


def batch_norm_affine(
    mean: Array,
    var: Array,
    eps: float,
    *,
    weight: Array | None = None,
    bias: Array | None = None,
    count: int = 0,
    momentum: float = 0.0,
    running_mean: Array | None = None,
    running_var: Array | None = None,
) -> Statistics:
    """The same from known mean and variance: running ones, or another layer's.

    `count` is M, needed only to update running statistics.
    """
    c = mean.shape[0]
    floats("batch_norm_affine", c, mean, var, weight, bias, running_mean, running_var)
    if running_var is not None and count < 2:
        raise ValueError("batch_norm_affine: running statistics need count > 1")
    out = Statistics(mean, var, *(new_floats(mean, c) for _ in range(3)))
    launch(
        *(Variant("norm"), "bn_affine", (-(-c // 128),), (128,)),
        *(mean, var, _unbiased(count), c, float(eps), weight, bias),
        *(float(momentum), running_mean, running_var, *out[2:]),
    )
    return out


def batch_norm_apply(
    x: Array,
    scale: Array,
    shift: Array,
    *,
    residual: Array | None = None,
    relu: bool = False,
    out: Array | None = None,
) -> Array:
    """y = scale x + shift, plus the residual, and no less than 0 with `relu`."""
    y = empty_like(x, out)
    of = rows("norm", "batch_norm_apply", x, residual, y)
    floats("batch_norm_apply", of.c, scale, shift)
    if of.m and of.c:
        t = tiles(of.m, of.c, of.variant.vector, APPLY_BLOCKS)
        ldx, ldr, ldy = of.steps
        launch(
            *(of.variant, "bn_apply", t.grid, t.block, x, ldx, scale, shift),
            *(residual, ldr, y, ldy, of.m, of.c, t.chunk, int(relu)),
        )
    return y


def batch_norm_gradients(
    g: Array,
    x: Array,
    statistics: Statistics,
    *,
    y: Array | None = None,
    relu: bool = False,
    masked: Array | None = None,
    batch: bool = True,
) -> Gradients:
    """dγ = inv_std Σ g' (x - μ), dβ = Σ g', and the coefficients of dx.

    Args:
        g: gradient of the output; g' is g, or g where the ReLU let pass.
        x: what was normalised.
        statistics: those of the forward pass.
        y: the output, if a ReLU was fused together with a residual.
        relu: a ReLU was fused and there was no residual: y is not needed.
        masked: with `y`, gets g', the gradient of the residual. Pass it as g and leave
            y out in :func:`batch_norm_input_grad`.
        batch: the statistics were the batch's, not constants.
    """
    name = "batch_norm_gradients"
    of = rows("norm_grad", name, g, x, y, masked)
    mean, _, inv_std, scale, shift = statistics
    floats(name, of.c, mean, inv_std, scale, shift)
    mask = _mask(name, y, relu, masked)
    if of.m < 1:
        raise ValueError(f"{name}: there are no rows")
    t = sum_tiles(of.m, of.c, of.variant.vector)
    partial = new_floats(x, 2, t.chunks, of.c) if t.chunks > 1 else None
    out = Gradients(*(new_floats(x, of.c) for _ in Gradients._fields))
    ldg, ldx, ldy, lds = of.steps
    launch(
        *(of.variant, "bn_gradient_sums", t.grid, t.block, g, ldg, x, ldx, y, ldy),
        *(mean, scale, shift, masked, lds, of.m, of.c, t.chunk, mask),
        *(np.float64(1 / of.m), partial, counters(x), inv_std, int(batch), *out),
    )
    return out


def batch_norm_input_grad(
    g: Array,
    x: Array,
    statistics: Statistics,
    gradients: Gradients,
    *,
    y: Array | None = None,
    relu: bool = False,
    masked: Array | None = None,
    out: Array | None = None,
    accumulate: bool = False,
) -> Array:
    """dx = scale g' + b x + c, in `out` if given, added to it with `accumulate`.

    The other arguments are those of :func:`batch_norm_gradients`.
    """
    name = "batch_norm_input_grad"
    if accumulate and out is None:
        raise ValueError(f"{name}: accumulate needs out")
    dx = empty_like(x, out)
    of = rows("norm_grad", name, g, x, y, dx, masked)
    floats(name, of.c, statistics.scale, statistics.shift, gradients.b, gradients.c)
    mask = _mask(name, y, relu, masked)
    if of.m and of.c:
        t = tiles(of.m, of.c, of.variant.vector, APPLY_BLOCKS)
        ldg, ldx, ldy, ldd, lds = of.steps
        launch(
            *(of.variant, "bn_input_gradient", t.grid, t.block, g, ldg, x, ldx, y, ldy),
            *(statistics.scale, statistics.shift, gradients.b, gradients.c),
            *(dx, ldd, masked, lds, of.m, of.c, t.chunk, mask, int(accumulate)),
        )
    return dx


def _unbiased(count: int) -> np.float64:
    """M / (M - 1), where it is used: with M > 1."""
    return np.float64(count / (count - 1) if count > 1 else 1)


def _mask(name: str, y: Array | None, relu: bool, masked: Array | None) -> int:
    """Mask in norm_grad.cu."""
    if masked is not None and y is None:
        raise ValueError(f"{name}: masked needs y")
    return 1 if y is not None else 2 if relu else 0
