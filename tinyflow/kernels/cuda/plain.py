"""Convolution as columns and a matrix product: right for all problems, the reference.

The columns of a 3x3 convolution are nine times the image; a 1x1 convolution of stride 1
has none, its image is the matrix. Products are cuBLAS's (``@``), or while a step is
being captured, where CuPy refuses cuBLAS, those of product.cu.
"""

from __future__ import annotations

import math

from tinyflow.backend import Array, array_module
from tinyflow.kernels.cuda import launch
from tinyflow.kernels.cuda.cudnn import FORWARD, INPUT_GRAD, Device, Problem
from tinyflow.kernels.cuda.layout import stored
from tinyflow.kernels.cuda.product import product
from tinyflow.kernels.cuda.settings import Settings
from tinyflow.kernels.geometry import Window


class Plain:
    """im2col and products; every kernel size, stride, dilation and group count.

    Args:
        device: the GPU.
    """

    name = "plain"
    strided = False

    def __init__(self, device: Device) -> None:
        self.device = device

    def run(
        self, problem: Problem, first: Array, second: Array, settings: Settings
    ) -> Array:
        """The result of a problem for its two operands, a new buffer.

        With columns X (M, G, T C/G) of x, rows Y (M, G, K/G) of y and weights
        W (G, K/G, T C/G), for each of the G groups: Y = X Wᵀ, dX = G W, dW = Gᵀ X.
        Precision is that of the operands, with sums in float32.
        """
        if not math.prod(problem.y) or not math.prod(problem.x):
            return self._zeros(problem, first)
        if problem.kind == FORWARD:
            x, w = self._columns(first, problem), self._weights(second, problem)
            y = self._each([(x[:, i], w[i].T) for i in range(problem.groups)])
            return y.reshape(stored(problem.y))
        g = first if problem.kind == INPUT_GRAD else second
        rows = g.reshape(-1, problem.groups, problem.y[1] // problem.groups)
        if problem.kind == INPUT_GRAD:
            w = self._weights(second, problem)
            columns = self._each([(rows[:, i], w[i]) for i in range(problem.groups)])
            return self._image(columns, problem)
        x = self._columns(first, problem)
        parts = [
            self.product(rows[:, i].T, x[:, i]).reshape(
                problem.w[0] // problem.groups, *stored(problem.w)[1:]
            )
            for i in range(problem.groups)
        ]
        return parts[0] if len(parts) == 1 else _concatenate(parts, 0)

    def prepare(self) -> None:
        """Nothing is needed."""

    def product(self, a: Array, b: Array) -> Array:
        """The product a b of two matrices, row-major."""
        if self.device.capturing():
            return product(a, b)
        result: Array = a @ b
        return result

    def _each(self, pairs: list[tuple[Array, Array]]) -> Array:
        """The products, side by side: (M, G n)."""
        parts = [self.product(a, b) for a, b in pairs]
        return parts[0] if len(parts) == 1 else _concatenate(parts, 1)

    def _columns(self, x: Array, problem: Problem) -> Array:
        """(M, G, T C/G): what each output pixel sees, by group."""
        if _pointwise(problem):
            columns = x
        else:
            columns = launch.im2col(x, _window(problem), problem.groups)
        return columns.reshape(-1, problem.groups, math.prod(problem.w[1:]))

    def _image(self, columns: Array, problem: Problem) -> Array:
        """The columns' gradient (M, G T C/G) summed back into an image."""
        shape = stored(problem.x)
        if _pointwise(problem):
            return columns.reshape(shape)
        taps, width = math.prod(problem.w[2:]), problem.w[1]
        return launch.col2im(
            columns.reshape(-1, problem.groups, taps, width), shape, _window(problem)
        )

    def _weights(self, w: Array, problem: Problem) -> Array:
        """(G, K/G, T C/G)."""
        k = problem.w[0] // problem.groups
        return w.reshape(problem.groups, k, math.prod(problem.w[1:]))

    def _zeros(self, problem: Problem, like: Array) -> Array:
        shapes = {FORWARD: problem.y, INPUT_GRAD: problem.x}
        shape = stored(shapes.get(problem.kind, problem.w))
        zeros: Array = array_module(like).zeros(shape, like.dtype)
        return zeros


def _pointwise(problem: Problem) -> bool:
    """Whether every output pixel sees one input pixel, its own."""
    alone = problem.w[2:] == (1, 1) and problem.stride == (1, 1)
    return alone and problem.padding == (0, 0, 0, 0)


def _window(problem: Problem) -> Window:
    kernel = problem.w[2], problem.w[3]
    return Window(kernel, problem.stride, problem.padding, problem.dilation)


def _concatenate(parts: list[Array], axis: int) -> Array:
    joined: Array = array_module(*parts).concatenate(parts, axis=axis)
    return joined
