"""The gradient as a function of how much a branch sends back: exactly, from one sweep.

Backward is linear at fixed forward values. With f times the message on some edges a
gradient is therefore a polynomial in f,

    g(f) = Σ_k fᵏ c_k,        c_k: what came along paths that cross exactly k of them,

and its length, its angle to g = g(1) and its distance from it follow from the Gram
matrix G_kl = ⟨c_k, c_l⟩ for every f at once:

    ‖g(f)‖² = Σ_kl fᵏ fˡ G_kl.

One branch of one block is crossed once or not at all: ‖g(f)‖² = a + 2 b f + c f². So a
dial turns without another backward pass. Forward values stay as they are: this is not
the gradient of a network whose branch computes f times as much.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tinyflow.flow.blocks import Block, find_blocks
from tinyflow.flow.counterfactual import (
    BRANCHES,
    branch_edges,
    first_weight,
    held,
)
from tinyflow.flow.paths import residual_blocks
from tinyflow.flow.probe import FlowError, Probe, dot, norm, relative
from tinyflow.lengths import unit_of
from tinyflow.tensor import Edge, Node

Numbers = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Dial:
    """The gradient of one tensor, with f times what crosses one branch, or many.

    Attributes:
        block, branch: whose; of all residual branches together "all" and "residual".
        to: name of the tensor, that of the first layer's weight.
        unit: a power of two, of which `gram` is in squares.
        gram: ⟨c_k, c_l⟩ / unit², symmetric, (K + 1, K + 1) for up to K crossings.
        closure: ‖g - Σ c_k‖ / ‖g‖, the conservation error.
    """

    block: str
    branch: str
    to: str
    unit: float
    gram: Numbers
    closure: float

    def norm(self, f: float) -> float:
        """‖g(f)‖; infinite where no number is large enough."""
        return self.unit * math.sqrt(max(self._product(self._at(f), self._at(f)), 0.0))

    def change(self, f: float) -> float:
        """‖g(f) - g‖ / ‖g‖; 0 where g is zero."""
        moved, size = self._at(f) - self._at(1), self.norm(1)
        away = self.unit * math.sqrt(max(self._product(moved, moved), 0.0))
        return away / size if size else 0.0

    def cosine(self, f: float) -> float | None:
        """Of the angle between g(f) and g; None if one of them is zero."""
        sizes = self.norm(f) / self.unit * (self.norm(1) / self.unit)
        if not sizes or not math.isfinite(sizes):
            return None
        return self._product(self._at(f), self._at(1)) / sizes

    @property
    def coefficients(self) -> tuple[float, float, float]:
        """a, b and c of ‖g(f)‖² = a + 2 b f + c f², for a single branch.

        They are squares: where those leave float64's range, take `gram`.

        Raises:
            FlowError: many branches are turned together.
        """
        if len(self.gram) != 2:
            raise FlowError(
                f"{len(self.gram) - 1} branches turn together: their polynomial has "
                "more than three coefficients, see gram"
            )
        (a, b), (_, c) = (self.gram * self.unit * self.unit).tolist()
        return a, b, c

    @property
    def least(self) -> float:
        """The f of the shortest g(f), -b/c, for a single branch; 0 where c is."""
        _, b, c = self.coefficients
        return -b / c if c else 0.0

    def _at(self, f: float) -> Numbers:
        """The powers fᵏ."""
        with np.errstate(over="ignore"):
            return np.power(float(f), np.arange(len(self.gram)))

    def _product(self, left: Numbers, right: Numbers) -> float:
        """The product Σ leftₖ rightₗ G_kl."""
        used = np.outer(left, right)
        with np.errstate(over="ignore"):
            terms = np.where(self.gram == 0, 0, used) * self.gram
        found = math.fsum(terms.ravel()) if np.isfinite(terms).all() else math.inf
        return float(found)


def dial(probe: Probe, block: str, branch: str, to: Node | None = None) -> Dial:
    """That of one branch of one block.

    Args:
        probe: of any network with blocks that fork.
        block: its module path, e.g. ``layer3.2``.
        branch: one of `BRANCHES`.
        to: whose gradient; left out, that of the first layer's weight.

    Raises:
        FlowError: there is no such block, or it has no such branch.
    """
    edges = branch_edges(probe, block, branch)
    return _turned(probe, edges, block, branch, to)


def dials(probe: Probe, to: Node | None = None) -> list[Dial]:
    """One for every branch of every block, and last that of all residual branches.

    Args:
        probe: of a network with residual blocks.
        to: whose gradient; left out, that of the first layer's weight.
    """
    together = [edge for b in residual_blocks(probe) for edge in b.through]
    found = [
        _turned(probe, [edge], b.name, name, to)
        for b in find_blocks(probe.tape)
        for name, edge in _branches(b).items()
    ]
    return [*found, _turned(probe, together, "all", "residual", to)]


def _branches(block: Block) -> dict[str, Edge]:
    named = {name: getattr(block, name) for name in BRANCHES}
    return {k: e for k, e in named.items() if e is not None} | block.branches


def _turned(
    probe: Probe, edges: Sequence[Edge], block: str, branch: str, to: Node | None
) -> Dial:
    goal = first_weight(probe) if to is None else to
    g = held(goal)
    step: Callable[[Edge], tuple[int, ...] | None] = dict.fromkeys(edges, (1,)).get
    parts = probe.tape.graded_pullback(probe.loss, to=goal, grade=step)
    most = max((k for (k,) in parts), default=0)
    count = max(most, min(len(edges), 1)) + 1
    unit = unit_of(norm(c) for c in parts.values())
    sent = {k: c / unit for (k,), c in parts.items()}
    gram = np.zeros((count, count))
    for k, c in sent.items():
        for j, d in sent.items():
            if j <= k:
                gram[j, k] = gram[k, j] = dot(c, d)
    total = sum(sent.values()) * unit if sent else g * 0
    return Dial(block, branch, goal.name, unit, gram, relative(total - g, g))
