"""What each sample of a batch sent back, and whether the classes pull together.

With running statistics no operator of these networks mixes samples. The message on an
edge, ∂L/∂x of the mean loss L = (1/N) Σ ℓ_n, then holds in its n-th row 1/N of what
sample n sends back for its own loss,

    ∂ℓ_n/∂x_n = N (∂L/∂x)_n,

and N such rows are N backward passes of one image each. Classes *conflict* on an edge
where the sums of their samples' rows point against each other: the cosine between two
of them is below 0.

Under batch statistics every row depends on every sample: there is no such reading.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tinyflow.backend import Array, asnumpy
from tinyflow.flow.blocks import find_blocks, split
from tinyflow.flow.probe import FlowError, Probe, cosine, norm
from tinyflow.tensor import Edge, Node

Numbers = NDArray[np.float64]
COUPLING = "batch_norm"


@dataclass(frozen=True, eq=False)
class Samples:
    """One edge, sample by sample and class by class.

    Attributes:
        name: of the edge, or of block and term.
        labels: (N,), the class of each sample.
        norms: (N,), ‖∂ℓ_n/∂x_n‖.
        classes: (K,), those that occur, in order.
        means: (K,), mean of the norms of each class.
        conflict: (K, K), cosine between the sums of two classes; NaN where one is zero.
    """

    name: str
    labels: NDArray[np.int64]
    norms: Numbers
    classes: NDArray[np.int64]
    means: Numbers
    conflict: Numbers


def per_sample(
    probe: Probe, of: Edge | Node | Array, labels: ArrayLike, name: str = ""
) -> Samples:
    """Take one message apart.

    Args:
        probe: with ``training=False``, unless nothing normalises by its batch.
        of: an edge, a node or the array of a term; (N, …), a row for each sample.
        labels: (N,), those of the batch.
        name: left out, that of the edge or node.

    Raises:
        FlowError: samples are coupled, or there is no row for each.
    """
    _check_apart(probe)
    message = of.grad if isinstance(of, Edge | Node) else of
    label = np.asarray(labels)
    said = name or _name(of)
    count = len(probe.images.data)
    if label.shape != (count,):
        raise FlowError(
            f"labels are {label.shape}, the batch has {count} images: give one for each"
        )
    if message is None:
        raise FlowError(f"{said} holds no gradient: nothing was sent back along it")
    if message.ndim < 2 or len(message) != count:
        raise FlowError(
            f"{said} is {message.shape}, which is no row for each of {count} samples: "
            "take the edge of a map, not of a weight"
        )
    rows = asnumpy(message).reshape(count, -1) * float(count)
    classes, place = np.unique(label, return_inverse=True)
    norms = np.array([norm(row) for row in rows])
    sums = [rows[place == k].sum(axis=0, dtype="float64") for k in range(len(classes))]
    angles = [[cosine(a, b) for b in sums] for a in sums]
    return Samples(
        name=said,
        labels=label.astype(np.int64),
        norms=norms,
        classes=classes.astype(np.int64),
        means=np.array([norms[place == k].mean() for k in range(len(classes))]),
        conflict=np.array(angles, float).reshape(len(classes), len(classes)),
    )


def block_samples(probe: Probe, labels: ArrayLike) -> list[Samples]:
    """Every term of every block, see :func:`tinyflow.flow.split`.

    Raises:
        FlowError: samples are coupled.
    """
    _check_apart(probe)
    found: list[Samples] = []
    for block in find_blocks(probe.tape):
        terms = split(probe.tape, block)
        found += [
            per_sample(probe, term, labels, f"{block.name} {name}")
            for name, term in terms.items()
        ]
    return found


def most_opposed(found: Sequence[Samples]) -> list[tuple[str, int, int, float]]:
    """Of each edge its name, the two classes with the lowest cosine, and that."""
    answer: list[tuple[str, int, int, float]] = []
    for one in found:
        apart = np.where(np.eye(len(one.classes)) > 0, np.nan, one.conflict)
        if np.isfinite(apart).any():
            k, j = np.unravel_index(np.nanargmin(apart), apart.shape)
            first, second = sorted((int(one.classes[k]), int(one.classes[j])))
            answer.append((one.name, first, second, float(apart[k, j])))
    return answer


def _check_apart(probe: Probe) -> None:
    if probe.training and any(node.op == COUPLING for node in probe.tape.nodes):
        raise FlowError(
            "normalisation with the statistics of the batch couples its samples, none "
            "has a gradient of its own: probe with training=False (--mode eval)"
        )


def _name(of: Edge | Node | Array) -> str:
    if isinstance(of, Edge):
        return f"{of.producer.name} → {of.consumer}"
    return of.name if isinstance(of, Node) else "the array"
