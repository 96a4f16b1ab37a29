"""Arithmetic, entry by entry.

Every function takes tensors (binary ones also arrays and Python numbers), broadcasts
like NumPy, keeps its input's dtype, and works on NumPy and CuPy arrays alike. In the
formulas g = ∂L/∂y; where inputs were broadcast the tape sums the message back.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from operator import gt, lt
from typing import Any

from tinyflow.backend import Array, array_module
from tinyflow.kernels.engine import engine
from tinyflow.kernels.plain.mask import kept
from tinyflow.ops.arguments import (
    broadcast,
    fits_dtype,
    floats,
    no_floats,
    operands,
    reals,
    same_device,
    scalar,
    shown,
)
from tinyflow.tape import record
from tinyflow.tensor import Pullback, Tensor, plain_array, value
from tinyflow.waiting import joined_sum, record_open


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


def pow(input: Any, exponent: Any) -> Tensor:
    """y = aᵇ;  ∂L/∂a = g b aᵇ⁻¹, ∂L/∂b = g y ln a.

    Where b = 0, ∂L/∂a = 0 whatever a is; where a = 0 and b ≥ 0, ∂L/∂b = 0. One of the
    two may be a number; where the exponent is a tensor, tensors are floating-point.
    """
    if isinstance(exponent, Tensor) or getattr(exponent, "ndim", False):
        return _pow_of_tensors(input, exponent)
    x = reals("pow", input)
    p = _exponent(x, exponent)

    def pullback(g: Array, need: tuple[bool, ...]) -> tuple[Array]:
        if p == 0:
            return (array_module(g).zeros_like(g),)
        return (g * (p * _power(x, p - 1)),)

    return record("pow", _power(x, p), (input,), pullback)


def _pow_of_tensors(input: Any, exponent: Any) -> Tensor:
    a, b = operands("pow", input, exponent, second="exponent")
    for x, name in ((a, "input"), (b, "exponent")):
        if hasattr(x, "dtype") and x.dtype.kind in "iu":
            raise no_floats("pow", name, x)
    xp = array_module(a, b)
    y = a**b

    def pullback(g: Array, need: tuple[bool, ...]) -> tuple[Array | None, ...]:
        base, power = xp.asarray(a, b.dtype), None
        if need[0]:
            less = xp.where(b == 0, 0, b - 1)
            power = xp.where(b == 0, 0, g * (b * base**less))
        if not need[1]:
            return power, None
        flat = (base == 0) & (b >= 0)
        return power, xp.where(flat, 0, g * (y * xp.log(xp.where(flat, 1, base))))

    return record("pow", y, (input, exponent), pullback)


def _power(x: Array, p: float) -> Array:
    """xᵖ; NumPy takes the root for p = ½, and so must it for -½, or -inf differs."""
    y: Array = 1 / array_module(x).sqrt(x) if p == -0.5 else x**p
    return y


def _exponent(x: Array, exponent: Any) -> float:
    """The exponent as a Python number that suits x."""
    p = scalar(exponent)
    if p is None or isinstance(p, bool) or p != p:
        raise TypeError(
            f"pow: exponent must be a number or a Tensor, not {shown(exponent)}"
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


def abs(input: Tensor) -> Tensor:
    """y = |x|;  ∂L/∂x = g where x > 0, -g where x < 0, else 0 (also at NaN)."""
    x = reals("abs", input)
    xp = array_module(x)

    def pullback(g: Array, need: tuple[bool, ...]) -> tuple[Array]:
        return (xp.where(x < 0, -g, kept(g, x > 0)),)

    return record("abs", xp.absolute(x), (input,), pullback)


# --- choosing --------------------------------------------------------------------


def maximum(input: Any, other: Any) -> Tensor:
    """y = max(a, b);  ∂L/∂a = g where a > b, g/2 where a = b, else 0; so of b.

    A NaN is the larger one, and where there is one both get g.
    """
    return _extreme("maximum", input, other, lt)


def minimum(input: Any, other: Any) -> Tensor:
    """y = min(a, b);  ∂L/∂a = g where a < b, g/2 where a = b, else 0; so of b.

    A NaN is the smaller one, and where there is one both get g.
    """
    return _extreme("minimum", input, other, gt)


def _extreme(op: str, input: Any, other: Any, loses: Callable[..., Any]) -> Tensor:
    a, b = operands(op, input, other)
    xp = array_module(a, b)

    def pullback(g: Array, need: tuple[bool, ...]) -> tuple[Array, ...]:
        g = xp.where(a == b, g / 2, g)
        return kept(g, ~loses(a, b)), kept(g, ~loses(b, a))

    return record(op, getattr(xp, op)(a, b), (input, other), pullback)


def clamp(input: Tensor, min: float | None = None, max: float | None = None) -> Tensor:
    """y = min(max(x, low), high);  ∂L/∂x = g where low ≤ x ≤ high, else 0.

    Args:
        input: any tensor.
        min, max: low and high, numbers; without one there is no such limit. Where
            low > high, y = high. For limits that are tensors there are
            :func:`maximum` and :func:`minimum`.
    """
    x = reals("clamp", input)
    low, high = _limit("clamp", min, "min", x), _limit("clamp", max, "max", x)
    if low is None and high is None:
        raise TypeError("clamp: min or max must be given")
    xp = array_module(x)
    y = x if low is None else xp.maximum(x, low)
    y = y if high is None else xp.minimum(y, high)

    def pullback(g: Array, need: tuple[bool, ...]) -> tuple[Array]:
        if low is None:
            return (kept(g, x <= high),)
        return (kept(g, x >= low if high is None else (x >= low) & (x <= high)),)

    return record("clamp", y, (input,), pullback)


def _limit(op: str, given: Any, name: str, x: Array) -> float | None:
    """A limit that entries of x can be compared with."""
    if given is None:
        return None
    n = scalar(given)
    if n is None or isinstance(n, bool) or n != n:
        raise TypeError(
            f"{op}: {name} must be a number, not {shown(given)}; of tensors write "
            "ops.maximum, ops.minimum"
        )
    fits_dtype(op, n, name, x.dtype)
    return n


def where(condition: Any, input: Any, other: Any) -> Tensor:
    """y = a where c holds, else b;  ∂L/∂a = g where c holds, else 0, ∂L/∂b the rest.

    Args:
        condition: c, truth values: an array (what comparing tensors gives) or a list.
        input, other: a and b; all three are broadcast together.
    """
    a, b = operands("where", input, other)
    c = plain_array(value(condition), "where: condition")
    if c.dtype.kind != "b":
        raise TypeError(
            f"where: condition must be truth values, e.g. x > 0, not {shown(condition)}"
        )
    same_device("where", ("condition", "input", "other"), c, a, b)
    for x in (a, b):
        if not broadcast(c.shape, getattr(x, "shape", ())):
            raise ValueError(
                f"where: condition {c.shape} and a value {x.shape} cannot be broadcast"
            )

    def pullback(g: Array, need: tuple[bool, ...]) -> tuple[Array | None, ...]:
        return kept(g, c) if need[0] else None, kept(g, ~c) if need[1] else None

    y = array_module(c).where(c, a, b)
    return record("where", y, (input, other), pullback)
