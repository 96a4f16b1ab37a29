"""What a training step that is refused takes back, and what it says."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from numpy.random import Generator

from tinyflow import Tape, Tensor, nn
from tinyflow.backend import Array, array_module
from tinyflow.module import is_array
from tinyflow.node import Node
from tinyflow.retain import TENSORS
from tinyflow.signals import deferred
from tinyflow.train.criterion import Labels, criterion


class Before:
    """A model's buffers and random state before a step."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        state = {id(a): a for a in model.held()}.values()
        buffers = [b for b in state if is_array(b)]
        self._floats = [b for b in buffers if b.dtype.kind == "f"]
        self._values = self._joined()  # one array: two calls, not two for each buffer
        self._others = [(b, b.copy()) for b in buffers if b.dtype.kind != "f"]
        self._generators = [
            (held, held.bit_generator.state)
            for held in state
            if isinstance(held, Generator)
        ]

    def _joined(self) -> Array | None:
        if not self._floats:
            return None
        flat = [b.ravel() for b in self._floats]
        joined: Array = array_module(*flat).concatenate(flat)
        return joined

    def restore(self) -> None:
        """Put them back, whatever has become of them."""
        with deferred():
            start = 0
            for buffer in self._floats:
                assert self._values is not None
                value = self._values[start : start + buffer.size]
                buffer[...] = value.reshape(buffer.shape)
                start += buffer.size
            for buffer, value in self._others:
                buffer[...] = value
            for generator, state in self._generators:
                generator.bit_generator.state = state

    def marked(self, loss: Array) -> Array:
        """The loss; NaN if a buffer is not finite: one number to wait for, not two."""
        joined = self._joined()
        return loss if joined is None else loss + 0 * joined.sum().astype(loss.dtype)

    def overflowed(self) -> str:
        """A sentence about the first buffer that is not finite; "" if all are."""
        for path, b in self.model.named_buffers():
            if bad := not_finite(b):
                return (
                    f"{path} became NaN or infinite in {bad} of {b.size} channels: the "
                    f"batch statistics of its input are beyond {b.dtype}"
                )
        return ""


def not_finite(array: Array) -> int:
    """How many entries are NaN or infinite; 0 where there can be none."""
    if array.dtype.kind not in "fV":
        return 0
    return int((~array_module(array).isfinite(array)).sum())


def _made_from(node: Node, leaves: Mapping[Node, tuple[str, Array]]) -> str:
    """By which operator a value was made, and of what values."""
    parts = []
    for producer in (edge.producer for edge in node.edges):
        name, x = leaves.get(producer, (producer.name, producer.value))
        if x is not None and x.size and x.dtype.kind in "fV":
            parts.append(f"{name} from {float(x.min()):.3g} to {float(x.max()):.3g}")
    return f" ({node.op} of {', '.join(parts)})" if parts else f" ({node.op})"


def first_bad_value(
    model: nn.Module, images: Array, labels: Labels, **options: Any
) -> str:
    """Where a step first met a number that is not finite, found by doing it again.

    The model must be as it was before the step, and is again afterwards. "" if nothing
    is found, or memory does not suffice to look.
    """
    named = [
        ("the images", images),
        *((n, p.data) for n, p in model.named_parameters()),
    ]
    for name, array in named:
        if bad := not_finite(array):
            return f"; {name} hold{'s' * (array is not images)} {bad} such values"
    before = Before(model)
    try:
        with Tape(TENSORS) as tape:
            loss = criterion(model(x := Tensor(images)), labels, **options)
        leaves = {p.node: (n, p.data) for n, p in model.named_parameters()}
        leaves[x.node] = "the images", images
        for node in tape.nodes:
            if node.value is not None and (bad := not_finite(node.value)):
                of = f"{node.value.size} of {node.name}{_made_from(node, leaves)}"
                return f"; the first such values are {bad} of {of}"
        tape.backward(loss)
        for node in reversed(tape.nodes):
            if node.grad is not None and (bad := not_finite(node.grad)):
                size = node.grad.size
                return f"; the first are {bad} of {size} in the gradient of {node.name}"
        for name, p in model.named_parameters():
            if p.grad is not None and (bad := not_finite(p.grad)):
                return f"; the first are {bad} of {p.grad.size} in that of {name}"
    except MemoryError:
        pass
    finally:
        before.restore()
    return ""
