"""What one map of a dense block receives, summed with partial and with total Jacobians.

Let g_l be the total gradient of map l's own channels. The map x_j is read by later
layers and by whatever follows the block (the tail), and

    g_j = tail_j + Σ_l (∂x_l/∂x_j)ᵀ g_l            ∂x_l/∂x_j partial: x_i, i ≠ j, fixed

exactly. Noh's (5) also keeps ∂x_{l-1}/∂x_j, the derivative of one argument by another.
With these *total* Jacobians a path from x_j that passes several maps is counted once
for every map it passes.
"""

from __future__ import annotations

from dataclasses import dataclass

from tinyflow.flow.dense import DenseBlock
from tinyflow.flow.probe import FlowError, cosine, norm, relative
from tinyflow.tape import Tape


@dataclass(frozen=True)
class LayerSum:
    """The two sums for one map.

    Attributes:
        name: of the block and the map, e.g. ``denseblock1.x0``.
        later: how many maps follow it in its block.
        closure: ‖g_j - sum with partial Jacobians‖ / ‖g_j‖.
        excess: ‖sum with total Jacobians - g_j‖ / ‖g_j‖, zero if (5) were exact.
        factor: ‖sum with total Jacobians‖ / ‖g_j‖.
        cosine: of the angle between that sum and g_j.
    """

    name: str
    later: int
    closure: float
    excess: float
    factor: float
    cosine: float


def layer_sum(tape: Tape, block: DenseBlock, j: int) -> LayerSum:
    """Both sums for the map of `block` at place `j`."""
    maps = [tape[f"{block.name}.x{i}"] for i in range(len(block.sources))]
    source = maps[j]
    g = source.grad
    if g is None:
        raise FlowError(f"{source.name}: no gradient reached it")
    partial = total = None
    for edge in tape.edges(source):
        if edge.index > maps[-1].index and edge.grad is not None:  # beyond the block
            partial = edge.grad if partial is None else partial + edge.grad
    total = partial
    others = {e: 0.0 for m in maps if m is not source for e in tape.edges(m)}
    for later in maps[j + 1 :]:
        direct = tape.pullback(later, later.grad, to=source, scale=others)
        every = tape.pullback(later, later.grad, to=source)
        partial = direct if partial is None else partial + direct
        total = every if total is None else total + every
    assert partial is not None and total is not None
    return LayerSum(
        name=f"{block.name.rpartition('.')[2]}.x{j}",
        later=len(maps) - 1 - j,
        closure=relative(g - partial, g),
        excess=relative(total - g, g),
        factor=norm(total) / (norm(g) or 1.0),
        cosine=cosine(total, g) or 0.0,
    )
