"""What a captured step tells the host, in one array: launches outcome.cu."""

from __future__ import annotations

import numpy as np

from tinyflow.backend import Array, array_module
from tinyflow.kernels.cuda.module import launch
from tinyflow.kernels.cuda.source import Variant


def outcome(loss: Array, correct: Array, norm: Array) -> Array:
    """(loss, right answers, gradient norm, factor for the gradients), float64.

    The factor, as a view of one entry, is `clip` of the optimisers: that of `norm`, or
    NaN if loss or norm are not finite.

    Args:
        loss: float32, one entry.
        correct: int32, one entry.
        norm: float64 (2,), from :func:`tinyflow.kernels.cuda.optim.gradient_norm`.

    Raises:
        TypeError: an array is of another dtype or size.
    """
    for a, dtype, size in ((loss, "f4", 1), (correct, "i4", 1), (norm, "f8", 2)):
        if a.dtype != np.dtype(dtype) or a.size != size:
            raise TypeError(f"outcome: needs {size} {dtype}, got {a.dtype} {a.shape}")
    out: Array = array_module(loss).empty(4, np.float64)
    launch(Variant("outcome"), "outcome", (1,), (1,), loss, correct, norm, out)
    return out
