"""Which code runs the operators that take the time: one table, one rule.

:class:`Engine` is the plain array code, always there, right for every dtype and on
every device, and what the others are checked against. A faster engine is a subclass
that overrides what it does better; what it does not take it hands to ``super()``.
Operators ask :func:`engine` for the one that suits an array and know nothing else.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any, TypeAlias

import numpy as np

from tinyflow.backend import Array, array_module
from tinyflow.kernels import conv, norm, pool, threads, update
from tinyflow.kernels.hooks import (
    Hooks,
    Moments,
    NormFinish,
    NormGradient,
    NormGradients,
)
from tinyflow.kernels.layout import swap

How = tuple[conv.Pair, conv.Border, conv.Pair, int]
"""Stride, padding, dilation and groups of a convolution."""

Shape = tuple[int, ...]
Entry: TypeAlias = tuple[Array, ...]
Options: TypeAlias = dict[str, Any]


SIDE_BY_SIDE = range(threads.PRODUCTS // 2, 12 * threads.PRODUCTS)
"""Multiplications of a convolution whose two gradients are best computed at once."""


class Engine(Hooks):
    """Plain array code."""

    name = "numpy"
    shares = True
    """Whether the threads of :mod:`tinyflow.kernels.threads` do its work."""

    def empty(self, shape: Shape, like: Array) -> Array:
        """A new (N, C, H, W) array in this engine's memory order, like `like`."""
        n, c, h, w = shape
        return swap(array_module(like).empty((h, w, n, c), like.dtype))

    def conv2d(self, x: Array, w: Array, how: How, bias: Array | None = None) -> Array:
        """See :func:`tinyflow.kernels.conv.conv2d_forward`; plus one bias a channel."""
        y = conv.conv2d_forward(x, w, *how)
        if bias is not None:
            y += bias.reshape(1, -1, 1, 1)
        return y

    def conv2d_input_grad(self, g: Array, w: Array, x_shape: Shape, how: How) -> Array:
        """See :func:`tinyflow.kernels.conv.conv2d_input_grad`."""
        return conv.conv2d_input_grad(g, w, x_shape, *how)

    def conv2d_weight_grad(self, g: Array, x: Array, w_shape: Shape, how: How) -> Array:
        """See :func:`tinyflow.kernels.conv.conv2d_weight_grad`."""
        return conv.conv2d_weight_grad(g, x, w_shape, *how)

    def conv2d_grads(
        self, g: Array, x: Array, w: Array, how: How, need: Sequence[bool]
    ) -> list[Array | None]:
        """Those gradients of the input and the weight that are needed, in this order.

        Small ones are computed side by side, with less ado than one after the other.
        """

        def input_grad() -> Array | None:
            return self.conv2d_input_grad(g, w, x.shape, how) if need[0] else None

        def weight_grad() -> Array | None:
            return self.conv2d_weight_grad(g, x, w.shape, how) if need[1] else None

        products = g.size * (w.size // max(w.shape[0], 1))
        if need[0] and need[1] and self.shares and products in SIDE_BY_SIDE:
            return threads.both(g, len(g), input_grad, weight_grad)
        return [input_grad(), weight_grad()]

    def batch_norm(
        self,
        x: Array,
        weight: Array | None,
        bias: Array | None,
        running: tuple[Array | None, Array | None],
        moments: Moments | None,
        *,
        training: bool,
        momentum: float,
        eps: float,
    ) -> NormFinish:
        """Batch normalisation of (N, C, H, W) up to its last pass over memory.

        Statistics are taken (or `moments` asked for them) and the running ones updated
        at once; what is returned does the rest, and may be called more than once.
        """
        m = x.size // max(x.shape[1], 1)
        running_mean, running_var = running
        if training:
            mean, var = self.moments(x) if moments is None else moments()
            if running_mean is not None:
                running_mean *= 1 - momentum
                running_mean += momentum * mean
            if running_var is not None:
                running_var *= 1 - momentum
                running_var += (momentum * m / (m - 1)) * var
        else:
            assert running_mean is not None and running_var is not None
            mean, var = running_mean.astype(x.dtype), running_var.astype(x.dtype)

        def finish(residual: Array | None, relu: bool) -> tuple[Array, NormGradient]:
            y = self.normalize_by(x, mean, var, eps, weight, bias, residual, relu)
            positive = y if relu else None

            def back(g: Array, wanted: bool) -> NormGradients:
                dbeta, dgamma, g = self.normalize_sums(g, x, mean, positive)
                inv_std = norm.gain(var, eps, None)
                dgamma, dx = dgamma * inv_std, None
                if wanted:
                    gain = inv_std if weight is None else weight * inv_std
                    slope = gain * inv_std * dgamma / m if training else 0 * gain
                    constant = mean * slope - gain * dbeta / m if training else slope
                    dx = self.normalize_input_grad(g, x, gain, -slope, constant)
                return dx, dgamma, dbeta, g

            return y, back

        return finish

    def moments(self, x: Array) -> tuple[Array, Array]:
        """See :func:`tinyflow.kernels.norm.moments`."""
        return norm.moments(x)

    def moments_into(self, x: Array, mean: Array, var: Array) -> None:
        """Write them to vectors that are there."""
        mean[...], var[...] = self.moments(x)

    def normalize(
        self,
        x: Array,
        scale: Array,
        shift: Array,
        residual: Array | None = None,
        relu: bool = False,
    ) -> Array:
        """See :func:`tinyflow.kernels.norm.normalize`."""
        return norm.normalize(x, scale, shift, residual, relu)

    def normalize_by(
        self,
        x: Array,
        mean: Array,
        var: Array,
        eps: float,
        weight: Array | None = None,
        bias: Array | None = None,
        residual: Array | None = None,
        relu: bool = False,
    ) -> Array:
        """The same with scale = γ/√(σ² + ε) and shift = β - μ scale."""
        scale = norm.gain(var, eps, weight)
        shift = (0 if bias is None else bias) - mean * scale
        return self.normalize(x, scale, shift, residual, relu)

    def normalize_sums(
        self, g: Array, x: Array, mean: Array, y: Array | None = None
    ) -> tuple[Array, Array, Array]:
        """Σ g and Σ g (x - mean) per channel, and the g they were taken of.

        With `y`, the output of a ReLU, g is first sent back through it.
        """
        return norm.gradient_sums(g, x, mean, y)

    def normalize_input_grad(
        self, g: Array, x: Array, a: Array, b: Array, c: Array
    ) -> Array:
        """See :func:`tinyflow.kernels.norm.input_grad`."""
        return norm.input_grad(g, x, a, b, c)

    def max_pool2d(self, x: Array, how: pool.How) -> tuple[Array, Array]:
        """See :func:`tinyflow.kernels.pool.max_pool2d_forward`."""
        return pool.max_pool2d_forward(x, *how)

    def max_pool2d_input_grad(
        self, g: Array, argmax: Array, x_shape: Shape, how: pool.How
    ) -> Array:
        """See :func:`tinyflow.kernels.pool.max_pool2d_input_grad`."""
        return pool.max_pool2d_input_grad(g, argmax, x_shape, *how)

    def channel_sum(self, g: Array) -> Array:
        """Σ over all but the channels of (N, C, H, W)."""
        return norm.channel_sum(g)

    def sgd(self, entries: list[Entry], options: Sequence[Options]) -> None:
        """One step of SGD on all parameters, in place.

        Args:
            entries: (parameter, gradient) or (parameter, gradient, momentum buffer).
            options: of each, the keywords of :func:`tinyflow.kernels.update.sgd`.
        """
        update.share(entries, update.sgd, options)

    def adam(self, entries: list[Entry], options: Sequence[Options]) -> None:
        """One step of Adam or AdamW on all parameters, in place.

        Args:
            entries: (parameter, gradient, m, v).
            options: of each, the keywords of :func:`tinyflow.kernels.update.adam`.
        """
        update.share(entries, update.adam, options)


PLAIN = Engine()
_forced: list[Engine] = []


def engine(x: Array) -> Engine:
    """The engine for an array like `x`.

    float32 on the CPU: the C kernels if they have been built; float32 and bfloat16 on a
    GPU: its kernels. All else, float64 above all: plain array code.
    """
    if _forced:
        return _forced[-1]
    if isinstance(x, np.ndarray):
        return _compiled() if x.dtype == np.float32 else PLAIN
    return _cuda() if x.dtype.name in ("float32", "bfloat16") else PLAIN


@contextmanager
def forced(choice: Engine) -> Iterator[None]:
    """Use `choice` for every array, to compare engines."""
    _forced.append(choice)
    try:
        yield
    finally:
        _forced.pop()


@cache
def _cuda() -> Engine:
    from tinyflow.kernels.cuda.engine import cuda_engine

    return cuda_engine()


@cache
def _compiled() -> Engine:
    from tinyflow.native.library import load  # what it imports depends on this file

    library, _ = load()
    if library is None:
        return PLAIN
    from tinyflow.native.engine import NativeEngine

    return NativeEngine(library)
