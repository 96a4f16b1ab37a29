"""Arithmetic and activations, entry by entry.

Every function takes tensors (binary ones also arrays and Python numbers), broadcasts
like NumPy, keeps its input's dtype, and works on NumPy and CuPy arrays alike. In the
formulas g = ∂L/∂y; where inputs were broadcast the tape sums the message back.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tinyflow.backend import Array, array_module
from tinyflow.kernels.engine import engine
from tinyflow.tape import record
from tinyflow.tensor import Tensor, value


def same_dtype(op: str, *operands: Any) -> None:
    """Refuse arrays of different dtypes; numbers and None have none and may pass."""
    dtypes = [x.dtype for x in operands if hasattr(x, "dtype")]
    if len(dtypes) > 1 and len(set(dtypes)) > 1:
        dtypes = list(dict.fromkeys(dtypes))
        names = " and ".join(str(dtype) for dtype in dtypes)
        raise TypeError(f"{op} got {names}; convert one, dtypes are never mixed")


def fits_parameters(op: str, x: Array, *parameters: Any) -> None:
    """Like :func:`same_dtype`, but float32 parameters may meet bfloat16 values.

    Only on an engine for mixed precision: elsewhere dtypes are never mixed.
    """
    dtype = x.dtype
    if dtype.itemsize > 2:
        for p in parameters:
            if p is not None and p.dtype != dtype:
                same_dtype(op, x, *parameters)
    elif dtype.name == "bfloat16" and engine(x).mixed:
        same_dtype(op, np.float32(0), *parameters)
    else:
        same_dtype(op, x, *parameters)


def _number(x: Any) -> Any:
    """NumPy scalars as Python numbers, which do not promote float32 to float64."""
    return x.item() if isinstance(x, np.generic) else x


def _operands(op: str, a: Any, b: Any) -> tuple[Any, Any]:
    """The arrays of two operands; Python numbers stay numbers and take the dtype."""
    x, y = _number(value(a)), _number(value(b))
    same_dtype(op, x, y)
    return x, y


def add(input: Any, other: Any) -> Tensor:
    """Y = a + b;  ∂L/∂a = g, ∂L/∂b = g."""
    a, b = _operands("add", input, other)
    alike = getattr(a, "shape", 0) == getattr(b, "shape", 1)  # numbers have no shape
    y = engine(a).add(a, b) if alike else a + b
    return record("add", y, (input, other), lambda g, need: (g, g))


def sub(input: Any, other: Any) -> Tensor:
    """Y = a - b;  ∂L/∂a = g, ∂L/∂b = -g."""
    a, b = _operands("sub", input, other)

    def pullback(g: Array, need: tuple[bool, ...]) -> tuple[Array | None, ...]:
        return g, -g if need[1] else None

    return record("sub", a - b, (input, other), pullback)


def mul(input: Any, other: Any) -> Tensor:
    """Y = a ⊙ b;  ∂L/∂a = g ⊙ b, ∂L/∂b = g ⊙ a."""
    a, b = _operands("mul", input, other)
    if _gates(a, b):
        run = engine(a)
        return record(
            "mul",
            run.gate(a, b),
            (input, other),
            lambda g, need: run.gate_grad(g, a, b, need),
        )

    def pullback(g: Array, need: tuple[bool, ...]) -> tuple[Array | None, ...]:
        return g * b if need[0] else None, g * a if need[1] else None

    return record("mul", a * b, (input, other), pullback)


def gated(input: Tensor, gates: Tensor, residual: Tensor | None = None) -> Tensor:
    """Y = σ(z) ⊙ x, or with a residual r max(σ(z) ⊙ x + r, 0): several in one.

    With g' = g, or with a residual g where y > 0 and else 0, and s = σ(z): ∂L/∂x = g' ⊙
    s, ∂L/∂z = s (1 - s) Σ g' ⊙ x over each map, ∂L/∂r = g'.

    Args:
        input: x, (N, C, H, W).
        gates: z, (N, C, 1, 1).
        residual: r, in the shape of x, or None.

    Raises:
        ValueError: shapes that do not fit together.
        TypeError: arrays of different dtypes.
    """
    x, z, r = input.data, gates.data, value(residual)
    same_dtype("gated", x, z, r)
    fits = x.ndim == 4 and z.shape == (*x.shape[:2], 1, 1)
    if not fits or (r is not None and r.shape != x.shape):
        raise ValueError(f"gated: maps {x.shape} do not fit gates {z.shape}")
    run = engine(x)
    y = run.sigmoid_gate(x, z, r)
    output = None if r is None else y
    inputs = (input, gates) if residual is None else (input, gates, residual)
    return record(
        "gated",
        y,
        inputs,
        lambda g, need: run.sigmoid_gate_grad(g, x, z, output, need),
    )


def _gates(a: Any, b: Any) -> bool:
    """Whether b holds one number for each map of the images a."""
    x, s = getattr(a, "shape", ()), getattr(b, "shape", ())
    return len(x) == 4 and s == (*x[:2], 1, 1) and s != x


def div(input: Any, other: Any) -> Tensor:
    """Y = a / b;  ∂L/∂a = g / b, ∂L/∂b = -g y / b."""
    a, b = _operands("div", input, other)
    y = a / b

    def pullback(g: Array, need: tuple[bool, ...]) -> tuple[Array | None, ...]:
        return g / b if need[0] else None, -g * y / b if need[1] else None

    return record("div", y, (input, other), pullback)


def neg(input: Tensor) -> Tensor:
    """Y = -x;  ∂L/∂x = -g."""
    return record("neg", -input.data, (input,), lambda g, need: (-g,))


def pow(input: Tensor, exponent: float) -> Tensor:
    """Y = xᵖ for a number p;  ∂L/∂x = g p xᵖ⁻¹."""
    x, p = input.data, _number(exponent)

    def pullback(g: Array, need: tuple[bool, ...]) -> tuple[Array]:
        return (g * p * x ** (p - 1 if p else 0),)  # p = 0: 0 even at x = 0

    return record("pow", x**p, (input,), pullback)


def exp(input: Tensor) -> Tensor:
    """Y = eˣ;  ∂L/∂x = g y."""
    y = array_module(input.data).exp(input.data)
    return record("exp", y, (input,), lambda g, need: (g * y,))


def log(input: Tensor) -> Tensor:
    """Y = ln x;  ∂L/∂x = g / x."""
    x = input.data
    return record("log", array_module(x).log(x), (input,), lambda g, need: (g / x,))


def sqrt(input: Tensor) -> Tensor:
    """Y = √x;  ∂L/∂x = g / (2y)."""
    y = array_module(input.data).sqrt(input.data)
    return record("sqrt", y, (input,), lambda g, need: (g / (2 * y),))


def relu(input: Tensor) -> Tensor:
    """Y = max(x, 0);  ∂L/∂x = g where x > 0, else 0 (also at x = 0)."""
    y = engine(input.data).relu(input.data)
    return record("relu", y, (input,), lambda g, need: (engine(g).relu_grad(g, y),))


def relu6(input: Tensor) -> Tensor:
    """Y = min(max(x, 0), 6);  ∂L/∂x = g where 0 < x < 6, else 0."""
    y = input.data.clip(0, 6)
    return record("relu6", y, (input,), lambda g, need: (g * ((y > 0) & (y < 6)),))


def sigmoid(input: Tensor) -> Tensor:
    """Y = σ(x) = 1 / (1 + e⁻ˣ);  ∂L/∂x = g y (1 - y)."""
    y = engine(input.data).sigmoid(input.data)
    return record(
        "sigmoid", y, (input,), lambda g, need: (engine(g).sigmoid_grad(g, y),)
    )


def tanh(input: Tensor) -> Tensor:
    """Y = tanh x;  ∂L/∂x = g (1 - y²)."""
    y = array_module(input.data).tanh(input.data)
    return record("tanh", y, (input,), lambda g, need: (g * (1 - y * y),))


def silu(input: Tensor) -> Tensor:
    """Y = x σ(x);  ∂L/∂x = g σ(x) (1 + x (1 - σ(x)))."""
    x = input.data
    s = engine(x).sigmoid(x)
    return record(
        "silu", x * s, (input,), lambda g, need: (g * (s * (1 + x * (1 - s))),)
    )


def hardswish(input: Tensor) -> Tensor:
    """Y = x min(max(x + 3, 0), 6) / 6;  ∂L/∂x = g (0 | x/3 + ½ | 1).

    The three cases are x ≤ -3, between, and x ≥ 3 (Howard et al. 2019, MobileNetV3).
    """
    x = input.data

    def pullback(g: Array, need: tuple[bool, ...]) -> tuple[Array]:
        xp = array_module(g)
        slope = xp.where(x <= -3, 0, xp.where(x >= 3, 1, x / 3 + 0.5))
        return (g * slope.astype(g.dtype),)

    return record("hardswish", x * (x + 3).clip(0, 6) / 6, (input,), pullback)
