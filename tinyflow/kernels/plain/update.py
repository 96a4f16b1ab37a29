"""The optimisers' updates of one parameter, in place.

Done block by block as they lie in memory, so that a block of the parameter, its
gradient and its state stays in the cache and the only temporaries are a block long.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate
from typing import Any

import numpy as np

from tinyflow.backend import Array, array_module
from tinyflow.kernels.layout import flatten
from tinyflow.kernels.plain import threads
from tinyflow.kernels.plain.scratch import scratch

BLOCK = 1 << 15
"""Entries; a few such float32 arrays fit into a core's L2 cache."""

LONG = 1 << 17
"""Of large arrays, which pass through the cache only once: fewer calls are better."""


def sgd(
    p: Array,
    g: Array,
    b: Array | None = None,
    *,
    lr: float,
    decay: float,
    momentum: float,
    dampening: float,
    nesterov: bool,
) -> None:
    """G ← g + λ p;  b ← μ b + (1-τ) g;  p ← p - η b, or - η (g + μ b); without b, g."""
    for block in _blocks(p, g, *(() if b is None else (b,))):
        p, g, *state = block
        xp, spare = array_module(p), scratch("product", p.shape, p)
        direction = g = _with_decay(p, g, decay)
        fresh = 1 - dampening
        for b in state:
            b *= momentum
            b += g if fresh == 1 else xp.multiply(g, fresh, out=spare)
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


def rmsprop(
    p: Array,
    g: Array,
    v: Array,
    *state: Array,
    lr: float,
    alpha: float,
    eps: float,
    decay: float,
    momentum: float,
    centered: bool,
) -> None:
    """The step of :class:`tinyflow.optim.RMSprop`; `state` is m if centred, then b."""
    for block in _blocks(p, g, v, *state):
        p, g, v, *rest = block
        xp, spare = array_module(p), scratch("product", p.shape, p)
        g = _with_decay(p, g, decay)
        v *= alpha
        xp.multiply(g, g, out=spare)
        spare *= 1 - alpha
        v += spare
        if centered:
            m = rest[0]
            m *= alpha
            m += xp.multiply(g, 1 - alpha, out=spare)
            xp.multiply(m, m, out=spare)
            xp.subtract(v, spare, out=spare)
            xp.maximum(spare, 0, out=spare)
            xp.sqrt(spare, out=spare)
        else:
            xp.sqrt(v, out=spare)
        spare += eps
        xp.divide(g, spare, out=spare)
        if momentum:
            b = rest[-1]
            b *= momentum
            b += spare
            xp.multiply(b, lr, out=spare)
        else:
            spare *= lr
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
    flat = flatten(*arrays)
    if flat is not None:
        step = LONG if p.size > 2 * LONG else BLOCK
        for start in range(0, p.size, step):
            yield tuple(a[start : start + step] for a in flat)
        return
    rows = max(1, BLOCK * len(p) // p.size)  # arrays that lie differently
    for start in range(0, len(p), rows):
        yield tuple(a[start : start + rows] for a in arrays)


def divide(
    entries: Sequence[tuple[Array, ...]], work: Callable[..., object], options: Any
) -> None:
    """``work(*entry, **option)`` for each; large ones in parts shared among threads.

    Threads take about the same number of entries of all large parameters put end to
    end. Many small parameters are many short calls, which threads would not share well.
    """
    large = []
    for entry, option in zip(entries, options, strict=True):
        if entry[0].size < LONG or array_module(entry[0]) is not np:
            work(*entry, **option)
        else:
            large.append((entry, flatten(*entry), option))
    if not large:
        return
    ends = list(accumulate(entry[0].size for entry, _, _ in large))

    def part(lo: int, hi: int) -> None:
        for (entry, flat, option), end in zip(large, ends, strict=True):
            size = entry[0].size
            a, b = max(lo - end + size, 0), min(hi - end + size, size)
            if a < b and flat is not None:
                work(*(z[a:b] for z in flat), **option)
            elif a < b and a == 0:  # whole, by whoever comes to its first number
                work(*entry, **option)

    threads.divide(large[0][0][0], ends[-1], threads.WORTH, part)
