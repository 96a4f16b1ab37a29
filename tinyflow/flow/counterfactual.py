"""What if a branch had sent nothing back? Backward again, forward untouched."""

from __future__ import annotations

from dataclasses import dataclass
from difflib import get_close_matches

from tinyflow.backend import Array
from tinyflow.flow.blocks import find_blocks
from tinyflow.flow.probe import FlowError, Probe, cosine, norm
from tinyflow.tensor import Edge, Node

BRANCHES = ("residual", "shortcut", "scale", "squeeze")


@dataclass(frozen=True)
class Counterfactual:
    """The first layer's gradient with one branch scaled.

    Attributes:
        block, branch, factor: what was done: `factor` times what crosses the branch.
        norm_ratio: ‖g'‖ / ‖g‖ at the first layer.
        change: ‖g' - g‖ / ‖g‖.
        cosine: of the angle between g' and g; None if g' is zero.
    """

    block: str
    branch: str
    factor: float
    norm_ratio: float
    change: float
    cosine: float | None


def first_weight(probe: Probe) -> Node:
    """The weight of the first layer on the tape that has one."""
    for node in probe.tape.nodes:
        for edge in node.edges:
            producer = edge.producer
            if (
                producer.index < 0
                and producer.requires_grad
                and len(producer.shape) > 1
            ):
                return producer
    raise FlowError("the network has no trainable weight")


def held(node: Node) -> Array:
    """Its gradient.

    Raises:
        FlowError: it holds none.
    """
    if node.grad is None:
        raise FlowError(f"{node.name} holds no gradient: run backward first")
    return node.grad


def branch_edges(probe: Probe, block: str, branch: str) -> list[Edge]:
    """The edges of one named branch of one block.

    Raises:
        FlowError: there is no such block, or it has no such branch.
    """
    check_branch(branch)
    blocks = {b.name: b for b in find_blocks(probe.tape)}
    if block not in blocks:
        near = get_close_matches(block, blocks, 4, 0.3) or list(blocks)[:4]
        raise FlowError(
            f"no block {block!r}; there are {len(blocks)}, among them {', '.join(near)}"
        )
    edge: Edge | None = getattr(blocks[block], branch)
    if edge is None:
        has = [b for b in BRANCHES if getattr(blocks[block], b) is not None]
        raise FlowError(
            f"block {block!r} ({blocks[block].kind}) has no {branch}, but "
            f"{' and '.join(has) or 'no branches at all'}"
        )
    return [edge]


def check_branch(branch: str) -> None:
    """Raise FlowError unless `branch` is one of `BRANCHES`."""
    if branch not in BRANCHES:
        raise FlowError(f"unknown branch {branch!r}; one of {', '.join(BRANCHES)}")


def counterfactual(
    probe: Probe, edges: list[Edge], factor: float = 0.0, to: Node | None = None
) -> Array:
    """∂L/∂to with `factor` times what crosses `edges`, forward values as they were."""
    goal = first_weight(probe) if to is None else to
    return probe.tape.pullback(
        probe.loss, to=goal, scale=dict.fromkeys(edges, float(factor))
    )


def measure_branch(
    probe: Probe, block: str, branch: str, factor: float = 0.0
) -> Counterfactual:
    """Scale one branch of one block and compare the first layer's gradient."""
    goal = first_weight(probe)
    g = held(goal)
    changed = counterfactual(probe, branch_edges(probe, block, branch), factor, goal)
    size = norm(g) or 1.0
    return Counterfactual(
        block=block,
        branch=branch,
        factor=factor,
        norm_ratio=norm(changed) / size,
        change=norm(changed - g) / size,
        cosine=cosine(changed, g),
    )
