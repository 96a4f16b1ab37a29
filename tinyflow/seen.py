"""What a tape has read from outside, so that a write to it is noticed.

Pullbacks hold parameters, inputs and constants, not copies of them. If one is written
to between forward and backward the gradient belongs neither to the old values nor to
the new ones. Two things tell: the version that optimisers and modules count up when
they write, and a checksum of the contents (NumPy), for writes by anyone else.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable

import numpy as np

from tinyflow.backend import Array
from tinyflow.node import Node, TapeError


class Seen:
    """Leaves and constants of a tape, as they were at their first use.

    Args:
        later: take checksums not at once but at the first backward that may be followed
            by another one: a training step, which has none, then pays nothing.
    """

    def __init__(self, later: bool) -> None:
        self._later = later
        self._entries: dict[Node, tuple[Array, int, int | None]] = {}

    def __contains__(self, node: Node) -> bool:
        return node in self._entries

    def add(self, node: Node, array: Array) -> None:
        """`array` is read as the value of `node`."""
        known = None if self._later else checksum(array)
        self._entries[node] = array, node.version, known

    def forget(self) -> None:
        """Let go of the arrays."""
        self._entries.clear()

    def unchanged(self, nodes: Iterable[Node] | None = None) -> None:
        """Check the contents of what `nodes` read, or for None all versions alone.

        Raises:
            TapeError: something was written to since the tape read it.
        """
        if nodes is None:
            for node, (_, version, _) in self._entries.items():
                if node.version != version:
                    raise _written(node)
            return
        for node in {edge.producer: None for n in nodes for edge in n.edges}:
            if (entry := self._entries.get(node)) is None:
                continue
            array, version, known = entry
            now = checksum(array)
            if node.version != version or known not in (None, now):
                raise _written(node)
            if known is None:
                self._entries[node] = array, version, now


def checksum(array: Array) -> int | None:
    """CRC-32 of the contents in memory order; None for an array on a GPU."""
    if not isinstance(array, np.ndarray):
        return None
    if 0 in array.strides:  # entries that are repeated count once
        once = (slice(1) if s == 0 else slice(None) for s in array.strides)
        array = array[tuple(once)]
    return zlib.crc32(array.ravel(order="K").view(np.uint8).data)


def _written(node: Node) -> TapeError:
    return TapeError(
        f"{node.name!r} was written to after this tape had read it, so that gradients "
        "would belong neither to its old values nor to its new ones: update after the "
        "last backward, or run forward again on a new Tape"
    )
