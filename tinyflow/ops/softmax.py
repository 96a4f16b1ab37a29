"""Softmax and its logarithm, along an axis."""

from __future__ import annotations

from typing import Any

from tinyflow.backend import Array, array_module
from tinyflow.kernels.plain import loss
from tinyflow.ops.arguments import axis_of, floats
from tinyflow.tape import record
from tinyflow.tensor import Tensor


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
    y = e / loss.along(e, dim)  # small ones keep the digits that ln y would lose

    def pullback(g: Array, need: tuple[bool, ...]) -> tuple[Array]:
        return (y * (g - loss.along(g * y, dim)),)

    return record("softmax", y, (input,), pullback)


def log_softmax(input: Tensor, dim: int) -> Tensor:
    """yᵢ = xᵢ - ln Σⱼ eˣʲ along `dim`;  ∂L/∂x = g - eʸ Σ g."""
    x = floats("log_softmax", input)
    dim = _filled_axis("log_softmax", dim, x)
    y = loss.log_softmax(x, dim)

    def pullback(g: Array, need: tuple[bool, ...]) -> tuple[Array]:
        return (g - array_module(y).exp(y) * loss.along(g, dim),)

    return record("log_softmax", y, (input,), pullback)
