"""How the GPU computes: precision, and which algorithms are allowed.

One set of settings holds at a time, for the whole process: a command line chooses it
before the first step. :func:`settings` reads it, :func:`configure` replaces it,
:func:`configured` does so for a while.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

PRECISIONS = ("float32", "tf32", "bfloat16")
"""What the convolutions and matrix products of a training step may use.

* float32: inputs as they are, products and sums in float32, no tensor cores;
* tf32: float32 arrays whose products the tensor cores take with 10 bits of mantissa;
* bfloat16: activations and their gradients are stored as bfloat16; weights, batch
  statistics, sums, the loss and the optimiser's state stay float32.
"""

CONVOLUTIONS = ("cudnn", "plain")
"""The convolution engines, best first."""


@dataclass(frozen=True)
class Settings:
    """What a GPU may do.

    Attributes:
        precision: one of `PRECISIONS`.
        deterministic: only algorithms that give the same bits every time.
        autotune: try cuDNN's candidates for a new shape and keep the fastest; else take
            the first that its heuristics propose. A measured choice can differ from run
            to run, so `deterministic` switches it off.
        overlap: in a captured step, compute weight gradients on a second stream.
        convolutions: the engines to try, in this order; the last is "plain".
    """

    precision: str = "float32"
    deterministic: bool = False
    autotune: bool = False
    overlap: bool = True
    convolutions: tuple[str, ...] = CONVOLUTIONS

    def __post_init__(self) -> None:
        """Refuse what there is not."""
        if self.precision not in PRECISIONS:
            raise ValueError(
                f"precision {self.precision!r} is unknown; choose one of "
                f"{', '.join(PRECISIONS)}"
            )
        unknown = [e for e in self.convolutions if e not in CONVOLUTIONS]
        if unknown or self.convolutions[-1:] != ("plain",):
            raise ValueError(
                f"convolution engines are {', '.join(CONVOLUTIONS)}, the last one "
                f"plain; got {self.convolutions}"
            )

    @property
    def tunes(self) -> bool:
        """Whether candidates are timed."""
        return self.autotune and not self.deterministic


_current = Settings()


def settings() -> Settings:
    """What holds now."""
    return _current


def configure(**changes: Any) -> Settings:
    """Change some settings for the rest of the process; returns all of them.

    Raises:
        ValueError: an unknown precision or convolution engine.
    """
    global _current
    _current = replace(_current, **changes)
    return _current


@contextmanager
def configured(**changes: Any) -> Iterator[Settings]:
    """Change some settings inside the block."""
    global _current
    before = _current
    try:
        yield configure(**changes)
    finally:
        _current = before
