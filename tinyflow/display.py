"""How things look where they are printed, and in a notebook.

What a class says in one line (``Tensor``, ``Edge``, ``Tape``, ``SGD``) is a function
that returns text; what needs a :class:`Table` (a module, a tape, the uses of a tensor)
has a function that returns one. Nothing here computes more than a norm.
"""

from __future__ import annotations

import html
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from inspect import signature
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from tinyflow.backend import asnumpy

if TYPE_CHECKING:
    from tinyflow.module import Module
    from tinyflow.node import Edge, Node
    from tinyflow.tape import Tape
    from tinyflow.tensor import Tensor

Cell: TypeAlias = str | int | float | None
MOST = 100  # rows of a tape that are shown
SIMPLE = (bool, int, float, str)


@dataclass(frozen=True, repr=False)
class Table:
    """Rows under headings: aligned text when printed, HTML in a notebook.

    Attributes:
        title: above it.
        headings: one per column.
        rows: a cell per column; numbers are put to the right, None is left empty.
    """

    title: str
    headings: tuple[str, ...]
    rows: Sequence[tuple[Cell, ...]]

    def __repr__(self) -> str:
        written = [self.headings, *(tuple(map(_written, row)) for row in self.rows)]
        widths = [max(map(len, column)) for column in zip(*written, strict=True)]
        right = [self._numbers(i) for i in range(len(self.headings))]
        lines = [
            "  ".join(
                cell.rjust(width) if numeric else cell.ljust(width)
                for cell, width, numeric in zip(row, widths, right, strict=True)
            ).rstrip()
            for row in written
        ]
        return "\n".join([self.title, *lines])

    def _repr_html_(self) -> str:
        head = "".join(f"<th>{html.escape(h)}</th>" for h in self.headings)
        style = [
            "text-align:right" if self._numbers(i) else "text-align:left"
            for i in range(len(self.headings))
        ]
        body = "".join(
            "<tr>"
            + "".join(
                f'<td style="white-space:pre;{css}">{html.escape(_written(cell))}</td>'
                for cell, css in zip(row, style, strict=True)
            )
            + "</tr>"
            for row in self.rows
        )
        caption = f"<caption>{html.escape(self.title)}</caption>"
        return f"<table>{caption}<tr>{head}</tr>{body}</table>"

    def _numbers(self, column: int) -> bool:
        return not any(isinstance(row[column], str) for row in self.rows)


def _written(cell: Cell) -> str:
    if cell is None:
        return ""
    if isinstance(cell, str):
        return cell
    return f"{cell:,}" if isinstance(cell, int) else f"{cell:.3g}"


def options(held: Mapping[str, Any]) -> str:
    """The plain ones among attributes: ``stride=1, padding=(1, 1)``."""
    return ", ".join(
        f"{name}={value!r}"
        for name, value in held.items()
        if isinstance(value, SIMPLE)
        or (isinstance(value, tuple) and all(isinstance(v, SIMPLE) for v in value))
    )


# --- tensors and the tape -------------------------------------------------------------


def tensor(x: Tensor) -> str:
    """The array as NumPy prints it (of images only corners), shape, dtype, name."""
    edge, most = (1, 100) if x.ndim > 2 else (None, None)
    found = [
        np.array2string(
            asnumpy(x.data),
            separator=", ",
            prefix="Tensor(",
            edgeitems=edge,
            threshold=most,
        ),
        f"shape={x.shape}, dtype={x.dtype}, name={x.node.name!r}",
    ]
    if x.label:
        found.append(f"label={x.label!r}")
    if x.node.op == "leaf" and x.requires_grad:
        found.append("requires_grad=True")
    return f"Tensor({', '.join(found)})"


def node(n: Node) -> str:
    """Name, shape and dtype, and the norm of the gradient if there is one."""
    return f"Node({n.name}, shape={n.shape}, dtype={n.dtype}{_norm(n)})"


