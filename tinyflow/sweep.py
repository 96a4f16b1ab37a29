"""The walks back along a tape: all gradients at once, or one taken apart by its paths.

The second is the graded pullback. Walking the tape backwards with one cotangent per
*total* instead of one in all gives, in a single sweep, the part of a gradient that came
along paths with each total. With the residual branches of a network as the counted
edges this is the exact path-length spectrum; with one edge and totals capped at one it
is "through" and "around".
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from tinyflow import sums
from tinyflow.backend import Array, numbers
from tinyflow.kernels.engine import engine
from tinyflow.lengths import length
from tinyflow.tensor import Edge, Node, TapeError, frozen

if TYPE_CHECKING:
    from tinyflow.tape import Tape

Total: TypeAlias = tuple[int, ...]


def gradients(
    tape: Tape, start: Node, seed: Array, release: bool, accumulate: bool
) -> None:
    """Set the gradients; see :meth:`tinyflow.tape.Tape.backward`."""
    keep_values = tape.retain in ("tensors", "edges")
    keep_edges = tape.retain == "edges"
    norms = tape.retain in ("statistics", "tensors")  # with edges kept, on demand
    lengths: dict[Node | Edge, float | Array] = {}  # read at the end, at once
    pending: dict[Node, Array] = {start: seed}
    del seed
    own: set[Node] = set()  # sums made here: the only arrays added to in place
    for index in range(start.index, -1, -1):
        node = tape.nodes.pop() if release else tape.nodes[index]
        g = pending.pop(node, None)
        own.discard(node)
        if g is not None:
            if keep_values:
                node.grad = g = frozen(g)
            if norms and node not in lengths:
                lengths[node] = length(g)
            for edge, message in reversed(tape.messages(node, g, node.need)):
                if keep_edges:
                    edge.grad = message
                there = pending.get(edge.producer)
                if norms:
                    lengths[edge] = size = length(message)
                    # A single message is the gradient, and so is its norm.
                    if there is None:
                        lengths[edge.producer] = size
                    else:
                        lengths.pop(edge.producer, None)
                if there is None:
                    pending[edge.producer] = message
                elif edge.producer in own:
                    engine(there).add(there, message, out=there)
                    pending[edge.producer] = there
                else:
                    pending[edge.producer] = engine(there).add(there, message)
                    own.add(edge.producer)
                del message, there
            del g
        if release:
            node.pullback = None
    for leaf, g in pending.items():
        if accumulate and leaf.grad is not None:
            g = engine(g).add(leaf.grad, g)
            lengths.pop(leaf, None)
        leaf.grad = frozen(g)  # two leaves may share it
        if norms and leaf not in lengths:
            lengths[leaf] = length(g)
    for part, found in zip(lengths, numbers(*lengths.values()), strict=True):
        part.norm = found


def closure(tape: Tape) -> dict[str, float]:
    """See :meth:`tinyflow.tape.Tape.closure`."""
    sizes: dict[str, tuple[float | Array, float | Array]] = {}
    for node, edges in tape.uses.items():
        total: Array | None = None
        for edge in reversed(edges):
            if edge.grad is not None:
                total = edge.grad if total is None else total + edge.grad
        if node.grad is not None and total is not None:
            sizes[node.name] = length(node.grad - total), length(node.grad)
    found = iter(numbers(*(size for pair in sizes.values() for size in pair)))
    return {
        name: missed / (size or 1.0)
        for name, missed, size in zip(sizes, found, found, strict=True)
    }


def messages(
    node: Node, g: Array, need: tuple[bool, ...], freeze: bool
) -> list[tuple[Edge, Array]]:
    """What `node` sends to each input that is needed, given its cotangent `g`.

    The one place where a message is reduced to its producer's shape. With `freeze`
    neither it nor `g` can be written to.
    """
    if node.pullback is None:
        raise TapeError(f"{node.name!r} was released by an earlier backward")
    answered = node.pullback(frozen(g) if freeze else g, need)
    if len(answered) != len(node.edges):
        raise TapeError(
            f"the pullback of {node.op!r} answered {len(answered)} messages for "
            f"{len(node.edges)} inputs"
        )
    sent = []
    for edge, needed, m in zip(node.edges, need, answered, strict=True):
        if not needed:
            continue
        if m is None:
            raise TapeError(f"{node.op!r} sent nothing to its input {edge.slot}")
        m = sum_to(
            np.asarray(m) if isinstance(m, np.generic) else m, edge.producer.shape
        )
        if m.dtype != edge.producer.dtype or m.shape != edge.producer.shape:
            raise TapeError(
                f"{node.op!r} sent {m.dtype}{m.shape} to its input {edge.slot}, "
                f"which is {edge.producer.dtype}{edge.producer.shape}"
            )
        sent.append((edge, frozen(m) if freeze else m))
    return sent


def graded(
    tape: Tape,
    start: Node,
    seed: Array,
    goal: Node,
    grade: Callable[[Edge], Total | None],
    cap: int | None,
    scale: Mapping[Edge, float],
    visit: Callable[[Node], None],
) -> dict[Total, Array]:
    """See :meth:`tinyflow.tape.Tape.graded_pullback`.

    Memory: one cotangent per total and live tensor. Cost: each operator's pullback once
    per total alive at it; for L residual blocks ≈ L²/2 branch pullbacks.
    """
    nodes = tape.nodes[: start.index + 1]
    relevant = _downstream(nodes, goal)
    steps = {e: s for n in nodes for e in n.edges if (s := grade(e)) is not None}
    zero = (0,) * len(next(iter(steps.values()), (0,)))
    pending: dict[Node, dict[Total, Array]] = {start: {zero: seed}}
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
            for edge, message in reversed(tape.messages(node, g, need)):
                if (factor := scale.get(edge, 1.0)) != 1.0:
                    message = message * factor
                step = steps.get(edge)
                at = total if step is None else _advance(total, step, cap)
                there = pending.setdefault(edge.producer, {})
                there[at] = message if at not in there else there[at] + message
    return dict(sorted(pending.get(goal, {}).items()))


def sum_to(message: Array, shape: tuple[int, ...]) -> Array:
    """The adjoint of broadcasting: add up the axes along which `shape` was repeated."""
    if message.shape == shape:
        return message
    lead = message.ndim - len(shape)
    if lead < 0:
        return message
    repeated = [
        lead + i for i, n in enumerate(shape) if n == 1 and message.shape[lead + i] != 1
    ]
    summed = sums.total(message, (*range(lead), *repeated), keepdims=True)
    result: Array = summed.reshape(summed.shape[lead:])
    return result


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
