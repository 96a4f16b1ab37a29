"""The normal distribution: Φ and its slope, and a sigmoid that is nearly the same."""

from __future__ import annotations

import math

from tinyflow.backend import Array, array_module

ERFC = (
    -1.30265371978170943, 0.64196979235649026, 0.0194764732041858363,
    -0.00956151478680863164, -0.000946595344482036866, 0.000366839497852761452,
    4.25233248069077716e-05, -2.02785781125342432e-05, -1.62429000464702551e-06,
    1.3036558355805232e-06, 1.56264417220661432e-08, -8.52380959149265425e-08,
    6.5290544390988515e-09, 5.05934349555146894e-09, -9.91364156493033087e-10,
    -2.27365122293183585e-10, 9.64679110201552679e-11, 2.39403808303911486e-12,
    -6.8860275264975535e-12, 8.94487927309072662e-13, 3.13092139934295729e-13,
    -1.12708223613672456e-13, 3.81090525518867179e-16, 7.10609761360928122e-15,
    -1.52302820145713659e-15, -9.45749457128921089e-17, 1.21023718922419796e-16,
)  # fmt: skip
"""Chebyshev coefficients of ln(erfc(z) e^(z²) / t) in 2t - 1, where t = 2 / (2 + z)."""


def normal(x: Array) -> tuple[Array, Array]:
    """Φ(x) = ½ erfc(-x/√2), to the last digits on both sides, and e^(-x²/2) / √(2π).

    For z = |x|/√2 the logarithm of erfc(z) e^(z²) / t is a smooth function of t; its
    series (Press et al. 2007, section 6.2.2) is as long as the dtype has digits for.
    """
    xp, z = array_module(x), abs(x) * math.sqrt(0.5)
    t = 2 / (2 + z)
    u = 4 * t - 2
    digits = 1e-17 if x.dtype.itemsize == 8 else 1e-9
    a: Array | float = 0.0
    b: Array | float = 0.0
    for c in reversed(
        [c for c in ERFC[1:] if abs(c) > digits]
    ):  # Clenshaw's recurrence
        a, b = u * a - b + c, a
    bell = xp.exp(-0.5 * x * x)
    tail = 0.5 * t * bell * xp.exp(0.5 * (ERFC[0] + u * a) - b)
    return xp.where(x < 0, tail, 1 - tail), bell / math.sqrt(2 * math.pi)


def nearly_normal(x: Array) -> tuple[Array, Array]:
    """½ (1 + tanh u) = σ(2u) with u = √(2/π) (x + 0.044715 x³), and its slope in x."""
    xp, scale = array_module(x), 2 * math.sqrt(2 / math.pi)
    square = x * x
    v = scale * x * (1 + 0.044715 * square)
    e = xp.exp(-abs(v))
    part = 1 / (1 + e)
    slope = scale * (1 + 3 * 0.044715 * square) * e * part * part
    return xp.where(v < 0, e, 1) * part, slope
