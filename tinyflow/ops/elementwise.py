"""Arithmetic and activations, entry by entry.

Every function takes tensors (binary ones also arrays and Python numbers), broadcasts
like NumPy, keeps its input's dtype, and works on NumPy and CuPy arrays alike. In the
formulas g = ∂L/∂y; where inputs were broadcast the tape sums the message back.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from tinyflow.backend import Array, array_module
from tinyflow.kernels.engine import engine
from tinyflow.kernels.plain.mask import kept
from tinyflow.ops.arguments import (
    fits_dtype,
    floats,
    no_floats,
    operands,
    reals,
    scalar,
    shown,
)
from tinyflow.tape import record
from tinyflow.tensor import Pullback, Tensor
from tinyflow.waiting import joined_relu, joined_sum, record_open


def add(input: Any, other: Any) -> Tensor:
    """y = a + b;  ∂L/∂a = g, ∂L/∂b = g."""
    if (joined := joined_sum(input, other)) is not None:
        return joined
    a, b = operands("add", input, other)
    alike = getattr(a, "shape", 0) == getattr(b, "shape", 1)  # numbers have no shape
    y = engine(a).add(a, b) if alike else a + b
    return record("add", y, (input, other), lambda g, need: (g, g))


def sub(input: Any, other: Any) -> Tensor:
    """y = a - b;  ∂L/∂a = g, ∂L/∂b = -g."""
    a, b = operands("sub", input, other)

    def pullback(g: Array, need: tuple[bool, ...]) -> tuple[Array | None, ...]:
        return g, -g if need[1] else None

    return record("sub", a - b, (input, other), pullback)


def mul(input: Any, other: Any) -> Tensor:
    """y = a ⊙ b;  ∂L/∂a = g ⊙ b, ∂L/∂b = g ⊙ a."""
    a, b = operands("mul", input, other)
    if _gates(a, b):
        return record_open("mul", a, (input, other), partial(_gate, a, b))

    def pullback(g: Array, need: tuple[bool, ...]) -> tuple[Array | None, ...]:
        return g * b if need[0] else None, g * a if need[1] else None

    return record("mul", a * b, (input, other), pullback)


def _gate(
    x: Array, s: Array, residual: Array | None, relu: bool
) -> tuple[Array, Pullback]:
    """The last pass of a product with one number for each map."""
    run = engine(x)
    y = run.gate(x, s, residual, relu)
    positive = y if relu else None

    def pullback(g: Array, need: tuple[bool, ...]) -> list[Array | None]:
        dx, ds, sent = run.gate_grad(g, x, s, positive, need)
        return [dx, ds] if residual is None else [dx, ds, sent]

    return y, pullback


def _gates(a: Any, b: Any) -> bool:
    """Whether b holds one number for each map of the images a."""
    x, s = getattr(a, "shape", ()), getattr(b, "shape", ())
    return len(x) == 4 and s == (*x[:2], 1, 1) and s != x


def div(input: Any, other: Any) -> Tensor:
    """y = a / b;  ∂L/∂a = g / b, ∂L/∂b = -g y / b."""
    a, b = operands("div", input, other)
    for x, name in ((a, "input"), (b, "other")):
        if hasattr(x, "dtype") and x.dtype.kind in "iu":
            raise no_floats("div", name, x)
    y = a / b

    def pullback(g: Array, need: tuple[bool, ...]) -> tuple[Array | None, ...]:
        return g / b if need[0] else None, -g * (y / b) if need[1] else None

    return record("div", y, (input, other), pullback)


def neg(input: Tensor) -> Tensor:
    """y = -x;  ∂L/∂x = -g."""
    return record("neg", -reals("neg", input), (input,), lambda g, need: (-g,))


def pow(input: Tensor, exponent: float) -> Tensor:
    """y = xᵖ for a number p;  ∂L/∂x = g p xᵖ⁻¹, and 0 for p = 0, whatever x is."""
    if isinstance(exponent, Tensor):  # 2**x: before the base is looked at
        _exponent(exponent.data, exponent)
    x = reals("pow", input)
    p = _exponent(x, exponent)

    def pullback(g: Array, need: tuple[bool, ...]) -> tuple[Array]:
        if p == 0:
            return (array_module(g).zeros_like(g),)
        return (g * (p * _power(x, p - 1)),)

    return record("pow", _power(x, p), (input,), pullback)


def _power(x: Array, p: float) -> Array:
    """xᵖ; NumPy takes the root for p = ½, and so must it for -½, or -inf differs."""
    y: Array = 1 / array_module(x).sqrt(x) if p == -0.5 else x**p
    return y


def _exponent(x: Array, exponent: Any) -> float:
    """The exponent as a Python number that suits x."""
    p = scalar(exponent)
    if p is None or isinstance(p, bool) or p != p:
        raise TypeError(
            f"pow: exponent must be a number, not {shown(exponent)}; of two tensors "
            "write exp(log(a) * b)"
        )
    fits_dtype("pow", p, "exponent", x.dtype)
    if x.dtype.kind in "iu" and p < 0:
        raise no_floats("pow", "input", x)
    return p


def exp(input: Tensor) -> Tensor:
    """y = eˣ;  ∂L/∂x = g y."""
    x = floats("exp", input)
    y = array_module(x).exp(x)
    return record("exp", y, (input,), lambda g, need: (g * y,))


def log(input: Tensor) -> Tensor:
    """y = ln x;  ∂L/∂x = g / x."""
    x = floats("log", input)
    return record("log", array_module(x).log(x), (input,), lambda g, need: (g / x,))


def sqrt(input: Tensor) -> Tensor:
    """y = √x;  ∂L/∂x = g / (2y)."""
    x = floats("sqrt", input)
    y = array_module(x).sqrt(x)
    return record("sqrt", y, (input,), lambda g, need: (g / (2 * y),))


def relu(input: Tensor) -> Tensor:
    """y = max(x, 0);  ∂L/∂x = 0 where x ≤ 0, else g (also where x is NaN)."""
    if (joined := joined_relu(input)) is not None:
        return joined
    x = reals("relu", input)
    run = engine(x)
    y = run.relu(x)
    return record("relu", y, (input,), lambda g, need: (run.relu_grad(g, y),))


def relu6(input: Tensor) -> Tensor:
    """y = min(max(x, 0), 6);  ∂L/∂x = g where 0 < x < 6, else 0 (also at NaN)."""
    y = reals("relu6", input).clip(0, 6)
    return record("relu6", y, (input,), lambda g, need: (kept(g, (y > 0) & (y < 6)),))


def sigmoid(input: Tensor) -> Tensor:
    """y = σ(x) = 1 / (1 + e⁻ˣ);  ∂L/∂x = g y (1 - y)."""
    x = floats("sigmoid", input)
    run = engine(x)
    y = run.sigmoid(x)
    return record("sigmoid", y, (input,), lambda g, need: (run.sigmoid_grad(g, x),))


def tanh(input: Tensor) -> Tensor:
    """y = tanh x;  ∂L/∂x = g (1 - y²) = g 4e / (1 + e)² with e = exp(-2|x|).

    In the second form nothing cancels where |y| is almost 1.
    """
    x = floats("tanh", input)
    xp = array_module(x)

    def pullback(g: Array, need: tuple[bool, ...]) -> tuple[Array]:
        e = xp.exp(-2 * abs(x))
        return (g * (4 * e / ((1 + e) * (1 + e))),)

    return record("tanh", xp.tanh(x), (input,), pullback)


def silu(input: Tensor) -> Tensor:
    """y = x σ(x);  ∂L/∂x = g σ(x) (1 + x (1 - σ(x)))."""
    x = floats("silu", input)
    s = engine(x).sigmoid(x)
    return record(
        "silu", x * s, (input,), lambda g, need: (g * (s * (1 + x * (1 - s))),)
    )


def hardswish(input: Tensor) -> Tensor:
    """y = x min(max(x + 3, 0), 6) / 6;  ∂L/∂x = g (0 | x/3 + ½ | 1).

    The three cases are x ≤ -3, between, and x ≥ 3 (Howard et al. 2019, MobileNetV3).
    """
    x = floats("hardswish", input)

    def pullback(g: Array, need: tuple[bool, ...]) -> tuple[Array]:
        xp, off = array_module(g), x <= -3
        slope = xp.where(off, 0, xp.where(x >= 3, 1, x / 3 + 0.5))
        return (kept(g, ~off) * slope,)

    return record("hardswish", x * (x + 3).clip(0, 6) / 6, (input,), pullback)
