"""Matrix products."""

from __future__ import annotations

import math

from tinyflow.backend import Array
from tinyflow.kernels.engine import engine
from tinyflow.ops.arguments import (
    array_of,
    broadcasts,
    fits_parameters,
    floats,
    operands,
    optional,
)
from tinyflow.tape import record
from tinyflow.tensor import Tensor


def linear(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """y = x Wᵀ + b.

    ∂L/∂x = g W, ∂L/∂W = gᵀ x, ∂L/∂b = Σ g (both over all leading axes).

    Args:
        input: (..., in_features).
        weight: (out_features, in_features).
        bias: (out_features,) or None.
    """
    x, w = floats("linear", input), array_of("linear", weight, "weight")
    b = optional("linear", bias, "bias")
    if x.ndim < 1 or w.ndim != 2 or x.shape[-1] != w.shape[1]:
        raise ValueError(
            f"linear: input {x.shape} needs {w.shape[-1]} features in its last axis "
            f"to meet weight {w.shape}"
        )
    if b is not None and b.shape != w.shape[:1]:
        raise ValueError(f"linear: bias {b.shape} needs {w.shape[0]} entries")
    fits_parameters("linear", ("input", "weight", "bias"), x, w, b)
    run, lead = engine(x), x.shape[:-1]
    w = run.weight(w, x)
    rows = x.reshape(math.prod(lead), x.shape[-1])
    y = run.linear(rows, w)
    if b is not None:
        y = run.bias_add(y, b)

    def pullback(g: Array, need: tuple[bool, ...]) -> list[Array | None]:
        g = g.reshape(math.prod(lead), g.shape[-1])
        dx = run.linear_input_grad(g, w).reshape(x.shape) if need[0] else None
        dw = run.linear_weight_grad(g, rows) if need[1] else None
        if b is None:
            return [dx, dw]
        return [dx, dw, run.row_sum(g) if need[2] else None]

    inputs = (input, weight) if bias is None else (input, weight, bias)
    return record("linear", y.reshape(*lead, w.shape[0]), inputs, pullback)


def matmul(input: Tensor, other: Tensor) -> Tensor:
    """y = A B, batched over leading axes, which broadcast.

    ∂L/∂A = G Bᵀ, ∂L/∂B = Aᵀ G. A vector is one row of A or one column of B, and the
    result lacks that axis: of two vectors it is their inner product.
    """
    a, b = operands("matmul", input, other, entries=False)
    for x, name in ((a, "input"), (b, "other")):
        if getattr(x, "ndim", 0) < 1:
            raise ValueError(f"matmul: {name} must be a vector, a matrix or several")
    row, column = a.ndim == 1, b.ndim == 1
    a, b = a[None] if row else a, b[:, None] if column else b
    if a.shape[-1] != b.shape[-2]:
        raise ValueError(
            f"matmul: input {a.shape} has {a.shape[-1]} columns, other {b.shape} "
            f"{b.shape[-2]} rows; they must be as many"
        )
    broadcasts("matmul", a.shape[:-2], b.shape[:-2])
    y = a @ b
    whole = y.shape

    def pullback(g: Array, need: tuple[bool, ...]) -> tuple[Array | None, ...]:
        g = g.reshape(whole)
        da = g @ b.swapaxes(-1, -2) if need[0] else None
        db = a.swapaxes(-1, -2) @ g if need[1] else None
        return (
            da[..., 0, :] if row and da is not None else da,
            db[..., 0] if column and db is not None else db,
        )

    y = y[..., 0] if column else y
    y = y[..., 0] if row and column else y[..., 0, :] if row else y
    return record("matmul", y, (input, other), pullback)
