"""Lengths of vectors, right wherever they can be written down.

√Σ x² is the length of x only while the squares keep their digits: those of a float32
below 10⁻¹⁹ or above 10¹⁹ are no float32. A sum of squares shows by itself whether that
can have harmed it. So it is taken plainly first, and once more in units of the largest
entry where it may have been. The unit is a power of two, which costs no digit.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import numpy as np

from tinyflow.backend import Array, array_module
from tinyflow.sums import squares

LEAST = {np.dtype("float32"): 2.0**-102, np.dtype("float64"): 2.0**-968}
"""A mean square above which nothing was lost to underflow, by precision.

Rounded or flushed to zero, a square has lost 2⁻¹²⁶ at most (2⁻¹⁰²²), which is one part
in 2²⁴ (in 2⁵⁴) of this.
"""


def trusted(found: float, size: int, dtype: Any = np.float64) -> bool:
    """Whether a sum of `size` products in `dtype` lost nothing at its range's ends."""
    least = LEAST.get(np.dtype(dtype))
    return least is not None and size * least <= abs(found) < math.inf


def exponent(x: float) -> int:
    """⌊log₂ |x|⌋; 0 where x is zero or not finite."""
    return math.frexp(x)[1] - 1 if x and math.isfinite(x) else 0


def unit_of(sizes: Iterable[float]) -> float:
    """The power of two that none of these exceeds twice; 1 if all are zero."""
    return math.ldexp(1.0, exponent(max(map(abs, sizes), default=0.0)))


def largest(array: Array) -> float:
    """The largest |x| of a NumPy array; 0 if it is empty, NaN if one is in it."""
    return abs(max(float(array.max()), -float(array.min()))) if array.size else 0.0


def square(array: Array) -> Array:
    """‖array‖₂², a single number in its dtype that stays where `array` is.

    Read in the order in which it lies in memory. It may under- or overflow where
    :func:`length` does not.
    """
    return squares(array.ravel(order="K"))


def length(array: Array) -> float | Array:
    """‖array‖₂ for any dtype; infinite only beyond float64's range.

    A single number that stays where `array` is: a float, on a GPU 0-d. float32 is added
    up as :func:`square` does. 2ᵏ x has 2ᵏ times the length of x, bit for bit, where
    both keep their digits.
    """
    flat = array.ravel(order="K")
    return _host_length(flat) if isinstance(flat, np.ndarray) else device_length(flat)


def l2_norm(array: Array) -> float:
    """‖array‖₂; on a GPU this waits for it, see :func:`length`."""
    return float(length(array))


def _host_length(flat: Array) -> float:
    with np.errstate(all="ignore"):
        wide = flat if flat.dtype in LEAST else flat.astype("float64")
        found = float(squares(wide))
        if trusted(found, wide.size, wide.dtype):
            return math.sqrt(found)
        unit = unit_of([largest(wide)])
        return unit * math.sqrt(float(squares(wide / wide.dtype.type(unit))))


def device_length(flat: Array) -> Array:
    """The :func:`length` of a vector on a GPU, 0-d, float64: nobody waits for it.

    Nothing can be looked at first, so squares are float64 always.
    """
    xp, wide = array_module(flat), flat.astype("float64")
    if flat.dtype.itemsize < 8 or not flat.size:  # their squares are in its range
        plain: Array = xp.sqrt(wide @ wide)
        return plain
    most = abs(wide).max()
    unit = xp.where((most > 0) & xp.isfinite(most), most, 1.0)
    wide = wide / unit
    found: Array = unit * xp.sqrt(wide @ wide)
    return found


def together(lengths: Iterable[float]) -> float:
    """√Σ l² of the lengths of parts: the length of the whole."""
    parts = list(lengths)
    unit = unit_of(parts)
    return unit * math.sqrt(sum((part / unit) * (part / unit) for part in parts))


def scaled(array: Array, over: float, under: float) -> Array:
    """The product array · over / under, whose quotient is below 1 and may be tiny.

    It is taken in two factors, each roughly its root, where it would lose digits: what
    is between them lies between the array and the result.
    """
    factor = over / under
    if factor >= np.finfo(array.dtype).tiny:
        return array * factor
    (a, i), (b, j) = math.frexp(over), math.frexp(under)
    half = (i - j) // 2
    found: Array = array * math.ldexp(1.0, half) * math.ldexp(a / b, i - j - half)
    return found
