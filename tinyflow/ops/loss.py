"""Softmax, log-softmax and cross-entropy."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from tinyflow.backend import Array, array_module
from tinyflow.kernels.engine import engine
from tinyflow.tape import record
from tinyflow.tensor import Tensor, value


def _log_softmax(x: Array, axis: int) -> Array:
    shifted = x - x.max(axis=axis, keepdims=True)
    xp = array_module(x)
    result: Array = shifted - xp.log(xp.exp(shifted).sum(axis=axis, keepdims=True))
    return result


def softmax(input: Tensor, dim: int) -> Tensor:
    """yᵢ = eˣⁱ / Σⱼ eˣʲ along `dim`;  ∂L/∂x = y ⊙ (g - ⟨g, y⟩)."""
    x = input.data
    y = array_module(x).exp(_log_softmax(x, dim))

    def pullback(g: Array, need: tuple[bool, ...]) -> tuple[Array]:
        return (y * (g - (g * y).sum(axis=dim, keepdims=True)),)

    return record("softmax", y, (input,), pullback)


def log_softmax(input: Tensor, dim: int) -> Tensor:
    """yᵢ = xᵢ - ln Σⱼ eˣʲ along `dim`;  ∂L/∂x = g - eʸ Σ g."""
    y = _log_softmax(input.data, dim)

    def pullback(g: Array, need: tuple[bool, ...]) -> tuple[Array]:
        return (g - array_module(y).exp(y) * g.sum(axis=dim, keepdims=True),)

    return record("log_softmax", y, (input,), pullback)


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
    x, t = input.data, value(target)
    xp = array_module(x)
    if not hasattr(t, "dtype"):
        t = np.asarray(t)
    if x.ndim != 2 or t.shape != x.shape[:1] or t.dtype.kind not in "iu":
        raise ValueError(
            f"cross_entropy needs logits (N, K) and N integer labels, got {x.shape} "
            f"and {t.dtype} {t.shape}"
        )
    n, k = x.shape
    if reduction not in ("mean", "sum", "none"):
        raise ValueError(f"reduction must be mean, sum or none, not {reduction!r}")
    if not (math.isfinite(label_smoothing) and 0 <= label_smoothing <= 1):
        raise ValueError(f"label_smoothing must lie in [0, 1], not {label_smoothing}")
    # Labels on a GPU go unchecked: reading them would wait for it.
    if array_module(t) is np and n and not (0 <= int(t.min()) and int(t.max()) < k):
        raise ValueError(f"labels must lie in [0, {k}), got {t.min()} to {t.max()}")
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
    weight = 1 / n if reduction == "mean" and n else 1.0

    def pullback(g: Array, need: tuple[bool, ...]) -> tuple[Array]:
        d = xp.exp(logp)
        if label_smoothing:
            d -= label_smoothing / k
        d[rows, t] -= 1 - label_smoothing
        return (d * (g.reshape(-1, 1) * weight),)

    y = losses if reduction == "none" else losses.sum() * weight
    return record("cross_entropy", xp.asarray(y, x.dtype), (input,), pullback)
