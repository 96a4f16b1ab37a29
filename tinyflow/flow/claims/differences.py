"""Finite differences of blocks: the check of an equation that uses no pullback.

Along u = g_x / ‖g_x‖ the derivative of the loss through one block is ‖g_x‖, whatever
made g_x. Running the block forward alone at x ± δu gives the same number as
(⟨g, y(x + δu)⟩ - ⟨g, y(x - δu)⟩) / 2δ, g the gradient at what leaves the block. In
float64, on every block.
"""

from __future__ import annotations

import functools
import math
import operator
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from tinyflow import Tape, Tensor, nn
from tinyflow.backend import Array, array_module
from tinyflow.flow.blocks import Block, find_blocks
from tinyflow.flow.dense import find_dense_blocks
from tinyflow.flow.probe import FlowError, Probe, dot, norm
from tinyflow.tensor import Node

STEPS = (
    1e-5,
    1e-6,
)  # δ; the corner of a ReLU inside a step spoils it: the better counts
ENOUGH = 1e-7  # an error from which no further step is tried


@dataclass(frozen=True)
class Difference:
    """One block.

    Attributes:
        block, kind: its name and kind; "dense" for a whole dense block and its x_0.
        error: of ‖g_x‖ against the finite difference of the block, relative.
        printed: of ‖g_x‖ against ⟨g_H, ∂F·u⟩ + ⟨g_H, u⟩, Noh's (2) as printed, with the
            finite difference of F alone; infinite where g_H does not have the shape of
            x, so that it cannot be added; NaN without shortcut.
    """

    block: str
    kind: str
    error: float
    printed: float = math.nan


def differences(model: nn.Module, p: Probe) -> list[Difference]:
    """Every block of a network that was probed; its running statistics change."""
    model.train(p.training)
    tape = p.tape
    if any(name.endswith(".x0") for name in tape.names):
        return [_dense(model, p, path) for path in find_dense_blocks(tape)]
    blocks = [b for b in find_blocks(tape) if b.out is not None]
    return [_block(model, p, b) for b in blocks]


def _block(model: nn.Module, p: Probe, block: Block) -> Difference:
    x, out = block.x, block.out
    assert out is not None
    run = chain(block_modules(model, p, block))
    error = _error(p, x, lambda point: run(Tensor(point)).data, out.grad)
    printed = math.nan
    if block.shortcut is not None:
        printed = math.inf
        if block.h.shape == x.shape:
            g = block.h.grad
            printed = _error(p, x, lambda point: _weighted(run, point), g, shortcut=g)
    return Difference(block.name, block.kind, error, printed)


def _weighted(run: Callable[[Tensor], Tensor], x: Array) -> Array:
    """F(x), what a residual block adds to its shortcut."""
    with Tape("tensors") as tape:
        run(Tensor(x))
    return _value(tape["H"].edges[0].producer)


def _dense(model: nn.Module, p: Probe, path: str) -> Difference:
    """x_0 of a dense block, against all that leaves the block."""
    tape = p.tape
    maps: list[Node] = []
    while (name := f"{path}.x{len(maps)}") in tape.names:
        maps.append(tape[name])
    tails = []
    for m in maps:
        later = [e.grad for e in tape.edges(m) if e.index > maps[-1].index]
        tails.append(functools.reduce(operator.add, later))
    g = array_module(tails[0]).concatenate(tails, axis=1)
    run = dict(model.named_modules())[path]
    error = _error(p, maps[0], lambda point: run(Tensor(point)).read().data, g)
    return Difference(path, "dense", error)


def _error(
    p: Probe,
    x: Node,
    run: Callable[[Array], Array],
    g: Array | None,
    shortcut: Array | None = None,
) -> float:
    """|⟨g, run′·u⟩ + ⟨shortcut, u⟩ - ‖g_x‖| / ‖g_x‖ along u = g_x / ‖g_x‖."""
    size = norm(x.grad)
    assert x.grad is not None
    point, unit = _value(x, p), x.grad / (size or 1.0)
    errors = []
    for step in STEPS:
        change = run(point + step * unit) - run(point - step * unit)
        found = dot(change, g) / (2 * step) + dot(shortcut, unit)
        errors.append(abs(found - size) / (size or 1.0))
        if errors[-1] <= ENOUGH:
            break
    return min(errors)


def block_modules(model: nn.Module, p: Probe, block: Block) -> list[nn.Module]:
    """What to run for one block: its module, or the layers between its two ends.

    The layers of VGG stand in one row; a block of it is a stretch of that row.
    """
    named = dict(model.named_modules())
    if block.name in named:
        return [named[block.name]]
    assert block.out is not None
    ends = block.x.index, block.out.index
    return [
        m
        for name, m in named.items()
        if not any(m.children())
        and (node := p.tape.names.get(name)) is not None
        and ends[0] < node.index <= ends[1]
    ]


def chain(modules: Iterable[nn.Module]) -> Callable[[Tensor], Tensor]:
    """The modules one after the other."""
    kept = list(modules)

    def run(x: Tensor) -> Tensor:
        for m in kept:
            x = m(x)
        return x

    return run


def _value(node: Node, p: Probe | None = None) -> Array:
    if p is not None and node is p.images.node:
        return p.images.data
    if node.value is None:
        raise FlowError(f"{node.name} holds no value: analyse a Tape(retain='edges')")
    return node.value
