"""The softmax family, of rows or along any axis."""

from __future__ import annotations

from collections.abc import Callable

from tinyflow.backend import Array, array_module
from tinyflow.sums import total


def along(x: Array, axis: int) -> Array:
    """The sum along one axis, which is kept."""
    return total(x, (axis % x.ndim,), keepdims=True)


def log_softmax(x: Array, axis: int) -> Array:
    """xᵢ - ln Σⱼ eˣʲ along an axis, without overflow."""
    shifted = x - x.max(axis=axis, keepdims=True)
    xp = array_module(x)
    result: Array = shifted - xp.log(along(xp.exp(shifted), axis))
    return result


def cross_entropy(
    x: Array, t: Array, reduction: str, label_smoothing: float
) -> tuple[Array, Callable[[Array], Array]]:
    """L of logits x (N, K) and labels t (N,), and its pullback.

    See :func:`tinyflow.ops.cross_entropy`.
    """
    xp, (n, k) = array_module(x), x.shape
    logp, rows = log_softmax(x, 1), xp.arange(n)
    losses = -logp[rows, t] * (1 - label_smoothing)
    if label_smoothing:
        losses = losses - logp.mean(axis=1) * label_smoothing
    weight = 1 / n if reduction == "mean" else 1.0

    def back(g: Array) -> Array:
        d = xp.exp(logp)
        if label_smoothing:
            d -= label_smoothing / k
        d[rows, t] -= 1 - label_smoothing
        dx: Array = d * (g.reshape(-1, 1) * weight)
        return dx

    y = losses if reduction == "none" else losses.sum() * weight
    return xp.asarray(y, x.dtype), back
