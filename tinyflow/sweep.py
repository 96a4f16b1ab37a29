"""The walk back along a tape: from a gradient of the last node to all of them.

Nodes are passed in the order opposite to that of their making, so that all who use a
value have sent back their messages before its own turn comes. Their sum is its
gradient, and from that it answers its inputs. What of all this is kept is not the
walk's business: it shows everything to an observer, see :mod:`tinyflow.retain`.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from tinyflow import sums
from tinyflow.backend import Array
from tinyflow.node import Edge, Node, TapeError
from tinyflow.retain import Leaves
from tinyflow.tensor import frozen

add: Callable[..., Array] = np.add
"""``add(a, b, out=None)``, the one addition: :mod:`tinyflow.ops` hands in its own."""


class Arrived(dict[Node, Array]):
    """What has come back to each node so far: the sum of its messages.

    Only sums made here are added to in place: a single message may be someone else's.
    """

    def __init__(self, node: Node, g: Array) -> None:
        super().__init__({node: g})
        self._own: set[Node] = set()

    def send(self, node: Node, message: Array) -> None:
        """One more message for `node`."""
        there = self.get(node)
        if there is None:
            self[node] = message
        elif node in self._own:
            add(there, message, out=there)
        else:
            self[node] = add(there, message)
            self._own.add(node)


def gradients(
    nodes: list[Node], seed: Array, observer: Leaves, freeze: bool, release: bool
) -> None:
    """Set the gradients; see :meth:`tinyflow.tape.Tape.backward`.

    Args:
        nodes: the tape up to the output; it is emptied.
        seed: the gradient of the last of them.
        observer: is shown every gradient and every message.
        freeze: as in :func:`messages`.
        release: drop what a node has saved as soon as it is passed.
    """
    arrived = Arrived(nodes[-1], seed)
    while nodes:
        node = nodes.pop()
        g = arrived.pop(node, None)
        if g is not None:
            observer.gradient(node, g)
            for edge, message in reversed(messages(node, g, node.need, freeze)):
                observer.message(edge, message)
                arrived.send(edge.producer, message)
                del message  # so that what was added up goes at once
        if release:
            node.pullback = None
    for leaf, g in arrived.items():
        if leaf.grad is not None:  # to be added to: accumulate=True
            g = add(leaf.grad, g)
        leaf.grad = g = frozen(g)  # two leaves may share it
        observer.gradient(leaf, g)
    observer.finish()


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
