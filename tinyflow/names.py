"""How what is on a tape is called, and how it is found."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from tinyflow.node import Edge, Edges, Node, TapeError
from tinyflow.tensor import Tensor


class Names(dict[str, Node]):
    """The node of each name: module paths, marks, operators and leaves."""

    def __init__(self) -> None:
        super().__init__()
        self.scope: str | None = None  # the path of the module that is running
        self._counts: dict[str, int] = {}

    def path(self, name: str) -> str:
        """`name` below the path of the module that is running."""
        return f"{self.scope}.{name}" if self.scope else name

    @contextmanager
    def within(self, path: str) -> Iterator[None]:
        """The module at `path` is running."""
        outer, self.scope = self.scope, path
        try:
            yield
        finally:
            self.scope = outer

    def unique(self, name: str) -> str:
        """`name`, or ``name#2``, ``name#3`` … if it has been given before."""
        self._counts[name] = count = self._counts.get(name, 0) + 1
        return f"{name}#{count}" if count > 1 else name

    def __missing__(self, name: str) -> Node:
        close = [n for n in self if name in n][:6]
        hint = f"; did you mean {', '.join(close)}?" if close else ""
        raise TapeError(f"nothing on the tape is called {name!r}{hint}")


class Directory:
    """What a tape holds, to be found by name or by tensor.

    Attributes:
        names: the node of each name.
        uses: the edges into each node, in the order in which they were recorded.
    """

    def __init__(self) -> None:
        self.names = Names()
        self.uses: dict[Node, list[Edge]] = {}

    def _ipython_key_completions_(self) -> list[str]:
        return list(self.names)  # after tape["

    def __getitem__(self, name: str) -> Node:
        """The node called `name`; a module path means that module's output."""
        return self.names[name]

    def node(self, x: Tensor | Node | str) -> Node:
        """The node of a tensor, or the one with that name."""
        if isinstance(x, str):
            return self[x]
        return x.node if isinstance(x, Tensor) else x

    def edges(self, of: Tensor | Node | str, label: str | None = None) -> list[Edge]:
        """The edges into a tensor, in the order in which they were recorded."""
        found = self.uses.get(self.node(of), ())
        return Edges(e for e in found if label in (None, e.label))

    def edge(self, of: Tensor | Node | str, label: str) -> Edge:
        """The one edge into `of` that carries `label`."""
        found = self.edges(of, label)
        if len(found) != 1:
            raise TapeError(
                f"{self.node(of).name!r} has {len(found)} edges labelled {label!r}, "
                "expected one; see tape.edges(...)"
            )
        return found[0]
