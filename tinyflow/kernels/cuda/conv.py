"""Which code convolves on a GPU: a short table, tried from the top.

A convolver takes a :class:`~tinyflow.kernels.cuda.cudnn.Problem` and its two operands,
buffers that are channels last, or raises ``Unsupported``. Then the next one is asked,
with one warning for each problem it happens to: a slower step never passes unnoticed.
The last one, "plain", takes everything and is what the others are checked against.

An operand that is a slice of the channels of a wider buffer is passed as it lies to a
convolver that can read it so; where that one refuses, it is asked again with a copy.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any, Protocol

from tinyflow.backend import Array
from tinyflow.kernels.cuda.cudnn import (
    FORWARD,
    INPUT_GRAD,
    WEIGHT_GRAD,
    Problem,
    Unsupported,
)
from tinyflow.kernels.cuda.layout import contiguous, from_nhwc, to_nhwc, to_pixels
from tinyflow.kernels.cuda.settings import Settings, settings
from tinyflow.kernels.geometry import Conv, Shape


class Convolver(Protocol):
    """One way to convolve."""

    name: str
    strided: bool
    """Whether it reads operands with gaps; others get copies."""

    def run(
        self, problem: Problem, first: Array, second: Array, settings: Settings
    ) -> Array:
        """See :meth:`tinyflow.kernels.cuda.cudnn.Cudnn.run`."""

    def prepare(self) -> None:
        """Make what the current stream needs."""


class Convolutions:
    """The table.

    Args:
        convolvers: by name; "plain" must be among them.
        absent: why one is missing, by name: warned of once, when it would have
            been the first choice.
    """

    def __init__(
        self, convolvers: Sequence[Convolver], absent: dict[str, str] | None = None
    ) -> None:
        self.convolvers = {each.name: each for each in convolvers}
        self.absent = dict(absent or {})
        self.refusals: dict[tuple[str, Problem, Settings], str] = {}

    def prepare(self) -> None:
        """Make what the current stream needs: not while it is being captured."""
        for convolver in self.convolvers.values():
            convolver.prepare()

    def forward(self, x: Array, w: Array, geometry: Conv) -> Array:
        """The output y (N, K, H', W') of x (N, C, H, W) and w (K, C/groups, kh, kw)."""
        problem = describe(FORWARD, x.shape, w.shape, geometry, x.dtype)
        return self._run(problem, x, w)

    def input_grad(self, g: Array, w: Array, x_shape: Shape, geometry: Conv) -> Array:
        """∂L/∂x in the shape of x."""
        return self._run(
            describe(INPUT_GRAD, x_shape, w.shape, geometry, g.dtype), g, w
        )

    def weight_grad(self, g: Array, x: Array, w_shape: Shape, geometry: Conv) -> Array:
        """∂L/∂w in the shape of w."""
        return self._run(
            describe(WEIGHT_GRAD, x.shape, w_shape, geometry, g.dtype), x, g
        )

    def _run(self, problem: Problem, first: Array, second: Array) -> Array:
        now = settings()
        if not all((*problem.x, *problem.w, *problem.y)):
            buffers = to_nhwc(first), to_nhwc(second)
            return from_nhwc(self.convolvers["plain"].run(problem, *buffers, now))
        images = problem.kind == WEIGHT_GRAD  # else the second are weights
        (a, before), (b, after) = to_pixels(first), to_pixels(second, images)
        lying = problem._replace(gaps=(before, after))
        for name in now.convolutions:
            convolver = self.convolvers.get(name)
            if convolver is None:
                if name in self.absent:
                    warn(self.absent.pop(name))
                continue
            strided = convolver.strided and any(lying.gaps)
            for each in (lying, problem) if strided else (problem,):
                key = (name, each, now)
                if key in self.refusals:
                    continue
                buffers = (a, b) if each is lying else (contiguous(a), contiguous(b))
                try:
                    return from_nhwc(convolver.run(each, *buffers, now))
                except Unsupported as why:
                    self.refusals[key] = str(why)
                    slower = "a slower way does"
                    then = slower if each is problem else "it gets a copy"
                    warn(f"{name} does not take {each}: {why}; {then}")
        raise RuntimeError(f"nothing takes {problem}")  # plain always does


def describe(
    kind: str, x_shape: Shape, w_shape: Shape, geometry: Conv, dtype: Any
) -> Problem:
    """The problem with those shapes; the output's follows from them."""
    shapes = tuple(map(int, x_shape)), tuple(map(int, w_shape))
    (n, _, *size), (k, _, kh, kw) = shapes
    y_shape = n, k, *geometry.window((kh, kw)).out(tuple(size))
    stride, padding, dilation, groups = geometry
    return Problem(
        kind, *shapes, y_shape, stride, padding, dilation, groups, dtype.name
    )


def warn(sentence: str) -> None:
    """One loud sentence on stderr, at the caller of the operator."""
    warnings.warn(sentence, RuntimeWarning, stacklevel=6)
