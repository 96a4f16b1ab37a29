"""A concatenation that grows and is never copied: the state of a dense block."""

from __future__ import annotations

from functools import partial
from itertools import accumulate, pairwise

from tinyflow.backend import Array, array_module
from tinyflow.kernels.engine import engine
from tinyflow.kernels.table import Moments
from tinyflow.tape import fusing, record
from tinyflow.tensor import Tensor


class Stacked(Tensor):
    """What a stack held when it was read; ``moments()`` are those of its channels."""

    __slots__ = ("moments",)

    moments: Moments

    @classmethod
    def of(cls, x: Tensor, moments: Moments) -> Stacked:
        """The value of `x`, its moments known."""
        stacked = cls.at(x.data, x.node, x.label)
        stacked.moments = moments
        return stacked


class ChannelStack:
    """Maps side by side along the channels, each stored once.

    Whoever reads the stack sees [x₀ | x₁ | …] as a view of one buffer, and the batch
    statistics of a map are computed once, however many layers normalise it.

    Args:
        first: x₀, (N, C₀, H, W).
        channels: of all maps that will ever be in it.
    """

    def __init__(self, first: Tensor, channels: int) -> None:
        n, _, h, w = first.shape
        x = first.data
        self._buffer = engine(x).empty((n, channels, h, w), x)
        xp = array_module(x)
        dtype = "float32" if x.dtype.name == "bfloat16" else x.dtype
        self._mean, self._var = xp.empty(channels, dtype), xp.empty(channels, dtype)
        self._measured = 0
        self._maps: list[Tensor] = []
        self._cuts = [0]
        self._whole: Tensor | None = None
        self.append(first)

    def append(self, x: Tensor) -> None:
        """Put another map behind those that are there.

        Raises:
            ValueError: there is no room for it, or it differs in more than channels.
        """
        n, _, h, w = self._buffer.shape
        start, end = self._cuts[-1], self._cuts[-1] + x.shape[1]
        if x.shape != (n, end - start, h, w) or end > self._buffer.shape[1]:
            raise ValueError(
                f"a map of shape {x.shape} does not fit behind {start} channels into a "
                f"stack of shape {self._buffer.shape}"
            )
        engine(x.data).copy(x.data, self._buffer[:, start:end])
        self._maps.append(x)
        self._cuts.append(end)
        if self._whole is None:
            self._whole = Tensor.at(self._buffer[:, :end], x.node, x.label)
        elif fusing():
            # The sum over later readers is taken once for all maps before this one.
            self._whole = _concat(self._buffer[:, :end], [self._whole, x])

    def read(self) -> Tensor:
        """[x₀ | x₁ | …], a view;  ∂L/∂xᵢ = the slice of g that xᵢ filled.

        One edge per map, every time it is read, unless the tape fuses.
        """
        end = self._cuts[-1]
        if self._whole is not None and fusing():
            whole = self._whole
        else:
            whole = _concat(self._buffer[:, :end], self._maps)
        return Stacked.of(whole, partial(self._moments, end))

    def _moments(self, end: int) -> tuple[Array, Array]:
        """Mean and variance (1/M) of the first channels; each is measured once."""
        start = self._measured
        if start < end:
            x = self._buffer[:, start:end]
            engine(x).moments_into(x, self._mean[start:end], self._var[start:end])
            self._measured = end
        return self._mean[:end], self._var[:end]


def _concat(view: Array, maps: list[Tensor]) -> Tensor:
    cuts = list(accumulate((x.shape[1] for x in maps), initial=0))

    def pullback(g: Array, need: tuple[bool, ...]) -> list[Array]:
        return [g[:, a:b] for a, b in pairwise(cuts)]

    return record("concat", view, list(maps), pullback)
