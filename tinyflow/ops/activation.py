"""Activations, entry by entry.

Each takes a tensor of any shape and keeps its dtype; in the formulas g = ∂L/∂y. Where
x is infinite and y has a finite limit, y is that limit.
"""

from __future__ import annotations

import math

from tinyflow.backend import Array, array_module
from tinyflow.kernels.engine import engine
from tinyflow.kernels.plain import gauss, threads
from tinyflow.kernels.plain.mask import kept
from tinyflow.ops.arguments import choice, floats, number, reals
from tinyflow.tape import record
from tinyflow.tensor import Tensor
from tinyflow.waiting import joined_relu


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
    x = reals("relu6", input)
    run = engine(x)
    y = run.relu6(x)
    return record("relu6", y, (input,), lambda g, need: (run.relu6_grad(g, y),))


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
    run = engine(x)
    y = run.silu(x)
    return record("silu", y, (input,), lambda g, need: (run.silu_grad(g, x),))


def hardswish(input: Tensor) -> Tensor:
    """y = x min(max(x + 3, 0), 6) / 6;  ∂L/∂x = g (0 | x/3 + ½ | 1).

    The three cases are x ≤ -3, between, and x ≥ 3 (Howard et al. 2019, MobileNetV3).
    """
    x = floats("hardswish", input)

    def pullback(g: Array, need: tuple[bool, ...]) -> tuple[Array]:
        xp, off = array_module(g), x <= -3
        slope = xp.where(off, 0, xp.where(x >= 3, 1, x / 3 + 0.5))
        return (kept(g, ~off) * slope,)

    bounded = array_module(x).maximum(x, -3)  # -∞ · 0 is not 0
    y = bounded * (x + 3).clip(0, 6) / 6
    return record("hardswish", y, (input,), pullback)


def leaky_relu(input: Tensor, negative_slope: float = 0.01) -> Tensor:
    """y = x where x > 0, else a x;  ∂L/∂x = g where x > 0, else a g.

    a is `negative_slope`, any number (Maas et al. 2013).
    """
    x = floats("leaky_relu", input)
    a = number("leaky_relu", negative_slope, "negative_slope", -math.inf)
    where, positive = array_module(x).where, x > 0

    def pullback(g: Array, need: tuple[bool, ...]) -> tuple[Array]:
        return (where(positive, g, a * g),)

    return record("leaky_relu", where(positive, x, a * x), (input,), pullback)


def elu(input: Tensor, alpha: float = 1.0) -> Tensor:
    """y = x where x > 0, else α (eˣ - 1);  ∂L/∂x = g where x > 0, else g α eˣ.

    α is `alpha`, any number (Clevert et al. 2016).
    """
    x = floats("elu", input)
    alpha = number("elu", alpha, "alpha", -math.inf)
    xp, positive = array_module(x), x > 0

    def pullback(g: Array, need: tuple[bool, ...]) -> tuple[Array]:
        return (xp.where(positive, g, g * (alpha * xp.exp(xp.minimum(x, 0)))),)

    y = xp.where(positive, x, alpha * xp.expm1(xp.minimum(x, 0)))
    return record("elu", y, (input,), pullback)


FAR = 40
"""So far out every sigmoid is 0 or 1, and its slope 0, in float64 too."""


def gelu(input: Tensor, approximate: str = "none") -> Tensor:
    """y = x P(x);  ∂L/∂x = g (P(x) + x P'(x))  (Hendrycks & Gimpel 2016).

    Args:
        input: any tensor.
        approximate: "none": P = Φ, the normal distribution's. "tanh":
            P = ½ (1 + tanh u) = σ(2u) with u = √(2/π) (x + 0.044715 x³).
    """
    x = floats("gelu", input)
    how = choice("gelu", approximate, "approximate", ("none", "tanh"))
    part = gauss.normal if how == "none" else gauss.nearly_normal
    xp = array_module(x)

    def forward(x: Array, y: Array) -> None:
        xp.multiply(xp.maximum(x, -FAR), part(x.clip(-FAR, FAR))[0], out=y)

    def backward(g: Array, x: Array, dx: Array) -> None:
        z = x.clip(-FAR, FAR)
        p, slope = part(z)
        xp.multiply(g, p + z * slope, out=dx)

    def pullback(g: Array, need: tuple[bool, ...]) -> tuple[Array]:
        dx = xp.empty_like(x)
        threads.pointwise(backward, g, x, dx)
        return (dx,)

    y = xp.empty_like(x)
    threads.pointwise(forward, x, y)
    return record("gelu", y, (input,), pullback)


def softplus(input: Tensor, beta: float = 1.0, threshold: float = 20.0) -> Tensor:
    """y = ln(1 + e^(β x)) / β, and x where β x > `threshold`;  ∂L/∂x = g σ(β x), or g.

    β is `beta`, more than 0 (Dugas et al. 2001).
    """
    x, beta = floats("softplus", input), steepness("softplus", beta)
    threshold = number("softplus", threshold, "threshold", -math.inf)
    xp, z = array_module(x), beta * x
    straight = z > threshold
    y = (xp.maximum(z, 0) + xp.log1p(xp.exp(-abs(z)))) / beta

    def pullback(g: Array, need: tuple[bool, ...]) -> tuple[Array]:
        return (xp.where(straight, g, g * engine(z).sigmoid(z)),)

    return record("softplus", xp.where(straight, x, y), (input,), pullback)


def steepness(op: str, beta: float) -> float:
    """β, checked: it divides."""
    if (beta := number(op, beta, "beta", 0)) == 0:
        raise ValueError(f"{op}: beta must be a number above 0, not 0")
    return beta


def hardsigmoid(input: Tensor) -> Tensor:
    """y = min(max(x + 3, 0), 6) / 6;  ∂L/∂x = g / 6 where -3 < x < 3, else 0."""
    x = floats("hardsigmoid", input)

    def pullback(g: Array, need: tuple[bool, ...]) -> tuple[Array]:
        return (kept(g / 6, (x > -3) & (x < 3)),)

    return record("hardsigmoid", (x + 3).clip(0, 6) / 6, (input,), pullback)
