"""The norm of all gradients, and gradients no longer than a limit."""

from __future__ import annotations

import math

import numpy as np

from tinyflow.backend import array_module, numbers
from tinyflow.lengths import length, scaled, square, together, trusted
from tinyflow.optim.base import Parameters, named_tensors


def grad_norm(parameters: Parameters) -> float:
    """√(Σ ‖g‖²) over all gradients there are, each tensor once; 0 if there is none.

    Not finite only if a gradient is not, or the norm is beyond float64. Where squares
    may have under- or overflowed in the gradients' dtype, it is taken from lengths.
    """
    tensors = named_tensors(parameters, "grad_norm").values()
    found = [p.grad for p in tensors if p.grad is not None]
    if not found:
        return 0.0
    xp = array_module(found[0])
    with np.errstate(over="ignore", invalid="ignore"):
        squares = xp.stack([square(g) for g in found])  # one transfer
        whole = float(squares.sum(dtype="float64"))
    size = sum(g.size for g in found)
    if all(trusted(whole, size, dtype) for dtype in {g.dtype for g in found}):
        return math.sqrt(whole)
    return together(numbers(*map(length, found)))


def clip_grad_norm(
    parameters: Parameters, max_norm: float, norm: float | None = None
) -> float:
    """Scale all gradients by min(1, max_norm / (norm + 10⁻⁶)), as PyTorch does.

    They are replaced, not written to. Returns the norm before, which may be given if it
    is known.

    Raises:
        ValueError: `max_norm` is not above 0.
        FloatingPointError: a gradient is not finite, which no factor mends; all are as
            they were.
    """
    if not max_norm > 0:
        raise ValueError(f"max_norm must be above 0, not {max_norm}")
    tensors = named_tensors(parameters, "clip_grad_norm")
    norm = grad_norm(tensors.values()) if norm is None else norm
    if not math.isfinite(norm):
        bad = [n for n, p in tensors.items() if not math.isfinite(grad_norm([p]))]
        raise FloatingPointError(
            f"the gradient's norm became {norm}: "
            + (f"that of {bad[0]!r} is not finite" if bad else "no float64 holds it")
        )
    scale = float(max_norm) / (norm + 1e-6)
    if scale < 1:
        for p in tensors.values():
            if p.grad is not None:
                p.node.grad = scaled(p.grad, float(max_norm), norm + 1e-6)
    return norm
