"""Signed distances of the ten silhouettes of the ``shapes`` data set.

Each function takes float32 arrays ``u``, ``v`` of shape (N, H, W), the pixel
coordinates in the silhouette's own rotated frame, and ``r`` of shape (N, 1, 1),
its radius, all in pixels. It returns float32 (N, H, W): about the distance in
pixels to the outline, negative inside. Only operations that IEEE 754 rounds
exactly are used, so that the result is the same on every machine.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

F32 = NDArray[np.float32]
Silhouette = Callable[[F32, F32, F32], F32]


def _f(value: float) -> np.float32:
    return np.float32(value)


def _length(u: F32, v: F32) -> F32:
    out: F32 = np.sqrt(u * u + v * v)
    return out


def _box(u: F32, v: F32, half_u: F32, half_v: F32) -> F32:
    out: F32 = np.maximum(np.abs(u) - half_u, np.abs(v) - half_v)
    return out


def disc(u: F32, v: F32, r: F32) -> F32:
    """Filled circle."""
    return _length(u, v) - r * _f(0.95)


def ring(u: F32, v: F32, r: F32) -> F32:
    """Circle with a round hole."""
    out: F32 = np.abs(_length(u, v) - r * _f(0.75)) - r * _f(0.23)
    return out


def square(u: F32, v: F32, r: F32) -> F32:
    """Filled square."""
    side = r * _f(0.83)
    return _box(u, v, side, side)


def frame(u: F32, v: F32, r: F32) -> F32:
    """Square with a square hole."""
    side = r * _f(0.68)
    out: F32 = np.abs(_box(u, v, side, side)) - r * _f(0.2)
    return out


def triangle(u: F32, v: F32, r: F32) -> F32:
    """Filled equilateral triangle."""
    slope = np.abs(u) * _f(0.8660254) + v * _f(0.5)
    out: F32 = np.maximum(slope, -v) - r * _f(0.58)
    return out


def cross(u: F32, v: F32, r: F32) -> F32:
    """Two bars that cross in their middles."""
    thin = r * _f(0.27)
    out: F32 = np.minimum(_box(u, v, r, thin), _box(u, v, thin, r))
    return out


def star(u: F32, v: F32, r: F32) -> F32:
    """Five-pointed star: all points inside at least four of five half-planes."""
    first: F32 = v  # largest distance so far; `second` is the runner-up
    second: F32 = np.full_like(v, -np.inf)
    for cosine, sine in (
        (0.95105652, 0.30901699),
        (-0.95105652, 0.30901699),
        (0.58778525, -0.80901699),
        (-0.58778525, -0.80901699),
    ):
        plane = u * _f(cosine) + v * _f(sine)
        second = np.maximum(second, np.minimum(first, plane))
        first = np.maximum(first, plane)
    return second - r * _f(0.37)


def crescent(u: F32, v: F32, r: F32) -> F32:
    """Disc with a disc-shaped bite at its side."""
    bite = r * _f(0.78) - _length(u - r * _f(0.48), v)
    out: F32 = np.maximum(_length(u, v) - r, bite)
    return out


def bars(u: F32, v: F32, r: F32) -> F32:
    """Three parallel bars."""
    side = np.abs(u)
    nearest = np.minimum(side, np.abs(side - r * _f(0.68)))
    out: F32 = np.maximum(nearest - r * _f(0.2), np.abs(v) - r * _f(0.85))
    return out


def corner(u: F32, v: F32, r: F32) -> F32:
    """Two bars that meet at their ends, like the letter L."""
    shift, thin, long = r * _f(0.5), r * _f(0.27), r * _f(0.8)
    upright, foot = _box(u + shift, v, thin, long), _box(u, v - shift, long, thin)
    out: F32 = np.minimum(upright, foot)
    return out


SILHOUETTES: tuple[Silhouette, ...] = (
    disc,
    ring,
    square,
    frame,
    triangle,
    cross,
    star,
    crescent,
    bars,
    corner,
)
"""The silhouette of each class, in the order of the labels."""
