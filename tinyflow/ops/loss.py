"""Losses: cross-entropy of classes and of yes or no, likelihood, squared error.

Each is taken entry by entry (sample by sample), then `reduction` makes of it the
"mean", the "sum" or, with "none", leaves it as it is. In the formulas g = ∂L/∂y.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from tinyflow.backend import Array, array_module
from tinyflow.kernels.engine import engine
from tinyflow.kernels.plain.mask import kept
from tinyflow.ops.arguments import (
    LARGEST,
    choice,
    floats,
    number,
    same_dtype,
    shown,
    whole,
)
from tinyflow.ops.softmax import log_softmax
from tinyflow.sums import total
from tinyflow.tape import record
from tinyflow.tensor import Tensor, plain_array, value

REDUCTIONS = ("mean", "sum", "none")


def cross_entropy(
    input: Tensor,
    target: Any,
    weight: Any = None,
    ignore_index: int | None = None,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
) -> Tensor:
    """ℓ = -Σₖ wₖ qₖ ln softmax(x)ₖ per sample, then the mean, the sum, or as it is.

    q puts 1 - ε + ε/K on the target class and ε/K on every other one, ε being
    `label_smoothing` and K the number of classes (Szegedy et al. 2016). A target of
    probabilities p has q = (1 - ε) p + ε/K instead. With s = Σₖ wₖ qₖ

        ∂ℓ/∂xₖ = softmax(x)ₖ s - wₖ qₖ,  ∂ℓ/∂pₖ = -(1 - ε) wₖ ln softmax(x)ₖ,

    times g, and for the mean divided by the number of samples; with class indices, by
    Σ w of the samples' classes.

    Args:
        input: logits (N, K) or (N, K, …), where each of N, … is a sample.
        target: class indices in [0, K), (N, …), or probabilities of the input's shape.
        weight: w, (K,), a constant; None for 1.
        ignore_index: the index of samples that do not count; by default all do.
        reduction: "mean", "sum" or "none".
        label_smoothing: ε in [0, 1].

    Raises:
        ValueError: the shapes disagree, a label is out of range, an option is wrong, or
            there is no sample to take the mean of.
    """
    op, x = "cross_entropy", floats("cross_entropy", input)
    reduction = choice(op, reduction, "reduction", REDUCTIONS)
    eps = number(op, label_smoothing, "label_smoothing", 0, 1)
    w = _class_weights(op, weight, x)
    given = value(target)
    if getattr(given, "shape", None) == x.shape and given.dtype.kind not in "iu":
        if ignore_index is not None:
            raise ValueError(
                f"{op}: ignore_index is for a target of class indices, not for one of "
                "probabilities"
            )
        return _of_probabilities(input, target, w, reduction, eps)
    t, ignored = _labels(op, x, target, ignore_index, reduction)
    if x.ndim > 2 or w is not None or ignored is not None:
        return _picked(op, log_softmax(input, 1), t, w, ignored, reduction, eps)
    y, back = engine(x).cross_entropy(x, t, reduction, eps)
    return record(op, y, (input,), lambda g, need: (back(g),))


def nll_loss(
    input: Tensor,
    target: Any,
    weight: Any = None,
    ignore_index: int | None = None,
    reduction: str = "mean",
) -> Tensor:
    """ℓ = -w_t x_t per sample with class t;  ∂ℓ/∂x_t = -w_t, 0 for the other classes.

    x are logarithms of probabilities, (N, K) or (N, K, …): :func:`cross_entropy` is
    this of :func:`~tinyflow.ops.log_softmax`, and describes the arguments.
    """
    op, x = "nll_loss", floats("nll_loss", input)
    reduction = choice(op, reduction, "reduction", REDUCTIONS)
    w = _class_weights(op, weight, x)
    t, ignored = _labels(op, x, target, ignore_index, reduction)
    return _picked(op, input, t, w, ignored, reduction, 0.0)


def mse_loss(input: Tensor, target: Any, reduction: str = "mean") -> Tensor:
    """ℓ = (x - t)² per entry;  ∂ℓ/∂x = 2 (x - t), ∂ℓ/∂t = -2 (x - t).

    `target` is a Tensor or an array of the input's shape.
    """
    op, x = "mse_loss", floats("mse_loss", input)
    reduction = choice(op, reduction, "reduction", REDUCTIONS)
    off = x - _like(op, target, x)
    y, share = _reduced(op, off * off, reduction)

    def pullback(g: Array, need: tuple[bool, ...]) -> tuple[Array | None, ...]:
        d = off * (g * (2 * share))
        return d, -d if need[1] else None

    return record(op, y, (input, target), pullback)


def bce_with_logits(
    input: Tensor,
    target: Any,
    weight: Any = None,
    reduction: str = "mean",
    pos_weight: Any = None,
) -> Tensor:
    """ℓ = -w (p t ln σ(x) + (1 - t) ln(1 - σ(x))) per entry.

        ∂ℓ/∂x = w ((1 - t) σ(x) - p t σ(-x)),  ∂ℓ/∂t = w (ln(1 - σ(x)) - p ln σ(x))

    A term whose factor is 0 is 0, also where x is infinite.

    Args:
        input: x, logits.
        target: t, the probabilities of yes: a Tensor or an array of the input's shape.
        weight: w, a constant that is broadcast to the input; None for 1.
        reduction: "mean" (of all entries), "sum" or "none".
        pos_weight: p, like w: by how much more a yes counts.
    """
    op, x = "bce_with_logits", floats("bce_with_logits", input)
    reduction = choice(op, reduction, "reduction", REDUCTIONS)
    t = _like(op, target, x)
    w, p = _factor(op, weight, "weight", x), _factor(op, pos_weight, "pos_weight", x)
    xp, run = array_module(x), engine(x)
    small = xp.log1p(xp.exp(-abs(x)))
    no, yes = xp.maximum(x, 0) + small, xp.maximum(-x, 0) + small
    a, b = 1 - t, t if p is None else p * t
    losses = kept(a * no, a != 0) + kept(b * yes, b != 0)
    y, share = _reduced(op, losses if w is None else w * losses, reduction)

    def pullback(g: Array, need: tuple[bool, ...]) -> tuple[Array | None, ...]:
        g = g * share if w is None else w * (g * share)
        dx = (a * run.sigmoid(x) - b * run.sigmoid(-x)) * g if need[0] else None
        if not need[1]:
            return dx, None
        return dx, (-x if p is None else p * yes - no) * g

    return record(op, y, (input, target), pullback)


# --- what they share -----------------------------------------------------------------


def _reduced(op: str, losses: Array, reduction: str) -> tuple[Array, float]:
    """The losses reduced, and what their gradient is multiplied with."""
    if reduction == "none":
        return losses, 1.0
    if not losses.size and reduction == "mean":
        raise ValueError(f"{op}: input has no samples to take the mean of")
    share = 1 / losses.size if reduction == "mean" else 1.0
    return total(losses, tuple(range(losses.ndim))) * share, share


def constant(op: str, given: Any, name: str) -> Array | None:
    """The array of a Tensor, or an array; None stays None."""
    if given is None:
        return None
    found = value(given)
    if not (hasattr(found, "dtype") and hasattr(found, "shape")):
        raise TypeError(
            f"{op}: {name} must be a Tensor or an array, not {shown(given)}"
        )
    return plain_array(found, f"{op}: {name}")


def _like(op: str, target: Any, x: Array) -> Array:
    if (t := constant(op, target, "target")) is None:
        raise TypeError(f"{op}: target must be a Tensor or an array, not None")
    if t.shape != x.shape:
        raise ValueError(
            f"{op}: target {t.shape} must have the shape of input {x.shape}"
        )
    same_dtype(op, ("input", "target"), x, t)
    return t


def _factor(op: str, given: Any, name: str, x: Array) -> Array | None:
    if (w := constant(op, given, name)) is None:
        return None
    same_dtype(op, ("input", name), x, w)
    sizes = zip(reversed(w.shape), reversed(x.shape), strict=False)
    if w.ndim > x.ndim or any(m not in (1, n) for m, n in sizes):
        raise ValueError(f"{op}: {name} {w.shape} cannot be broadcast to {x.shape}")
    return w


def _class_weights(op: str, weight: Any, x: Array) -> Array | None:
    if (w := constant(op, weight, "weight")) is None:
        return None
    same_dtype(op, ("input", "weight"), x, w)
    if x.ndim < 2 or w.shape != x.shape[1:2]:
        raise ValueError(
            f"{op}: weight {w.shape} must have one entry for each class of input "
            f"{x.shape}"
        )
    return w


def _labels(
    op: str, x: Array, target: Any, ignore_index: Any, reduction: str
) -> tuple[Array, int | None]:
    """Class indices as an array (a list will do), and the one that does not count."""
    t = plain_array(value(target), f"{op}: target")
    if not t.size and isinstance(target, Sequence):
        t = t.astype("int64")  # an empty list has no dtype of its own
    if t.dtype.kind not in "iu":
        raise TypeError(
            f"{op}: target must be integer class indices, not {shown(value(target))}; "
            "convert it, e.g. with .astype('int64')"
        )
    if x.ndim < 2 or t.shape != (x.shape[0], *x.shape[2:]):
        raise ValueError(
            f"{op}: input must be (N, K, …) and target (N, …) class indices, not "
            f"{x.shape} and {t.shape}"
        )
    ignored = ignore_index
    if ignored is not None:
        ignored = whole(op, ignored, "ignore_index", -LARGEST)
    seen = t if ignored is None else t[t != ignored] if array_module(t) is np else t
    if reduction == "mean" and not seen.size:
        which = "" if seen is t else f" other than those of ignore_index={ignored}"
        raise ValueError(f"{op}: input has no samples{which} to take the mean of")
    # Labels on a GPU go unchecked: reading them would wait for it.
    if array_module(t) is np and seen.size:
        low, high = int(seen.min()), int(seen.max())
        if not 0 <= low <= high < x.shape[1]:
            raise ValueError(
                f"{op}: labels must lie in [0, {x.shape[1]}), target holds {low} to "
                f"{high}; those of samples that do not count are named by ignore_index"
            )
    return array_module(x).asarray(t), ignored


def _picked(
    op: str,
    logp: Tensor,
    t: Array,
    w: Array | None,
    ignored: int | None,
    reduction: str,
    eps: float,
) -> Tensor:
    """-(1 - ε) w_t ln p_t - ε/K Σₖ wₖ ln pₖ per sample, 0 for the ignored, reduced."""
    shape, k = t.shape, logp.shape[1]
    back_and_forth = (0, *range(2, logp.ndim), 1), (0, logp.ndim - 1)
    rows = logp.data.transpose(back_and_forth[0]).reshape(-1, k)
    xp = array_module(rows)
    t = t.reshape(-1).astype("int64")
    used = t == t if ignored is None else t != ignored
    t = xp.where(used, t, 0)
    each, places = xp.ones(k, rows.dtype) if w is None else w, xp.arange(len(t))
    weights = kept(each[t], used)
    losses = kept(rows[places, t] * ((eps - 1) * weights), used)
    if eps:
        losses = losses - kept(total(rows * each, (1,)) * (eps / k), used)
    share: Any = 1 / weights.sum() if reduction == "mean" else 1.0

    def pullback(g: Array, need: tuple[bool, ...]) -> tuple[Array]:
        d = xp.zeros_like(rows)
        if eps:
            d -= each * (eps / k)
        d[places, t] -= (1 - eps) * weights
        d = kept(d * (g.reshape(-1, 1) * share), used[:, None])
        d = d.reshape(*shape, k)
        return (d.transpose(0, d.ndim - 1, *range(1, d.ndim - 1)),)

    y = losses.reshape(shape) if reduction == "none" else losses.sum() * share
    return record(op, y, (logp,), pullback)


def _of_probabilities(
    input: Tensor, target: Any, w: Array | None, reduction: str, eps: float
) -> Tensor:
    op, logits = "cross_entropy", log_softmax(input, 1)
    logp = logits.data
    q = _like(op, target, logp)
    q = q if not eps else (1 - eps) * q + eps / logp.shape[1]
    each = None if w is None else w.reshape(-1, *[1] * (logp.ndim - 2))
    q = q if each is None else each * q
    losses = -total(kept(q * logp, q != 0), (1,))
    y, share = _reduced(op, losses, reduction)

    def pullback(g: Array, need: tuple[bool, ...]) -> tuple[Array | None, ...]:
        g = -share * (g if g.ndim == 0 else g[:, None])
        if not need[1]:
            return q * g, None
        return q * g, (logp if each is None else each * logp) * (g * (1 - eps))

    return record(op, y, (logits, target), pullback)
