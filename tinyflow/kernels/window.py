"""Which output of a sliding window meets which input, along one axis.

Output o reads, through tap u, input ``o*stride + u*dilation - before``. A tap therefore
meets the map in one range of outputs; the rest of its outputs lie in the padding and
are never computed. A tap with no output left is dropped.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

from tinyflow.kernels.geometry import Pair, Window

Place = tuple[slice, slice]
"""Rows and columns of an (H, W, N, C) buffer."""


@dataclass(frozen=True)
class Tap:
    """Tap `index` takes inputs start, start + stride, ... to outputs lo ... hi - 1."""

    index: int
    lo: int
    hi: int
    start: int

    def source(self, stride: int) -> slice:
        """The inputs of outputs lo ... hi - 1."""
        return slice(
            self.start, self.start + (self.hi - self.lo - 1) * stride + 1, stride
        )

    @property
    def target(self) -> slice:
        """The outputs that this tap meets."""
        return slice(self.lo, self.hi)


def taps(
    size: int, out: int, kernel: int, stride: int, dilation: int, before: int
) -> list[Tap]:
    """The taps that meet a map of `size` inputs and `out` outputs, lowest shift first.

    The first tap therefore reads the earliest input of each output it meets, and no
    output beyond its last one is met by any tap.
    """
    met = []
    for u in range(kernel):
        shift = u * dilation - before
        lo = max(0, -(shift // stride))  # first o with o * stride + shift >= 0
        hi = min(out, (size - 1 - shift) // stride + 1)
        if lo < hi:
            met.append(Tap(u, lo, hi, lo * stride + shift))
    return met


def adjoint(met: list[Tap], stride: int) -> list[tuple[int, list[Tap]]]:
    """The windows of the transposed map: the same pairs, input and output exchanged.

    Input ``remainder + stride * q`` collects from outputs ``q + const``, one constant a
    tap, so the transpose of a strided window is one dense window per remainder.

    Returns:
        ``(remainder, taps)`` pairs; q counts the places of ``dx[remainder::stride]``.
    """
    exchanged = []
    for remainder, dense in phases(met, stride):
        turned = [Tap(t.index, t.start, t.start + t.hi - t.lo, t.lo) for t in dense]
        exchanged.append((remainder, turned[::-1]))
    return exchanged


def phases(met: list[Tap], stride: int) -> list[tuple[int, list[Tap]]]:
    """Split a strided window into windows of stride 1.

    Tap u of a strided window only ever reads inputs of one remainder modulo the stride,
    so the window is a sum of dense windows over the maps ``x[remainder::stride]``.

    Returns:
        ``(remainder, taps)`` pairs, the taps' starts counted in the thinned map.
    """
    split: dict[int, list[Tap]] = {}
    for tap in met:
        thinned = Tap(tap.index, tap.lo, tap.hi, tap.start // stride)
        split.setdefault(tap.start % stride, []).append(thinned)
    return list(split.items())


@dataclass(frozen=True)
class Windows:
    """Everything two axes of sliding windows need."""

    rows: list[Tap]
    cols: list[Tap]
    stride: tuple[int, int]
    out: tuple[int, int]

    def only_tap(self, size: tuple[int, ...]) -> tuple[int, int] | None:
        """The one tap that meets a map of `size`, if it takes every input to its place.

        So does a 1x1 kernel, and a 3x3 kernel on a map of one pixel.
        """
        met = []
        for taps, n, out, stride in zip(
            (self.rows, self.cols), size, self.out, self.stride, strict=True
        ):
            if len(taps) != 1 or stride != 1 or n != out:
                return None
            if (taps[0].lo, taps[0].hi, taps[0].start) != (0, n, 0):
                return None
            met.append(taps[0].index)
        return met[0], met[1]

    def part(self, lo: int, hi: int) -> Windows:
        """Those of output rows lo ... hi - 1, counted from lo."""
        if (lo, hi) == (0, self.out[0]):
            return self
        rows = []
        for tap in self.rows:
            a, b = max(tap.lo, lo), min(tap.hi, hi)
            if a < b:
                start = tap.start + (a - tap.lo) * self.stride[0]
                rows.append(Tap(tap.index, a - lo, b - lo, start))
        return Windows(rows, self.cols, self.stride, (hi - lo, self.out[1]))

    def shifts(self, height: int) -> Iterator[tuple[Tap, Tap, Place, Place]]:
        """Every (vertical tap, horizontal tap, place in y, place in x).

        In blocks of `height` output rows; within a block in the taps' scan order.
        """
        for a in range(0, self.out[0], height):
            for row in self.rows:
                lo, hi = max(row.lo, a), min(row.hi, a + height)
                if lo >= hi:
                    continue
                start = row.start + (lo - row.lo) * self.stride[0]
                part = Tap(row.index, lo, hi, start)
                for col in self.cols:
                    target = part.target, col.target
                    source = part.source(self.stride[0]), col.source(self.stride[1])
                    yield part, col, target, source


@lru_cache(maxsize=1024)
def windows(size: Pair, window: Window) -> Windows:
    """The windows over a map of `size`; the last may hang over the far edge."""
    out = window.out(size)
    kernel, stride, padding, dilation, _ = window
    rows, cols = (
        taps(size[a], out[a], kernel[a], stride[a], dilation[a], padding[2 * a])
        for a in (0, 1)
    )
    return Windows(rows, cols, stride, out)
