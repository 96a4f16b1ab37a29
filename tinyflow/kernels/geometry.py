"""How a window moves over images: one named tuple for convolution, one for pooling.

Pairs are (vertical, horizontal); padding is (top, bottom, left, right) in pixels.
"""

from __future__ import annotations

from typing import NamedTuple

Pair = tuple[int, int]
Border = tuple[int, int, int, int]
Shape = tuple[int, ...]


class Conv(NamedTuple):
    """A convolution, but for the shapes of its arrays."""

    stride: Pair = (1, 1)
    padding: Border = (0, 0, 0, 0)
    dilation: Pair = (1, 1)
    groups: int = 1

    def window(self, kernel: Pair) -> Window:
        """What a kernel of that size sees."""
        return Window(kernel, self.stride, self.padding, self.dilation)


class Window(NamedTuple):
    """The windows of a pooling; with `ceil_mode` the output's size is rounded up."""

    kernel: Pair
    stride: Pair
    padding: Border = (0, 0, 0, 0)
    dilation: Pair = (1, 1)
    ceil_mode: bool = False

    @property
    def taps(self) -> int:
        """Entries of a window."""
        return self.kernel[0] * self.kernel[1]

    def out(self, size: Shape) -> Pair:
        """Height and width of the output, for images of that height and width.

        ⌊(size + padding - dilation (kernel - 1) - 1) / stride⌋ + 1 along each axis.
        With `ceil_mode` a last window may hang over the far edge; it starts inside the
        map or the padding before it, as in PyTorch.
        """
        found = []
        for a in (0, 1):
            s, (before, after) = self.stride[a], self.padding[2 * a : 2 * a + 2]
            room = size[a] + before + after - self.dilation[a] * (self.kernel[a] - 1)
            n = (room - 1 + (s - 1 if self.ceil_mode else 0)) // s + 1
            late = self.ceil_mode and (n - 1) * s >= size[a] + before
            found.append(int(n - 1 if late else n))
        return found[0], found[1]
