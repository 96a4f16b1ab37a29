"""The table of kernels: everything an operator leaves to faster code, in plain code.

:class:`Engine` is plain array code (:mod:`tinyflow.kernels.plain`), always there, right
for every dtype and on every device, and what the others are checked against. The engine
in C (:mod:`tinyflow.kernels.native`) and that of a GPU (:mod:`tinyflow.kernels.cuda`)
are subclasses that override what they do better; what they do not take they hand to
``super()``. Which engine an array gets: :func:`tinyflow.kernels.engine.engine`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

from tinyflow.backend import Array, array_module
from tinyflow.kernels.activations import Activations
from tinyflow.kernels.geometry import Conv, Shape, Window
from tinyflow.kernels.layout import swap
from tinyflow.kernels.plain import conv, loss, mask, norm, pool, threads, update
from tinyflow.kernels.plain.product import product
from tinyflow.sums import total

Entry: TypeAlias = tuple[Array, ...]
Options: TypeAlias = dict[str, Any]
Back: TypeAlias = Callable[[Array], Array]
"""The gradient g of an operator's value to that of its input."""

NormGradients: TypeAlias = tuple[Array | None, Array, Array, Array]
"""∂L/∂x, ∂L/∂γ, ∂L/∂β and ∂L/∂r."""

NormGradient: TypeAlias = Callable[[Array, bool], NormGradients]
"""(g, whether ∂L/∂x is wanted) to the gradients."""

NormFinish: TypeAlias = Callable[[Array | None, bool], tuple[Array, NormGradient]]
"""(residual r or None, relu) to y = γ x̂ + β + r, no less than 0 with `relu`."""

Moments: TypeAlias = Callable[[], tuple[Array, Array]]
"""Gives mean and variance (1/M) of each channel when called."""