def edge(e: Edge) -> str:
    """Producer, consumer and label, and the norm of the message if there is one."""
    label = f" ({e.label})" if e.label else ""
    return f"Edge({e.producer.name} -> {e.consumer}[{e.slot}]{label}{_norm(e)})"


def _norm(measured: Node | Edge) -> str:
    return "" if measured.norm is None else f", norm={measured.norm:.4g}"


def uses(edges: Sequence[Edge]) -> Table:
    """A row per edge: who used which tensor how, and what came back."""
    return Table(
        f"{len(edges)} edges",
        ("producer", "consumer", "input", "label", "norm of the message"),
        [(e.producer.name, e.consumer, e.slot, e.label, e.norm) for e in edges],
    )


def tape(t: Tape) -> str:
    """What it retains, how much it has recorded, and the last of it."""
    last = f", last {t.nodes[-1].name!r}" if t.nodes else ""
    return f"Tape(retain={t.retain!r}, {len(t.nodes)} operators{last})"


def recorded(t: Tape) -> Table:
    """A row per operator, those in the middle left out where there are many."""
    rows: list[tuple[Cell, ...]] = [
        (n.index, n.name, n.op, str(n.shape), len(t.edges(n)), n.norm) for n in t.nodes
    ]
    if (hidden := len(rows) - MOST) > 0:
        between = (None, f"... {hidden} more: see tape.nodes", "", "", None, None)
        rows[MOST // 2 : -MOST // 2] = [between]
    headings = ("", "name", "operator", "shape", "uses", "norm of the gradient")
    return Table(tape(t), headings, rows)


# --- modules --------------------------------------------------------------------------


def module(m: Module, outputs: Mapping[str, tuple[int, ...]] | None = None) -> Table:
    """A row per module, indented as they hold each other: a tree with counts.

    Args:
        m: the root.
        outputs: shapes of what modules returned, by path; a column of them if given.
    """
    numbers = m.parameters()
    title = f"{m.name or type(m).__name__}: {_count(numbers):,} parameters"
    if frozen := _count([p for p in numbers if not p.requires_grad]):
        title += f", {frozen:,} of them frozen"
    headings = ["name", "module", "holds", "parameters"]
    rows: list[tuple[Cell, ...]] = []
    for indent, name, path, part in _tree(m):
        row: list[Cell] = ["  " * indent + name, _kind(part), _own(part)]
        row.append(_count(part.parameters()))
        if outputs is not None:
            row.append(str(outputs.get(path, "")))
        rows.append(tuple(row))
    if outputs is not None:
        headings.append("output")
    return Table(title, tuple(headings), rows)


def _tree(m: Module) -> Iterator[tuple[int, str, str, Module]]:
    """Depth, name, path and module, each module once."""
    known: set[int] = set()
    ahead = [(0, "", "", m)]
    while ahead:
        depth, name, path, part = ahead.pop()
        if id(part) in known:
            continue
        known.add(id(part))
        yield depth, name, path, part
        ahead += [
            (depth + 1, child, f"{path}.{child}" if path else child, held)
            for child, held in reversed(list(part.children()))
        ]


def _kind(part: Module) -> str:
    """Class and options, without those that are as they are by default."""
    given = signature(type(part).__init__).parameters
    usual = {name: parameter.default for name, parameter in given.items()}
    own = {
        name: held
        for name, held in vars(part).items()
        if name not in ("training", "path", "name")
        and name[0] != "_"
        and not (isinstance(held, SIMPLE) and held == usual.get(name))
    }
    return f"{type(part).__name__}({options(own)})"


def _own(part: Module) -> str:
    """What tensors and arrays a module itself holds: names by shape."""
    names: dict[tuple[int, ...], list[str]] = {}
    for name, held in part._held():
        if hasattr(held, "shape"):
            names.setdefault(tuple(held.shape), []).append(name)
    return "; ".join(f"{', '.join(found)} {shape}" for shape, found in names.items())


def _count(tensors: Sequence[Tensor]) -> int:
    return sum(math.prod(p.shape) for p in tensors)
