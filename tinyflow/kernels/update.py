"""The optimisers' updates of one parameter, in place.

Done block by block as they lie in memory, so that a block of the parameter, its
gradient and its state stays in the cache and the only temporaries are a block long.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from tinyflow.backend import Array, array_module
from tinyflow.kernels.layout import strides
from tinyflow.kernels.scratch import scratch

BLOCK = 1 << 16
"""Entries; a few such float32 arrays fit into a core's L2 cache."""


def sgd(
    p: Array,
    g: Array,
    b: Array | None,
    *,
    lr: float,
    decay: float,
    momentum: float,
    share: float,
    nesterov: bool,
) -> None:
    """G ← g + λ p;  b ← μ b + share g;  p ← p - η b, or - η (g + μ b); without b, g."""
    for block in _blocks(p, g, *(() if b is None else (b,))):
        p, g, *state = block
        xp, spare = array_module(p), scratch("product", p.shape, p)
        direction = g = _with_decay(p, g, decay)
        for b in state:
            b *= momentum
            b += g if share == 1 else xp.multiply(g, share, out=spare)
            direction = b
            if nesterov:
                direction = xp.multiply(b, momentum, out=spare)
                direction += g
        p -= xp.multiply(direction, lr, out=spare)


def adam(
    p: Array,
    g: Array,
    m: Array,
    v: Array,
    *,
    step: int,
    lr: float,
    betas: tuple[float, float],
    eps: float,
    decay: float,
    shrink: float,
) -> None:
    """P ← shrink p;  g ← g + λ p;  then the step of :class:`tinyflow.optim.Adam`."""
    beta1, beta2 = betas
    for block in _blocks(p, g, m, v):
        p, g, m, v = block
        xp, spare = array_module(p), scratch("product", p.shape, p)
        if shrink != 1:
            p *= shrink
        g = _with_decay(p, g, decay)
        m *= beta1
        m += xp.multiply(g, 1 - beta1, out=spare)
        v *= beta2
        xp.multiply(g, g, out=spare)
        spare *= 1 - beta2
        v += spare
        xp.sqrt(v, out=spare)
        spare /= math.sqrt(1 - beta2**step)
        spare += eps
        xp.divide(m, spare, out=spare)
        spare *= lr / (1 - beta1**step)
        p -= spare


def _with_decay(p: Array, g: Array, decay: float) -> Array:
    """The sum g + λ p in a scratch array; `g` itself if λ = 0."""
    if decay == 0:
        return g
    decayed = scratch("total", p.shape, p)
    array_module(p).multiply(p, decay, out=decayed)
    decayed += g
    return decayed


def _blocks(*arrays: Array) -> Iterator[tuple[Array, ...]]:
    """The same entries of every array, views of about BLOCK entries; all on a GPU."""
    p = arrays[0]
    if p.size <= BLOCK or array_module(p) is not np:
        yield arrays
        return
    flat = [a.ravel(order="K") for a in arrays]
    alike = all(strides(a) == strides(p) for a in arrays)
    if alike and np.may_share_memory(flat[0], p):
        for start in range(0, p.size, BLOCK):
            yield tuple(a[start : start + BLOCK] for a in flat)
        return
    rows = max(1, BLOCK * len(p) // p.size)  # arrays that lie differently
    for start in range(0, len(p), rows):
        yield tuple(a[start : start + rows] for a in arrays)
