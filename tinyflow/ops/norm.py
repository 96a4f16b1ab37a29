"""Batch normalisation and dropout, which differ between training and testing."""

from __future__ import annotations

from typing import Any

import numpy as np

from tinyflow.backend import Array, array_module
from tinyflow.kernels import norm
from tinyflow.kernels.engine import engine
from tinyflow.kernels.hooks import Moments, NormGradient
from tinyflow.kernels.mask import kept
from tinyflow.ops.arguments import (
    array_of,
    fits_parameters,
    flag,
    floats,
    generator_of,
    number,
    optional,
    same_dtype,
    shown,
)
from tinyflow.tape import record
from tinyflow.tensor import Tensor


def batch_norm(
    input: Tensor,
    running_mean: Array | None = None,
    running_var: Array | None = None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
    relu: bool = False,
    residual: Tensor | None = None,
    moments: Moments | None = None,
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
        momentum: share of the new batch, in [0, 1].
        eps: ε, in the units of x².
        residual: r, added: y = γ x̂ + β + r, with ∂L/∂r = g. It saves a pass over memory
            and hides the sum from the tape; so does
        relu: y = max(γ x̂ + β + r, 0). g is then 0 where y ≤ 0, else g, above too.
        moments: gives μ and σ² of the batch, where the caller can know them already.

    Raises:
        ValueError: one value per channel in training, missing running statistics in
            evaluation, or a channel count that disagrees.
        TypeError: weight or bias of another dtype than the input.
    """
    x = floats("batch_norm", input)
    training = flag("batch_norm", training, "training")
    relu = flag("batch_norm", relu, "relu")
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
    image, extra = x if x.ndim == 4 else x.reshape(shape), None
    if residual is not None:
        extra = array_of("batch_norm", residual, "residual")
        same_dtype("batch_norm", ("input", "residual"), x, extra)
        if extra.shape != x.shape:
            raise ValueError(
                f"batch_norm: residual {extra.shape} must have the shape of input, "
                f"{x.shape}"
            )
        extra = extra.reshape(shape)
    if moments is not None and not callable(moments):
        raise TypeError(
            f"batch_norm: moments must be a function that gives them, not "
            f"{shown(moments)}"
        )
    m = image.size // max(channels, 1)
    if training and m < 2:
        raise ValueError(
            f"batch_norm cannot train on one value per channel (input {x.shape}): "
            "use a larger batch or larger images"
        )
    parts = (image, extra, gamma, beta, (running_mean, running_var), moments)
    how: dict[str, Any] = {
        "training": training,
        "momentum": momentum,
        "eps": eps,
        "relu": relu,
    }
    y, back = engine(x).batch_norm(*parts, **how) or _in_parts(*parts, **how)

    def pullback(g: Array, need: tuple[bool, ...]) -> list[Array | None]:
        dx, dgamma, dbeta, g = back(g.reshape(shape), need[0])
        answer = [None if dx is None else dx.reshape(x.shape)]
        if gamma is not None:
            answer.append(dgamma)
        if beta is not None:
            answer.append(dbeta)
        if residual is not None:
            answer.append(g.reshape(x.shape))
        return answer

    inputs: list[Any] = [input]
    inputs += [p for p in (weight, bias, residual) if p is not None]
    return record("batch_norm", y.reshape(x.shape), inputs, pullback)


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


def _in_parts(
    x: Array,
    residual: Array | None,
    gamma: Array | None,
    beta: Array | None,
    running: tuple[Array | None, Array | None],
    moments: Moments | None,
    *,
    training: bool,
    momentum: float,
    eps: float,
    relu: bool,
) -> tuple[Array, NormGradient]:
    """Batch normalisation from an engine's parts; see `Hooks.batch_norm`."""
    m = x.size // max(x.shape[1], 1)
    running_mean, running_var = running
    if training:
        mean, var = engine(x).moments(x) if moments is None else moments()
        if running_mean is not None:
            running_mean *= 1 - momentum
            running_mean += momentum * mean
        if running_var is not None:
            running_var *= 1 - momentum
            running_var += (momentum * m / (m - 1)) * var
    else:
        assert running_mean is not None and running_var is not None
        mean, var = running_mean.astype(x.dtype), running_var.astype(x.dtype)
    y = engine(x).normalize_by(x, mean, var, eps, gamma, beta, residual, relu)
    positive = y if relu else None

    def back(g: Array, wanted: bool) -> tuple[Array | None, Array, Array, Array]:
        run, dx = engine(g), None
        dbeta, dgamma, g = run.normalize_sums(g, x, mean, positive)
        inv_std = norm.gain(var, eps, None)
        dgamma = dgamma * inv_std
        if wanted:
            gain = inv_std if gamma is None else gamma * inv_std
            slope = gain * inv_std * dgamma / m if training else 0 * gain
            constant = mean * slope - gain * dbeta / m if training else slope
            dx = run.normalize_input_grad(g, x, gain, -slope, constant)
        return dx, dgamma, dbeta, g

    return y, back


def dropout(
    input: Tensor,
    p: float = 0.5,
    training: bool = True,
    generator: Any = None,
) -> Tensor:
    """Y = x / (1 - p) with probability 1 - p, else 0;  ∂L/∂x = g / (1 - p), or 0.

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
    if taken := engine(x).dropout(x, p, generator):
        y, back = taken
        return record("dropout", y, (input,), lambda g, need: (back(g),))
    drawn = generator.random(x.shape, dtype="float32")
    keep = array_module(x).asarray(drawn) >= p
    factor = 0.0 if p == 1 else 1 / (1 - p)

    def masked(z: Array) -> Array:
        return kept(z * factor, keep)

    return record("dropout", masked(x), (input,), lambda g, need: (masked(g),))
