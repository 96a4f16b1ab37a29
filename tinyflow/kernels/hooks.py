"""What operators ask of an engine beyond the table in engine.py, in plain array code.

Each is a place where a GPU does in one kernel what array code does in several, or where
the memory order of images matters. The default is what the operators did by themselves;
a hook that answers None leaves the operator to its own code.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

from tinyflow.backend import Array, array_module
from tinyflow.kernels import norm, pool, threads
from tinyflow.kernels.mask import kept, rectified
from tinyflow.kernels.product import product
from tinyflow.kernels.scratch import zeros
from tinyflow.sums import total

NormGradient: TypeAlias = Callable[
    [Array, bool], tuple[Array | None, Array, Array, Array]
]
"""(g, whether ∂L/∂x is wanted) to ∂L/∂x, ∂L/∂γ, ∂L/∂β and ∂L/∂residual."""

Moments: TypeAlias = Callable[[], tuple[Array, Array]]
"""Gives mean and variance (1/M) of each channel when called."""


class Hooks:
    """Plain array code; see the module."""

    mixed = False
    """Whether activations may be bfloat16 beside float32 parameters."""

    # --- memory ----------------------------------------------------------------------

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

    # --- linear algebra --------------------------------------------------------------

    def relu(self, x: Array) -> Array:
        """The maximum of x and 0."""
        xp = array_module(x)
        y: Array = xp.empty_like(x)
        threads.pointwise(lambda x, y: xp.maximum(x, zeros(x), out=y), x, y)
        return y

    def relu_grad(self, g: Array, y: Array) -> Array:
        """The gradient 0 where y ≤ 0, else g."""
        dx: Array = array_module(g).empty_like(y)
        threads.pointwise(lambda g, y, dx: kept(g, rectified(y), dx), g, y, dx)
        return dx

    def add(self, a: Array, b: Array, out: Array | None = None) -> Array:
        """The sum a + b of two arrays of one shape, new or written to `out`."""
        xp = array_module(a)
        y: Array = xp.empty_like(a) if out is None else out
        threads.pointwise(lambda a, b, y: xp.add(a, b, out=y), a, b, y)
        return y

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

    # --- maps ------------------------------------------------------------------------

    def avg_pool2d(self, x: Array, how: tuple[Any, ...]) -> Array:
        """See :func:`tinyflow.kernels.pool.avg_pool2d_forward`."""
        return pool.avg_pool2d_forward(x, *how)

    def avg_pool2d_input_grad(
        self, g: Array, x_shape: tuple[int, ...], how: tuple[Any, ...]
    ) -> Array:
        """See :func:`tinyflow.kernels.pool.avg_pool2d_input_grad`."""
        return pool.avg_pool2d_input_grad(g, x_shape, *how)

    def map_mean(self, x: Array) -> Array:
        """The mean (N, C) of each map of x (N, C, H, W)."""

        def whole(lo: int, hi: int) -> Array:
            means: Array = total(x, (2, 3)) / (x.shape[2] * x.shape[3])
            return means

        return threads.share(x, 1, 1, whole, len(x))[0]  # BLAS is on one thread

    def map_mean_input_grad(self, g: Array, x_shape: tuple[int, ...]) -> Array:
        """Each g (N, C), divided by H W, at every pixel of its map."""
        n, c, h, w = x_shape
        spread: Array = array_module(g).broadcast_to(
            (g / max(h * w, 1)).reshape(n, c, 1, 1), x_shape
        )
        return spread

    def gate(self, x: Array, s: Array) -> Array:
        """The product of x (N, C, H, W) and its gates s (N, C, 1, 1)."""
        return norm.gate(x, s)

    def gate_grad(
        self, g: Array, x: Array, s: Array, need: tuple[bool, ...]
    ) -> tuple[Array | None, Array | None]:
        """∂L/∂x = g s and ∂L/∂s = g x, the latter perhaps still to be summed."""
        dx = norm.gate(g, s) if need[0] else None
        return dx, norm.gate_sums(g, x) if need[1] else None

    def sigmoid_gate(self, x: Array, z: Array, residual: Array | None) -> Array:
        """The product σ(z) x; with a residual r, max(σ(z) x + r, 0)."""
        y = self.gate(x, self.sigmoid(z))
        return y if residual is None else self.relu(self.add(y, residual))

    def sigmoid_gate_grad(
        self,
        g: Array,
        x: Array,
        z: Array,
        y: Array | None,
        need: tuple[bool, ...],
    ) -> list[Array | None]:
        """∂L/∂x = g' σ(z), ∂L/∂z = g' x σ'(z), perhaps to be summed, and ∂L/∂r = g'.

        With `y`, the output if there was a residual, g' = 0 where y ≤ 0, else g;
        without there is no r, and g' = g.
        """
        s = self.sigmoid(z)
        sent = g if y is None else self.relu_grad(g, y)
        dx, ds = self.gate_grad(sent, x, s, need)
        dz = None if ds is None else self.sigmoid_grad(ds, z)
        return [dx, dz] if y is None else [dx, dz, sent]

    def sigmoid(self, x: Array) -> Array:
        """1 / (1 + e⁻ˣ) to the last digits, without overflow.

        With e = exp(-|x|) it is 1 / (1 + e) or e / (1 + e): nothing cancels.
        """
        xp = array_module(x)
        e = xp.exp(-abs(x))
        result: Array = xp.where(x < 0, e, 1) / (1 + e)
        return result

    def sigmoid_grad(self, g: Array, x: Array) -> Array:
        """The gradient g σ(x) (1 - σ(x)) = g e / (1 + e)², to the last digits."""
        e = array_module(x).exp(-abs(x))
        result: Array = g * (e / ((1 + e) * (1 + e)))
        return result

    # --- what plain code leaves to the operator --------------------------------------

    def batch_norm(
        self,
        x: Array,
        residual: Array | None,
        weight: Array | None,
        bias: Array | None,
        running: tuple[Array | None, Array | None],
        moments: Moments | None,
        *,
        training: bool,
        momentum: float,
        eps: float,
        relu: bool,
    ) -> tuple[Array, NormGradient] | None:
        """All of :func:`tinyflow.ops.batch_norm` on (N, C, H, W): y and its pullback.

        Updates the running mean and variance in training. None: not taken.
        """
        return None

    def cross_entropy(
        self, x: Array, t: Array, reduction: str, label_smoothing: float
    ) -> tuple[Array, Callable[[Array], Array]] | None:
        """All of :func:`tinyflow.ops.cross_entropy`: L and its pullback, or None."""
        return None

    def dropout(
        self, x: Array, p: float, generator: Any
    ) -> tuple[Array, Callable[[Array], Array]] | None:
        """All of :func:`tinyflow.ops.dropout`: y and its pullback, or None."""
        return None

    def hits(self, logits: Array, labels: Array) -> Array:
        """How many rows have their maximum at the label, where the logits are."""
        xp = array_module(logits)
        found: Array = (logits.argmax(axis=1) == xp.asarray(labels)).sum()
        return found
