"""Initial values of parameters."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from tinyflow.module import Rng
from tinyflow.ops.arguments import source_of
from tinyflow.tensor import Tensor


def normal(rng: Rng, shape: Iterable[int], std: float) -> Tensor:
    """A float32 parameter drawn from N(0, std²)."""
    rng = source_of("normal", rng)
    if rng is None:
        return Tensor(np.zeros(tuple(shape), np.float32), requires_grad=True)
    draw = rng.standard_normal(tuple(shape), dtype=np.float32)
    draw *= np.float32(std)
    return Tensor(draw, requires_grad=True)


def zeros(n: int | tuple[int, ...]) -> Tensor:
    """A float32 parameter of n zeros, or of that shape."""
    return Tensor(np.zeros(n, np.float32), requires_grad=True)


def ones(n: int | tuple[int, ...]) -> Tensor:
    """A float32 parameter of n ones, or of that shape."""
    return Tensor(np.ones(n, np.float32), requires_grad=True)
