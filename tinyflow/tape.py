"""The tape: what was computed, and every gradient message that came back.

A list in creation order with strong references; backward walks it in reverse. No
recursion, no sorting. The gradient of a tensor is the sum of its edges, always added
in the same order: :mod:`tinyflow.sweep`. The tape knows nothing of any operator: an
operator hands :func:`record` a value and a pullback.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextvars import ContextVar
from types import ModuleType
from typing import Any

import numpy as np

from tinyflow import display
from tinyflow.backend import Array, array_module
from tinyflow.graded import Total, graded
from tinyflow.names import Directory
from tinyflow.retain import EDGES, LEAVES, LEVELS, conservation
from tinyflow.seen import Seen
from tinyflow.sweep import gradients
from tinyflow.tensor import (
    Edge,
    Node,
    Pullback,
    TapeError,
    Tensor,
    frozen,
    needs_tensor,
    value,
)

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

    Raises:
        TypeError: `data` is not an array.
    """
    if not isinstance(data, np.ndarray):
        if isinstance(data, np.generic):  # NumPy hands out scalars for 0-d results
            data = np.asarray(data)
        elif not hasattr(data, "__cuda_array_interface__"):
            raise TypeError(
                f"record: the value of {op!r} must be an array, not "
                f"{type(data).__name__}; of a Tensor give its .data"
            )
    tape = _ACTIVE.get()
    if tape is None:
        return Tensor.at(data, Node(op, data, requires_grad=False))
    return tape.record(op, data, inputs, pullback)


def fusing() -> bool:
    """Whether nobody looks between operators: there is no tape, or one that fuses."""
    tape = _ACTIVE.get()
    return tape is None or tape.fuse


def mark(x: Tensor, name: str) -> Tensor:
    """Make `x` findable as ``tape["<module path>.<name>"]``; returns `x`.

    A tape that fuses keeps no marks: there the value may not exist by itself.
    """
    needs_tensor("mark", x)
    tape = _ACTIVE.get()
    if tape is not None and not tape.fuse:
        tape.names[tape.names.path(name)] = x.node
    return x


