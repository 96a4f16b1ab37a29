"""A gradient taken apart by its paths: the graded pullback.

Walking the tape backwards with one cotangent per *total* instead of one in all gives,
in a single sweep, the part of a gradient that came along paths with each total. With
the residual branches of a network as the counted edges this is the exact path-length
spectrum; with one edge and totals capped at one it is "through" and "around".
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeAlias

from tinyflow.backend import Array
from tinyflow.node import Edge, Node
from tinyflow.sweep import messages

Total: TypeAlias = tuple[int, ...]


def graded(
    nodes: list[Node],
    seed: Array,
    goal: Node,
    grade: Callable[[Edge], Total | None],
    cap: int | None,
    scale: Mapping[Edge, float],
    visit: Callable[[Node], None],
    freeze: bool,
) -> dict[Total, Array]:
    """See :meth:`tinyflow.tape.Tape.graded_pullback`; `nodes` end with the output.

    Memory: one cotangent per total and live tensor. Cost: each operator's pullback once
    per total alive at it; for L residual blocks ≈ L²/2 branch pullbacks.
    """
    relevant = _downstream(nodes, goal)
    steps = {e: s for n in nodes for e in n.edges if (s := grade(e)) is not None}
    zero = (0,) * len(next(iter(steps.values()), (0,)))
    pending: dict[Node, dict[Total, Array]] = {nodes[-1]: {zero: seed}}
    for node in reversed(nodes):
        if node is goal:
            break
        cotangents = pending.pop(node, None)
        if cotangents is None or node not in relevant:
            continue
        visit(node)
        need = tuple(
            wanted and edge.producer in relevant and scale.get(edge) != 0
            for wanted, edge in zip(node.need, node.edges, strict=True)
        )
        for total, g in cotangents.items():
            for edge, message in reversed(messages(node, g, need, freeze)):
                if (factor := scale.get(edge, 1.0)) != 1.0:
                    message = message * factor
                step = steps.get(edge)
                crossed = total if step is None else _advance(total, step, cap)
                there = pending.setdefault(edge.producer, {})
                there[crossed] = (
                    message if crossed not in there else there[crossed] + message
                )
    return dict(sorted(pending.get(goal, {}).items()))


def _downstream(nodes: list[Node], goal: Node) -> set[Node]:
    """`goal` and every node computed from it."""
    found = {goal}
    for node in nodes:
        if any(edge.producer in found for edge in node.edges):
            found.add(node)
    return found


def _advance(total: Total, step: Total, cap: int | None) -> Total:
    moved = tuple(a + b for a, b in zip(total, step, strict=True))
    return moved if cap is None else tuple(min(n, cap) for n in moved)
