"""Softmax, log-softmax and cross-entropy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from tinyflow.backend import Array, array_module
from tinyflow.kernels.engine import engine
from tinyflow.ops.arguments import axis_of, choice, floats, number, shown
from tinyflow.sums import total
from tinyflow.tape import record
from tinyflow.tensor import Tensor, plain_array, value


def _along(x: Array, axis: int) -> Array:
    """The sum along one axis, which is kept."""
    return total(x, (axis % x.ndim,), keepdims=True)


def _log_softmax(x: Array, axis: int) -> Array:
    shifted = x - x.max(axis=axis, keepdims=True)
    xp = array_module(x)
    result: Array = shifted - xp.log(_along(xp.exp(shifted), axis))
    return result


def _filled_axis(op: str, dim: Any, x: Array) -> int:
    axis = axis_of(op, dim, x.ndim)
    if not x.shape[axis]:
        raise ValueError(f"{op}: input {x.shape} has no entries along dim {axis}")
    return axis


def softmax(input: Tensor, dim: int) -> Tensor:
    """yᵢ = eˣⁱ / Σⱼ eˣʲ along `dim`;  ∂L/∂x = y ⊙ (g - ⟨g, y⟩)."""
    x = floats("softmax", input)
    dim = _filled_axis("softmax", dim, x)
    e = array_module(x).exp(x - x.max(axis=dim, keepdims=True))
    y = e / _along(e, dim)  # small ones keep their digits, as they would not from ln y

    def pullback(g: Array, need: tuple[bool, ...]) -> tuple[Array]:
        return (y * (g - _along(g * y, dim)),)

    return record("softmax", y, (input,), pullback)


def log_softmax(input: Tensor, dim: int) -> Tensor:
    """yᵢ = xᵢ - ln Σⱼ eˣʲ along `dim`;  ∂L/∂x = g - eʸ Σ g."""
    x = floats("log_softmax", input)
    dim = _filled_axis("log_softmax", dim, x)
    y = _log_softmax(x, dim)

    def pullback(g: Array, need: tuple[bool, ...]) -> tuple[Array]:
        return (g - array_module(y).exp(y) * _along(g, dim),)

    return record("log_softmax", y, (input,), pullback)


_REDUCTIONS = ("mean", "sum", "none")


def _labels(target: Any) -> Array:
    """Class indices as an array: a list will do."""
    t = plain_array(value(target), "cross_entropy: target")
    if not t.size and isinstance(target, Sequence):
        t = t.astype("int64")  # an empty list has no dtype of its own
    if t.dtype.kind not in "iu":
        raise TypeError(
            "cross_entropy: target must be integer class indices, not "
            f"{shown(value(target))}; convert it, e.g. with .astype('int64')"
        )
    return t


def cross_entropy(
    input: Tensor,
    target: Any,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
) -> Tensor:
    """L = -Σₖ qₖ ln softmax(x)ₖ per sample, then the mean, the sum, or as it is.

    q puts 1 - ε + ε/K on the target class and ε/K on every other one, ε being
    `label_smoothing` and K the number of classes (Szegedy et al. 2016).
    ∂L/∂x = (softmax(x) - q) · g, with g / N for the mean.

    Args:
        input: logits (N, K).
        target: N integer class indices in [0, K).
        reduction: "mean", "sum" or "none".
        label_smoothing: ε in [0, 1].

    Raises:
        ValueError: the shapes disagree, a label is out of range, or an option is wrong.
    """
    x, t = floats("cross_entropy", input), _labels(target)
    xp = array_module(x)
    reduction = choice("cross_entropy", reduction, "reduction", _REDUCTIONS)
    label_smoothing = number("cross_entropy", label_smoothing, "label_smoothing", 0, 1)
    if x.ndim != 2 or t.shape != x.shape[:1]:
        raise ValueError(
            "cross_entropy: input must be logits (N, K) and target N class indices, "
            f"not {x.shape} and {t.shape}"
        )
    n, k = x.shape
    if not n and reduction == "mean":
        raise ValueError("cross_entropy: input has no samples to take the mean of")
    # Labels on a GPU go unchecked: reading them would wait for it.
    if array_module(t) is np and n and not (0 <= int(t.min()) and int(t.max()) < k):
        raise ValueError(
            f"cross_entropy: labels must lie in [0, {k}), target holds {t.min()} to "
            f"{t.max()}"
        )
    t = xp.asarray(t)
    taken = engine(x).cross_entropy(x, t, reduction, label_smoothing)
    if taken is not None:
        loss, back = taken
        return record("cross_entropy", loss, (input,), lambda g, need: (back(g),))
    logp = _log_softmax(x, 1)
    rows = xp.arange(n)
    losses = -logp[rows, t] * (1 - label_smoothing)
    if label_smoothing:
        losses = losses - logp.mean(axis=1) * label_smoothing
    weight = 1 / n if reduction == "mean" else 1.0

    def pullback(g: Array, need: tuple[bool, ...]) -> tuple[Array]:
        d = xp.exp(logp)
        if label_smoothing:
            d -= label_smoothing / k
        d[rows, t] -= 1 - label_smoothing
        return (d * (g.reshape(-1, 1) * weight),)

    y = losses if reduction == "none" else losses.sum() * weight
    return record("cross_entropy", xp.asarray(y, x.dtype), (input,), pullback)