SIDE_BY_SIDE = range(threads.PRODUCTS // 2, 12 * threads.PRODUCTS)
"""Multiplications of a convolution whose two gradients are best computed at once."""


class Engine(Activations):
    """Plain array code."""

    name = "numpy"
    shares = True
    """Whether the threads of :mod:`tinyflow.kernels.plain.threads` do its work."""

    mixed = False
    """Whether activations may be bfloat16 beside float32 parameters."""

    # --- memory ----------------------------------------------------------------------

    def empty(self, shape: Shape, like: Array) -> Array:
        """A new (N, C, H, W) array in this engine's memory order, like `like`."""
        n, c, h, w = shape
        return swap(array_module(like).empty((h, w, n, c), like.dtype))

    def store(self, x: Array) -> Array:
        """`x` in the memory order this engine reads fastest; itself if it is so."""
        return x

    def weight(self, w: Array, x: Array) -> Array:
        """The parameter `w` in the dtype in which it is multiplied with `x`."""
        return w

    def copy(self, x: Array, target: Array) -> None:
        """Write x to `target`, of the same shape and dtype."""
        target[...] = x

    def concat(self, arrays: Sequence[Array], axis: int) -> Array:
        """Arrays joined along an axis."""
        joined: Array = array_module(*arrays).concatenate(arrays, axis=axis)
        return joined

    # --- entry by entry --------------------------------------------------------------

    def add(self, a: Array, b: Array, out: Array | None = None) -> Array:
        """The sum a + b of two arrays of one shape, new or written to `out`."""
        xp = array_module(a)
        y: Array = xp.empty_like(a) if out is None else out
        threads.pointwise(lambda a, b, y: xp.add(a, b, out=y), a, b, y)
        return y

    def gate(
        self, x: Array, s: Array, residual: Array | None = None, relu: bool = False
    ) -> Array:
        """The product of x (N, C, H, W) and its gates s (N, C, 1, 1).

        Plus the residual, and no less than 0 with `relu`.
        """
        y = norm.gate(x, s)
        if residual is not None:
            y = self.add(y, residual, out=y)
        return self.relu(y) if relu else y

    def gate_grad(
        self, g: Array, x: Array, s: Array, y: Array | None, need: Sequence[bool]
    ) -> tuple[Array | None, Array | None, Array]:
        """∂L/∂x = g' s, ∂L/∂s = g' x, the latter perhaps still to be summed, and g'.

        With `y`, the output of a ReLU, g' = 0 where y ≤ 0, else g; without it g' = g.
        """
        sent = g if y is None else self.relu_grad(g, y)
        dx = norm.gate(sent, s) if need[0] else None
        return dx, norm.gate_sums(sent, x) if need[1] else None, sent

    # --- products --------------------------------------------------------------------

    def product(self, a: Array, b: Array) -> Array:
        """Matrix product a b of two 2-d arrays in any memory order."""
        return product(a, b, min(a.shape))

    def linear(self, x: Array, w: Array) -> Array:
        """The product x Wᵀ of x (M, I) and w (O, I)."""
        return self.product(x, w.T)

    def linear_input_grad(self, g: Array, w: Array) -> Array:
        """The product g W of g (M, O) and w (O, I)."""
        return self.product(g, w)

    def linear_weight_grad(self, g: Array, x: Array) -> Array:
        """The product gᵀ x of g (M, O) and x (M, I)."""
        return self.product(g.T, x)

    def bias_add(self, y: Array, b: Array) -> Array:
        """The sum y + b of y (M, C) and b (C,)."""
        result: Array = y + b
        return result

    def row_sum(self, g: Array) -> Array:
        """The sum (C,) over the rows of a matrix (M, C)."""
        return total(g, (0,))

    # --- convolution -----------------------------------------------------------------

    def conv2d(
        self, x: Array, w: Array, geometry: Conv, bias: Array | None = None
    ) -> Array:
        """See :func:`~tinyflow.kernels.plain.conv.conv2d_forward`; plus the bias."""
        y = conv.conv2d_forward(x, w, geometry)
        if bias is not None:
            y += bias.reshape(1, -1, 1, 1)
        return y

    def conv2d_input_grad(
        self, g: Array, w: Array, x_shape: Shape, geometry: Conv
    ) -> Array:
        """See :func:`~tinyflow.kernels.plain.conv.conv2d_input_grad`."""
        return conv.conv2d_input_grad(g, w, x_shape, geometry)

    def conv2d_weight_grad(
        self, g: Array, x: Array, w_shape: Shape, geometry: Conv
    ) -> Array:
        """See :func:`~tinyflow.kernels.plain.conv.conv2d_weight_grad`."""
        return conv.conv2d_weight_grad(g, x, w_shape, geometry)

    def conv2d_grads(
        self, g: Array, x: Array, w: Array, geometry: Conv, need: Sequence[bool]
    ) -> list[Array | None]:
        """Those gradients of the input and the weight that are needed, in this order.

        Small ones are computed side by side, with less ado than one after the other.
        """

        def input_grad() -> Array | None:
            return self.conv2d_input_grad(g, w, x.shape, geometry) if need[0] else None

        def weight_grad() -> Array | None:
            return self.conv2d_weight_grad(g, x, w.shape, geometry) if need[1] else None

        products = g.size * (w.size // max(w.shape[0], 1))
        if need[0] and need[1] and self.shares and products in SIDE_BY_SIDE:
            return threads.both(g, len(g), input_grad, weight_grad)
        return [input_grad(), weight_grad()]

    def channel_sum(self, g: Array) -> Array:
        """Σ over all but the channels of (N, C, H, W)."""
        return norm.channel_sum(g)

    # --- normalisation ---------------------------------------------------------------

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
        """See :func:`~tinyflow.kernels.plain.norm.moments`."""
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
        """See :func:`~tinyflow.kernels.plain.norm.normalize`."""
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
        """See :func:`~tinyflow.kernels.plain.norm.input_grad`."""
        return norm.input_grad(g, x, a, b, c)

    # --- pooling ---------------------------------------------------------------------

    def max_pool2d(self, x: Array, window: Window) -> tuple[Array, Array]:
        """See :func:`~tinyflow.kernels.plain.pool.max_pool2d_forward`."""
        return pool.max_pool2d_forward(x, window)

    def max_pool2d_input_grad(
        self, g: Array, argmax: Array, x_shape: Shape, window: Window
    ) -> Array:
        """See :func:`~tinyflow.kernels.plain.pool.max_pool2d_input_grad`."""
        return pool.max_pool2d_input_grad(g, argmax, x_shape, window)

    def avg_pool2d(
        self,
        x: Array,
        window: Window,
        count_include_pad: bool,
        divisor_override: int | None,
    ) -> Array:
        """See :func:`~tinyflow.kernels.plain.pool.avg_pool2d_forward`."""
        return pool.avg_pool2d_forward(x, window, count_include_pad, divisor_override)

    def avg_pool2d_input_grad(
        self,
        g: Array,
        x_shape: Shape,
        window: Window,
        count_include_pad: bool,
        divisor_override: int | None,
    ) -> Array:
        """See :func:`~tinyflow.kernels.plain.pool.avg_pool2d_input_grad`."""
        counted = count_include_pad, divisor_override
        return pool.avg_pool2d_input_grad(g, x_shape, window, *counted)

    def map_mean(self, x: Array) -> Array:
        """The mean (N, C) of each map of x (N, C, H, W)."""

        def whole(lo: int, hi: int) -> Array:
            means: Array = total(x, (2, 3)) / (x.shape[2] * x.shape[3])
            return means

        return threads.divide(x, 1, 1, whole, len(x))[0]  # BLAS is on one thread

    def map_mean_input_grad(self, g: Array, x_shape: Shape) -> Array:
        """Each g (N, C), divided by H W, at every pixel of its map."""
        n, c, h, w = x_shape
        spread: Array = array_module(g).broadcast_to(
            (g / max(h * w, 1)).reshape(n, c, 1, 1), x_shape
        )
        return spread

    # --- loss, dropout, optimisers ---------------------------------------------------

    def cross_entropy(
        self, x: Array, t: Array, reduction: str, label_smoothing: float
    ) -> tuple[Array, Back]:
        """See :func:`~tinyflow.kernels.plain.loss.cross_entropy`."""
        return loss.cross_entropy(x, t, reduction, label_smoothing)

    def dropout(self, x: Array, p: float, generator: Any) -> tuple[Array, Back]:
        """See :func:`~tinyflow.kernels.plain.mask.dropout`."""
        return mask.dropout(x, p, generator)

    def hits(self, logits: Array, labels: Array) -> Array:
        """How many rows have their maximum at the label, where the logits are."""
        xp = array_module(logits)
        found: Array = (logits.argmax(axis=1) == xp.asarray(labels)).sum()
        return found

    def sgd(self, entries: list[Entry], options: Sequence[Options]) -> None:
        """One step on all parameters, in place.

        Args:
            entries: (parameter, gradient) or (parameter, gradient, momentum buffer).
            options: of each, the keywords of ``plain/update.py``'s function.
        """
        update.divide(entries, update.sgd, options)

    def adam(self, entries: list[Entry], options: Sequence[Options]) -> None:
        """The same of Adam and AdamW; `entries` are (parameter, gradient, m, v)."""
        update.divide(entries, update.adam, options)

    def rmsprop(self, entries: list[Entry], options: Sequence[Options]) -> None:
        """The same; (parameter, gradient, v), m if centred, the momentum if any."""
        update.divide(entries, update.rmsprop, options)