class Tape(Directory):
    """Records operators while it is active and sends gradients back through them.

    >>> from tinyflow import Tape, Tensor, fork
    >>> x = Tensor([3.0, 4.0], requires_grad=True, name="x")
    >>> with Tape(retain="edges") as tape:
    ...     left, right = fork(x, "left", "right")
    ...     loss = (left * 2 + right).sum()
    >>> tape.backward(loss)
    >>> x.grad
    array([3., 3.])
    >>> for edge in tape.edges(x):
    ...     print(edge.label, edge.grad)
    left [2. 2.]
    right [1. 1.]
    >>> tape
    Tape(retain='edges', 3 operators, last 'sum')

    Args:
        retain: what backward keeps. "leaves": gradients of leaves only (training);
            "statistics": also the norm of every gradient and every message; "tensors":
            every tensor's value and gradient; "edges": every message as well. No level
            changes a value.
        fuse: let layers put several operators into one where that saves time; what lies
            between them is then not on the tape. For training loops, with "leaves".
        check: debug mode: recorded values and messages are made read-only (NumPy), so
            that an operator which writes to an array the tape has seen fails at once.

    Whatever the options, a parameter, input or constant that is written to between
    forward and backward is noticed, by backward; with ``fuse`` or on a GPU only what an
    optimiser or a module wrote is, and between two passes backward anything (NumPy).
    """

    def __init__(
        self, retain: str = LEAVES, check: bool = False, fuse: bool = False
    ) -> None:
        if retain not in LEVELS:
            raise ValueError(f"retain must be one of {tuple(LEVELS)}, not {retain!r}")
        if fuse and retain != LEAVES:
            raise ValueError(f"fuse=True hides what retain={retain!r} asks for")
        super().__init__()
        self.retain = retain
        self.fuse = fuse
        self.check = check
        self.nodes: list[Node] = []
        self._level = LEVELS[retain]
        self._freeze = check or self._level.values
        self._watched: set[Node] = set()
        self._module: ModuleType = np
        self.released = False
        self._seen = Seen(later=fuse)
        self._tokens: list[Any] = []

    def __repr__(self) -> str:
        return display.tape(self)

    def _repr_html_(self) -> str:
        return display.recorded(self)._repr_html_()

    # --- recording -----------------------------------------------------------------

    def __enter__(self) -> Tape:
        self._tokens.append(_ACTIVE.set(self))
        return self

    def __exit__(self, *exc: object) -> None:
        _ACTIVE.reset(self._tokens.pop())

    def watch(self, x: Tensor) -> Tensor:
        """Ask for the gradient of a leaf that does not require one (the images)."""
        needs_tensor("Tape.watch", x)
        self._watched.add(x.node)
        return x

    def record(
        self, op: str, data: Array, inputs: Sequence[Any], pullback: Pullback
    ) -> Tensor:
        """See :func:`record`; on this tape, active or not."""
        if self.released:
            raise TapeError("this tape was released by backward; start a new Tape")
        node = Node(op, data, requires_grad=False)
        node.name = self.names.unique(self.names.path(op))
        if self._level.values:
            node.value = data
        if self.check and isinstance(data, np.ndarray):
            if any(value(x) is data for x in inputs):
                data = frozen(data)  # the caller's own array stays as it is
            else:
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
        node.edges = tuple(self._edge(node, *use) for use in enumerate(inputs))
        for edge, needed in zip(node.edges, node.need, strict=True):
            if needed:
                self.uses.setdefault(edge.producer, []).append(edge)
                if edge.producer.index < 0:
                    self.names.setdefault(edge.producer.name, edge.producer)
        self.nodes.append(node)
        return Tensor.at(data, node)

    def _edge(self, node: Node, slot: int, x: Any) -> Edge:
        """The use of an input by `node`; what comes from outside is noted."""
        if isinstance(x, Tensor):
            producer = x.node
            if producer.index < 0 and producer not in self._seen:
                if producer.shape != x.shape or producer.dtype != x.dtype:
                    producer.shape, producer.dtype = x.shape, x.dtype  # given new data
                    producer.grad = None
                self._seen.add(producer, x.data)
            return Edge(producer, node.index, slot, node.name, x.label)
        producer = _CONSTANT
        if getattr(x, "shape", ()):
            producer = Node("constant", x, requires_grad=False)
            producer.name = f"input {slot} of {node.name}"
            self._seen.add(producer, x)
        return Edge(producer, node.index, slot, node.name, "")

    # --- backward ------------------------------------------------------------------

    def backward(
        self,
        output: Tensor,
        cotangent: Array | Tensor | None = None,
        release: bool = False,
        accumulate: bool = False,
    ) -> None:
        """Send gradients from `output` to everything it was computed from.

        Gradients are *set*, where other libraries add: calling backward twice gives the
        same values. The gradient of a tensor is the sum of its edges, last recorded use
        first, bit for bit reproducible on a CPU. For a batch in k parts ::

            optimizer.zero_grad()
            for images, labels in parts:
                with Tape() as tape:
                    loss = cross_entropy(model(Tensor(images)), labels) * (1 / k)
                tape.backward(loss, release=True, accumulate=True)
            optimizer.step()

        Args:
            output: usually the loss.
            cotangent: ∂L/∂output, ones by default (then `output` must have one entry).
            release: drop each node, and what it saved, as soon as it is passed. The
                tape cannot be used again: this is what a training loop wants.
            accumulate: add to the gradients that leaves have already. Not where edges
                are retained, which add up to the gradient of one pass.

        Raises:
            TapeError: `output` is not on this tape, the tape was released, the
                cotangent does not fit, or a leaf was written to since it was recorded.
        """
        if accumulate and self.retain == EDGES:
            raise TapeError(
                "accumulate=True adds to gradients of other tapes, of which the edges "
                'of this one know nothing: use a Tape with another retain than "edges"'
            )
        nodes, seed = self._start(output, cotangent)
        later = release and (self.fuse or self._module is not np)
        self._seen.unchanged(None if later else nodes)
        self._forget_gradients(leaves=not accumulate)
        if release:
            self.released = True
            self._seen.forget()
            if self.retain == LEAVES:
                self.names.clear()
                self.uses.clear()
            self.nodes.clear()
        gradients(nodes, seed, self._level(), self._freeze, release)

    def pullback(
        self,
        output: Tensor | Node | str,
        cotangent: Array | Tensor | None = None,
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
        cotangent: Array | Tensor | None = None,
        *,
        to: Tensor | Node | str,
        grade: Callable[[Edge], Total | None],
        cap: int | None = None,
        scale: dict[Edge, float] | None = None,
        visit: Callable[[Node], None] = lambda node: None,
    ) -> dict[Total, Array]:
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
            visit: called with every node on the way, last one first.
        """
        nodes, seed = self._start(output, cotangent)
        goal = self.node(to)
        self._seen.unchanged(nodes[max(goal.index, 0) :])
        return graded(nodes, seed, goal, grade, cap, scale or {}, visit, self._freeze)

    # --- conservation --------------------------------------------------------------

    def closure(self) -> dict[str, float]:
        """‖g − Σ edges‖ / ‖g‖ per tensor, of what backward has retained.

        Needs retention level "edges". The sum is taken in the order of backward, so
        every entry is exactly zero unless something has touched a gradient.
        """
        if self.retain != EDGES:
            raise TapeError('conservation is checked on a Tape(retain="edges")')
        return conservation(self.uses)

    # --- helpers -------------------------------------------------------------------

    def _start(
        self, output: Tensor | Node | str, cotangent: Array | Tensor | None
    ) -> tuple[list[Node], Array]:
        """The tape up to `output`, if backward can begin there, and its cotangent."""
        if self.released:
            raise TapeError("this tape was released by backward(release=True)")
        node = self.node(output)
        nodes = self.nodes[: node.index + 1]
        if not nodes or nodes[-1] is not node:
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
            return nodes, self._module.ones(node.shape, node.dtype)
        given = value(cotangent)
        form = f"{node.dtype}{node.shape}"
        if array_module(given) is not self._module or not hasattr(given, "dtype"):
            raise TapeError(
                f"the cotangent of {node.name!r} must be an array {form} of "
                f"{self._module.__name__}, not {type(given).__name__}"
            )
        if given.shape != node.shape or given.dtype != node.dtype:
            raise TapeError(
                f"the cotangent of {node.name!r} must be {form}, "
                f"not {given.dtype}{given.shape}"
            )
        return nodes, self._module.array(given, order="K")  # a gradient may be it

    def _forget_gradients(self, leaves: bool) -> None:
        """Clear what an earlier backward left, so that unused branches hold None."""
        for node in (*self.nodes, *(self.uses if leaves else ())):
            node.grad = None
            for edge in node.edges:
                edge.grad = None


_CONSTANT = Node("constant", np.zeros(()), requires_grad=False)
