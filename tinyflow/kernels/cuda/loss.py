"""Cross-entropy of logits (N, K): launches loss.cu."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from tinyflow.backend import Array, array_module
from tinyflow.kernels.cuda.module import (
    counters,
    dtype_of,
    empty_like,
    launch,
    new_floats,
)
from tinyflow.kernels.cuda.source import Variant

WARPS = 4
"""Rows a block takes; WARPS in loss.cu."""


class CrossEntropy(NamedTuple):
    """What the forward pass leaves on the device."""

    loss: Array
    """float32 (): the mean or the sum; for "none" the sum, see `losses`."""
    correct: Array
    """int32 (): rows whose first maximum is the label."""
    losses: Array
    """float32 (N,)."""
    maxima: Array
    log_sums: Array
    """float32 (N,): ln softmax(x) = x - maximum - log_sum."""


def cross_entropy(
    x: Array, labels: Array, reduction: str = "mean", label_smoothing: float = 0.0
) -> CrossEntropy:
    """Loss and number of right answers; see :func:`tinyflow.ops.cross_entropy`.

    Labels are int64 or int32. One that is out of range makes the loss NaN.
    """
    n, k = _checked("cross_entropy", x, labels, reduction)
    xp = array_module(x)
    losses, maxima, log_sums = (new_floats(x, n) for _ in range(3))
    hits, loss, correct = xp.empty(n, np.int32), new_floats(x), xp.empty((), np.int32)
    blocks = max(1, -(-n // WARPS))  # of no rows too the loss is written
    launch(
        *(_variant(x), "cross_entropy", (blocks,), (32, WARPS), x, labels),
        *(int(labels.dtype.itemsize == 8), n, k, float(label_smoothing), losses, hits),
        *(maxima, log_sums, counters(x), _weight(n, reduction), loss, correct),
    )
    return CrossEntropy(loss, correct, losses, maxima, log_sums)


def cross_entropy_input_grad(
    x: Array,
    labels: Array,
    forward: CrossEntropy,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
    g: Array | None = None,
    *,
    out: Array | None = None,
) -> Array:
    """(softmax(x) - q) g, with g / N for the mean.

    `g` is float32: one number, or for "none" one for each row; None is 1.
    """
    n, k = _checked("cross_entropy_input_grad", x, labels, reduction)
    dx = empty_like(x, out)
    if g is not None and (g.dtype != np.float32 or g.size not in (1, n)):
        raise TypeError(f"cross_entropy_input_grad: g is {g.dtype} {g.shape}")
    each = int(g is not None and reduction == "none" and g.size > 1)
    if n:
        launch(
            *(_variant(x), "cross_entropy_gradient", (-(-n // WARPS),), (32, WARPS)),
            *(x, labels, int(labels.dtype.itemsize == 8), n, k, float(label_smoothing)),
            *(_weight(n, reduction), g, each, forward.maxima, forward.log_sums, dx),
        )
    return dx


def _checked(name: str, x: Array, labels: Array, reduction: str) -> tuple[int, int]:
    if x.ndim != 2 or labels.shape != x.shape[:1]:
        raise ValueError(f"{name}: logits {x.shape}, labels {labels.shape}")
    if labels.dtype not in (np.int64, np.int32):
        raise TypeError(f"{name}: labels are int64 or int32, not {labels.dtype}")
    if not (x.flags.c_contiguous and labels.flags.c_contiguous):
        raise ValueError(f"{name}: logits and labels must be contiguous")
    if reduction not in ("mean", "sum", "none"):
        raise ValueError(f"reduction must be mean, sum or none, not {reduction!r}")
    return int(x.shape[0]), int(x.shape[1])


def _variant(x: Array) -> Variant:
    return Variant("loss", dtype_of("cross_entropy", x))


def _weight(n: int, reduction: str) -> float:
    return 1 / n if reduction == "mean" and n else 1.0
