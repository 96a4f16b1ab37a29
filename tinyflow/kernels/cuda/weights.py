"""The bfloat16 weights of a captured step: kept from step to step, not made in each.

An eager step rounds a float32 weight where it is used. A captured one reads a copy,
which the optimiser's kernel writes together with the parameter. Whatever else writes to
a parameter raises its version (``load_state_dict``, another optimiser, an eager step):
then the copies are made anew before the next replay. Who writes to ``p.data`` itself
has to count that, too: ``p.node.version += 1``.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Protocol

import numpy as np

from tinyflow.backend import Array, array_module


class Versioned(Protocol):
    """What counts the writes to a parameter: :class:`tinyflow.node.Node`."""

    version: int


class Parameter(Protocol):
    """What a copy can be of: :class:`tinyflow.Tensor`."""

    @property
    def data(self) -> Array:
        """The float32 values."""

    @property
    def node(self) -> Versioned:
        """Its place."""


class Copies:
    """bfloat16 copies of the parameters that one captured step multiplies with.

    They are made before the recording: memory that is given out during one may be
    written to by what was recorded earlier, in each replay.

    Args:
        parameters: all that may be asked for, frozen ones too.
        dtype: of the copies; None if there shall be none.
    """

    def __init__(self, parameters: Iterable[Parameter] = (), dtype: Any = None) -> None:
        self._parameters = list(parameters)
        self._arrays = [p.data for p in self._parameters]
        self._copies: dict[int, tuple[Array, Array]] = {}
        for w in self._arrays if dtype is not None else ():
            if w.ndim > 1 and w.dtype == np.float32 and id(w) not in self._copies:
                copy = array_module(w).empty_like(w, dtype=dtype)
                self._copies[id(w)] = w, copy
        self._seen: list[int] | None = None

    def of(self, w: Array) -> Array | None:
        """The copy of `w`, if there is one; see :meth:`refresh`."""
        return self._copies.get(id(w), (w, None))[1]

    def moved(self) -> bool:
        """Whether a parameter is another array than it was."""
        pairs = zip(self._parameters, self._arrays, strict=True)
        return any(p.data is not a for p, a in pairs)

    def refresh(self) -> None:
        """Before a replay: make the copies anew if somebody else wrote a parameter."""
        if self._seen != self._versions():
            for w, copy in self._copies.values():
                copy[...] = w

    def written(self) -> None:
        """After a replay and the count of its writes: the copies are as they should."""
        self._seen = self._versions()

    def _versions(self) -> list[int]:
        """Of everything that has a copy; without one nothing needs to be known."""
        return [p.node.version for p in self._parameters] if self._copies else []
