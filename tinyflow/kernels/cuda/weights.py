"""The bfloat16 weights of a captured step: kept from step to step, not made in each.

An eager step rounds a float32 weight where it is used. A captured one reads a copy,
which the optimiser's kernel writes together with the parameter. Whatever else writes to
a parameter raises its version (``load_state_dict``, another optimiser, an eager step):
then the copies are made anew before the next replay. Who writes to ``p.data`` itself
has to count that, too: ``p.node.version += 1``.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

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

    Args:
        parameters: all that may be asked for, frozen ones too.
    """

    def __init__(self, parameters: Iterable[Parameter] = ()) -> None:
        self._parameters = list({id(p): p for p in parameters}.values())
        self._arrays = [p.data for p in self._parameters]
        self._known = {id(a) for a in self._arrays}
        self._copies: dict[int, tuple[Array, Array]] = {}
        self._seen: list[int] | None = None

    def copy(self, w: Array, like: Array) -> Array | None:
        """The copy of `w` in the dtype of `like`; None if `w` is no parameter.

        Where it is asked for the first time its contents are still to come, from
        :meth:`refresh`.
        """
        if id(w) not in self._known:
            return None
        if id(w) not in self._copies:
            new = array_module(w).empty_like(w, dtype=like.dtype)
            self._copies[id(w)] = w, new
        return self._copies[id(w)][1]

    def of(self, w: Array) -> Array | None:
        """The copy of `w`, if one has been asked for."""
        return self._copies.get(id(w), (w, None))[1]

    def has(self, copy: Array) -> bool:
        """Whether that is one of the copies."""
        return any(copy is known for _, known in self._copies.values())

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
