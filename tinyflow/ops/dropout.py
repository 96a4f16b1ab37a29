"""Dropout: entries, or whole maps, are left out at random in training."""

from __future__ import annotations

from typing import Any

from tinyflow.backend import Array, array_module
from tinyflow.kernels.engine import engine
from tinyflow.kernels.plain.mask import kept
from tinyflow.ops.arguments import flag, floats, generator_of, number
from tinyflow.tape import record
from tinyflow.tensor import Tensor


def dropout(
    input: Tensor,
    p: float = 0.5,
    training: bool = True,
    generator: Any = None,
) -> Tensor:
    """y = x / (1 - p) with probability 1 - p, else 0;  ∂L/∂x = g / (1 - p), or 0.

    Args:
        input: any tensor.
        p: probability of dropping an entry, in [0, 1].
        training: if false, y = x and nothing is recorded.
        generator: a ``numpy.random.Generator``. There is no hidden global state:
            training with p > 0 demands one. A GPU takes from it only a seed, for a
            generator of its own that counts (Salmon et al. 2011, Philox): a run can be
            repeated there, but its masks are not those of the CPU.
    """
    x, p = floats("dropout", input), number("dropout", p, "p", 0, 1)
    training = flag("dropout", training, "training") and p > 0
    if training or generator is not None:
        generator_of("dropout", generator, "generator")
    if not training:
        return input
    y, back = engine(x).dropout(x, p, generator)
    return record("dropout", y, (input,), lambda g, need: (back(g),))


def dropout2d(
    input: Tensor,
    p: float = 0.5,
    training: bool = True,
    generator: Any = None,
) -> Tensor:
    """y = x / (1 - p) for each map with probability 1 - p, else 0;  ∂L/∂x as well.

    (Tompson et al. 2015.) `input` is (N, C, H, W); the others are those of
    :func:`dropout`.
    """
    x, p = floats("dropout2d", input), number("dropout2d", p, "p", 0, 1)
    training = flag("dropout2d", training, "training") and p > 0
    if training or generator is not None:
        generator_of("dropout2d", generator, "generator")
    if x.ndim != 4:
        raise ValueError(f"dropout2d: input must be (N, C, H, W), not {x.shape}")
    if not training:
        return input
    ones = array_module(x).ones((*x.shape[:2], 1, 1), x.dtype)
    keep = engine(x).dropout(ones, p, generator)[0] > 0
    factor = 0.0 if p == 1 else 1 / (1 - p)

    def masked(z: Array) -> Array:
        return kept(z * factor, keep)

    return record("dropout2d", masked(x), (input,), lambda g, need: (masked(g),))
