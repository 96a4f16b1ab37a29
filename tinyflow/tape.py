"""The tape: what was computed, and every gradient message that came back.

A list in creation order with strong references; backward walks it in reverse. No
recursion, no sorting. The gradient of a tensor is the sum of its edges, always added
in the same order. The tape knows nothing of any operator: an operator hands
:func:`record` a value and a pullback.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from types import ModuleType
from typing import Any

import numpy as np

from tinyflow import sweep
from tinyflow.backend import Array, array_module, numbers
from tinyflow.kernels.engine import engine
from tinyflow.tensor import Edge, Node, Pullback, TapeError, Tensor, square

LEAVES, STATISTICS, TENSORS, EDGES = "leaves", "statistics", "tensors", "edges"
RETAIN = (LEAVES, STATISTICS, TENSORS, EDGES)


_ACTIVE: ContextVar[Tape | None] = ContextVar("tinyflow_active_tape", default=None)


def active_tape() -> Tape | None:
    """The tape of the innermost ``with Tape()`` block, or None."""
    return _ACTIVE.get()


def record(op: str, data: Array, inputs: Sequence[Any], pullback: Pullback) -> Tensor:
    """Put an operator's result on the active tape, if there is one.

    Args:
        op: the operator's name.
        data: its value, an array that nobody will write to again.
        inputs: one entry per input slot; anything but a Tensor is a constant.
        pullback: see :data:`tinyflow.tensor.Pullback`. It may answer in the broadcast
            shape; the tape sums each message to its producer's shape.
    """
    if isinstance(data, np.generic):  # NumPy hands out scalars for 0-d results
        data = np.asarray(data)
    tape = _ACTIVE.get()
    if tape is None:
        return Tensor.at(data, Node(op, data, requires_grad=False))
    return tape._record(op, data, inputs, pullback)


def fusing() -> bool:
    """Whether nobody looks between operators: there is no tape, or one that fuses."""
    tape = _ACTIVE.get()
    return tape is None or tape.fuse


def mark(x: Tensor, name: str) -> Tensor:
    """Make `x` findable as ``tape["<module path>.<name>"]``; returns `x`."""
    tape = _ACTIVE.get()
    if tape is not None:
        tape.names[tape.path(name)] = x.node
    return x


class Tape:
    """Records operators while it is active and sends gradients back through them.

    ::

        with Tape(retain="edges") as tape:
            loss = cross_entropy(model(images), labels)
        tape.backward(loss)
        for edge in tape.edges("layer1.0.in"):
            print(edge.label, edge.norm)

    Args:
        retain: what backward keeps. "leaves": gradients of leaves only (training);
            "statistics": also the norm of every gradient and every message; "tensors":
            every tensor's value and gradient; "edges": every message as well. No level
            changes a value.
        fuse: let layers put several operators into one where that saves time; what lies
            between them is then not on the tape. For training loops, with "leaves".
        check: debug mode: recorded values and messages are made read-only (NumPy), so
            that an operator which writes to an array the tape has seen fails at once.
    """

    def __init__(
        self, retain: str = LEAVES, check: bool = False, fuse: bool = False
    ) -> None:
        if retain not in RETAIN:
            raise ValueError(f"retain must be one of {RETAIN}, not {retain!r}")
        if fuse and retain != LEAVES:
            raise ValueError(f"fuse=True hides what retain={retain!r} asks for")
        self.retain = retain
        self.fuse = fuse
        self.check = check
        self.nodes: list[Node] = []
        self.names: dict[str, Node] = {}
        self.uses: dict[Node, list[Edge]] = {}
        self._keeps_values = retain in (TENSORS, EDGES)
        self._watched: set[Node] = set()
        self._scope: list[str] = []
        self._counts: dict[str, int] = {}
        self._module: ModuleType = np
        self._released = False
        self._tokens: list[Any] = []

    # --- recording -----------------------------------------------------------------

    def __enter__(self) -> Tape:
        self._tokens.append(_ACTIVE.set(self))
        return self

    def __exit__(self, *exc: object) -> None:
        _ACTIVE.reset(self._tokens.pop())

    def watch(self, x: Tensor) -> Tensor:
        """Ask for the gradient of a leaf that does not require one (the images)."""
        self._watched.add(x.node)
        return x

    def path(self, name: str) -> str:
        """`name` below the path of the module being run."""
        return f"{self._scope[-1]}.{name}" if self._scope and self._scope[-1] else name

    def at_root(self) -> bool:
        """Whether no module is running."""
        return not self._scope

    @contextmanager
    def scope(self, path: str) -> Iterator[None]:
        """Names recorded inside are prefixed with `path`."""
        self._scope.append(path)
        try:
            yield
        finally:
            self._scope.pop()

    def unique(self, name: str) -> str:
        """`name`, or ``name#2``, ``name#3`` … if it has been given before."""
        count = self._counts.get(name, 0) + 1
        self._counts[name] = count
        return f"{name}#{count}" if count > 1 else name

    def _record(
        self, op: str, data: Array, inputs: Sequence[Any], pullback: Pullback
    ) -> Tensor:
        if self._released:
            raise TapeError("this tape was released by backward; start a new Tape")
        node = Node(op, data, requires_grad=False)
        node.name = self.unique(self.path(op))
        if self._keeps_values:
            node.value = data
        if self.check and isinstance(data, np.ndarray):
            data.flags.writeable = False
        node.need = tuple(
            isinstance(x, Tensor) and (x.requires_grad or x.node in self._watched)
            for x in inputs
        )
        self.names[node.name] = node
        if True not in node.need:  # a constant: there is nothing to send back
            return Tensor.at(data, node)
        if not self.nodes:
            self._module = array_module(data)
        node.requires_grad = True
        node.index = len(self.nodes)
        node.pullback = pullback
        node.edges = tuple(
            Edge(x.node, node.index, slot, node.name, x.label)
            if isinstance(x, Tensor)
            else Edge(_CONSTANT, node.index, slot, node.name, "")
            for slot, x in enumerate(inputs)
        )
        for edge, needed in zip(node.edges, node.need, strict=True):
            if needed:
                self.uses.setdefault(edge.producer, []).append(edge)
                if edge.producer.index < 0:
                    self.names.setdefault(edge.producer.name, edge.producer)
        self.nodes.append(node)
        return Tensor.at(data, node)

    # --- looking things up ---------------------------------------------------------

    def __getitem__(self, name: str) -> Node:
        """The node called `name`; a module path means that module's output."""
        try:
            return self.names[name]
        except KeyError:
            close = [n for n in self.names if name in n][:6]
            hint = f"; did you mean {', '.join(close)}?" if close else ""
            raise TapeError(f"nothing on the tape is called {name!r}{hint}") from None

    def node(self, x: Tensor | Node | str) -> Node:
        """The node of a tensor, or the one with that name."""
        if isinstance(x, str):
            return self[x]
        return x.node if isinstance(x, Tensor) else x

    def edges(self, of: Tensor | Node | str, label: str | None = None) -> list[Edge]:
        """The edges into a tensor, in the order in which they were recorded."""
        found = self.uses.get(self.node(of), [])
        return [e for e in found if label is None or e.label == label]

    def edge(self, of: Tensor | Node | str, label: str) -> Edge:
        """The one edge into `of` that carries `label`."""
        found = self.edges(of, label)
        if len(found) != 1:
            raise TapeError(
                f"{self.node(of).name!r} has {len(found)} edges labelled {label!r}, "
                "expected one; see tape.edges(...)"
            )
        return found[0]

    # --- backward ------------------------------------------------------------------

    def backward(
        self, output: Tensor, cotangent: Array | None = None, release: bool = False
    ) -> None:
        """Send gradients from `output` to everything it was computed from.

        Gradients are set, not accumulated: calling backward twice gives the same
        values. The gradient of a tensor is the sum of its edges, last recorded use
        first, bit for bit reproducible on a CPU.

        Args:
            output: usually the loss.
            cotangent: ∂L/∂output, ones by default (then `output` must have one entry).
            release: drop each node, and what it saved, as soon as it is passed. The
                tape cannot be used again: this is what a training loop wants.

        Raises:
            TapeError: `output` is not on this tape, or the tape was released.
        """
        start, seed = self._start(output, cotangent)
        keep_edges = self.retain == EDGES
        norms = self.retain in (STATISTICS, TENSORS)  # with edges kept, on demand
        self._forget_gradients()
        if release:
            self._released = True
            if self.retain == LEAVES:
                self.names.clear()
                self.uses.clear()
            del self.nodes[start.index + 1 :]
        squares: dict[Node | Edge, Array] = {}  # of norms; read at the end, at once
        pending: dict[Node, Array] = {start: seed}
        own: set[Node] = set()  # sums made here: the only arrays added to in place
        for index in range(start.index, -1, -1):
            node = self.nodes.pop() if release else self.nodes[index]
            g = pending.pop(node, None)
            own.discard(node)
            if g is not None:
                if self._keeps_values:
                    node.grad = g
                if norms and node not in squares:
                    squares[node] = square(g)
                for edge, message in reversed(self.messages(node, g, node.need)):
                    if keep_edges:
                        edge.grad = message
                    there = pending.get(edge.producer)
                    if norms:
                        squares[edge] = size = square(message)
                        # A single message is the gradient, and so is its norm.
                        if there is None:
                            squares[edge.producer] = size
                        else:
                            squares.pop(edge.producer, None)
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
            leaf.grad = g
            if norms and leaf not in squares:
                squares[leaf] = square(g)
        for part, found in zip(squares, numbers(*squares.values()), strict=True):
            part.norm = math.sqrt(found)

    def pullback(
        self,
        output: Tensor | Node | str,
        cotangent: Array | None = None,
        *,
        to: Tensor | Node | str,
        through: Iterable[Edge] | None = None,
        around: Iterable[Edge] | None = None,
        scale: dict[Edge, float] | None = None,
    ) -> Array:
        """∂⟨cotangent, output⟩/∂to, along all paths or only some of them.

        Leaves every retained gradient as it is.

        Args:
            output: where to start, any tensor on the tape.
            cotangent: in its shape and dtype; ones if `output` has a single entry.
            to: where to arrive.
            through: count only paths that cross at least one of these edges.
            around: count only paths that cross none of these edges.
            scale: multiply what crosses an edge (0 cuts it); forward stays as it was.

        Returns:
            An array in the shape of `to`; zeros if no path is left.
        """
        if through is not None and around is not None:
            raise ValueError("give through= or around=, not both")
        marked = set(through if through is not None else around or ())
        found = self.graded_pullback(
            output,
            cotangent,
            to=to,
            grade=lambda edge: (1,) if edge in marked else None,
            cap=1,
            scale=scale,
        )
        kept = found.get((1,) if through is not None else (0,))
        goal = self.node(to)
        return self._module.zeros(goal.shape, goal.dtype) if kept is None else kept

    def graded_pullback(
        self,
        output: Tensor | Node | str,
        cotangent: Array | None = None,
        *,
        to: Tensor | Node | str,
        grade: Callable[[Edge], tuple[int, ...] | None],
        cap: int | None = None,
        scale: dict[Edge, float] | None = None,
    ) -> dict[tuple[int, ...], Array]:
        """The pullback, sorted by how often each kind of edge was crossed.

        Backward is linear at fixed forward values, so the gradient of `to` is a sum
        over paths. ``grade(edge)`` says how many of each kind one crossing counts:
        (1,) for one kind, (1, 0) and (0, 1) for two, None for an ordinary edge. The
        result maps each total, e.g. (k,), to the exact sum over all paths with that
        total: one sweep, and no path is ever enumerated.

        Args:
            output: where to start, as in :meth:`pullback`.
            cotangent: of `output`.
            to: where to arrive.
            grade: the kind of an edge.
            cap: totals saturate here, which bounds the cost.
            scale: factors for some edges, as in :meth:`pullback`.
        """
        start, seed = self._start(output, cotangent)
        goal = self.node(to)
        return sweep.graded(self, start, seed, goal, grade, cap, scale or {})

    def messages(
        self, node: Node, g: Array, need: tuple[bool, ...]
    ) -> list[tuple[Edge, Array]]:
        """What `node` sends to each input that is needed, given its cotangent `g`.

        The one place where a message is reduced to its producer's shape.
        """
        if node.pullback is None:
            raise TapeError(f"{node.name!r} was released by an earlier backward")
        if self.check and isinstance(g, np.ndarray):
            g.flags.writeable = False
        answered = node.pullback(g, need)
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
            m = sweep.sum_to(
                np.asarray(m) if isinstance(m, np.generic) else m, edge.producer.shape
            )
            if m.dtype != edge.producer.dtype or m.shape != edge.producer.shape:
                raise TapeError(
                    f"{node.op!r} sent {m.dtype}{m.shape} to its input {edge.slot}, "
                    f"which is {edge.producer.dtype}{edge.producer.shape}"
                )
            if self.check and isinstance(m, np.ndarray):
                m.flags.writeable = False
            sent.append((edge, m))
        return sent

    # --- conservation --------------------------------------------------------------

    def closure(self) -> dict[str, float]:
        """‖g − Σ edges‖ / ‖g‖ per tensor, of what backward has retained.

        Needs retention level "edges". The sum is taken in the order of backward, so
        every entry is exactly zero unless something has touched a gradient.
        """
        if self.retain != EDGES:
            raise TapeError('conservation is checked on a Tape(retain="edges")')
        sizes: dict[str, tuple[Array, Array]] = {}
        for node, edges in self.uses.items():
            total: Array | None = None
            for edge in reversed(edges):
                if edge.grad is not None:
                    total = edge.grad if total is None else total + edge.grad
            if node.grad is not None and total is not None:
                sizes[node.name] = square(node.grad - total), square(node.grad)
        found = iter(numbers(*(size for pair in sizes.values() for size in pair)))
        return {
            name: math.sqrt(missed) / (math.sqrt(size) or 1.0)
            for name, missed, size in zip(sizes, found, found, strict=True)
        }

    # --- helpers -------------------------------------------------------------------

    def _start(
        self, output: Tensor | Node | str, cotangent: Array | None
    ) -> tuple[Node, Array]:
        """Check that backward can begin at `output`; its node and first cotangent."""
        if self._released:
            raise TapeError("this tape was released by backward(release=True)")
        node = self.node(output)
        if not (0 <= node.index < len(self.nodes) and self.nodes[node.index] is node):
            raise TapeError(
                f"{node.name!r} is not on this tape: compute it inside `with Tape()` "
                "from something that requires a gradient"
            )
        if cotangent is None:
            if int(np.prod(node.shape)) != 1:
                raise TapeError(
                    f"{node.name!r} has shape {node.shape}: give a cotangent of that "
                    "shape, or reduce it to a scalar first"
                )
            return node, self._module.ones(node.shape, node.dtype)
        if cotangent.shape != node.shape or cotangent.dtype != node.dtype:
            raise TapeError(
                f"the cotangent of {node.name!r} must be {node.dtype}{node.shape}, "
                f"not {cotangent.dtype}{cotangent.shape}"
            )
        return node, cotangent

    def _forget_gradients(self) -> None:
        """Clear what an earlier backward left, so that unused branches hold None."""
        for node in (*self.nodes, *self.uses):  # leaves are in uses alone
            node.grad = None
            for edge in node.edges:
                edge.grad = None


_CONSTANT = Node("constant", np.zeros(()), requires_grad=False)
