"""What is left out at random in training."""

from __future__ import annotations

from tinyflow import ops
from tinyflow.backend import array_module
from tinyflow.module import Module, Rng
from tinyflow.ops.arguments import NOT_GIVEN, number, source_of
from tinyflow.tensor import Tensor


class Dropout(Module):
    """Dropout with its own generator, see :func:`tinyflow.ops.dropout`."""

    def __init__(self, p: float = 0.5, *, rng: Rng = NOT_GIVEN) -> None:
        op = type(self).__name__
        self.p, rng = number(op, p, "p", 0, 1), source_of(op, rng)
        self.generator = None if rng is None else rng.spawn(1)[0]

    def forward(self, x: Tensor) -> Tensor:
        """Drop entries in training; the identity in evaluation."""
        return ops.dropout(x, self.p, self.training, self.generator)


class Dropout2d(Dropout):
    """Dropout of whole maps, see :func:`tinyflow.ops.dropout2d`."""

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) → the same shape."""
        return ops.dropout2d(x, self.p, self.training, self.generator)


class StochasticDepth(Module):
    """Drop a whole branch, image by image: y = b x / (1 - p), b ~ Bernoulli(1 - p).

    In evaluation y = x. Huang et al. 2016, arXiv:1603.09382, have b x in training and
    (1 - p) x in evaluation instead: 1 - p times as much in both.

    Args:
        p: probability of dropping it, in [0, 1].
        rng: where a generator of its own comes from.
    """

    def __init__(self, p: float, *, rng: Rng = NOT_GIVEN) -> None:
        op = type(self).__name__
        self.p, rng = number(op, p, "p", 0, 1), source_of(op, rng)
        self.generator = None if rng is None else rng.spawn(1)[0]

    def forward(self, x: Tensor) -> Tensor:
        """(N, …) → the same shape."""
        if not self.training or self.p == 0:
            return x
        ones = array_module(x.data).ones((len(x), *[1] * (x.ndim - 1)), x.dtype)
        return ops.mul(x, ops.dropout(Tensor(ones), self.p, True, self.generator))
