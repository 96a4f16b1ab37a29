"""How long are the paths the gradient comes along? Exactly, in one sweep.

A network of L residual blocks has 2ᴸ paths from the loss to its stem: through each
block either the residual branch or the shortcut. Backward is linear at fixed forward
values, so c_k, the sum over all paths that cross exactly k residual branches, is
carried back exactly by

    c_k ← Sᵀ (D c_k) + J_Fᵀ (D c_{k-1}),        D = 1[H > 0],

one cotangent per k, ≈ L²/2 branch pullbacks, and Σ_k c_k is the gradient. Veit et al.
(2016, arXiv:1605.06431) instead multiply the number of paths C(L, k) by the mean norm
of a few sampled ones, which ignores that they cancel; that estimate stands beside it
here. With squeeze-and-excitation, crossing a gate is counted apart: c_{k,m}.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field

import numpy as np

from tinyflow.backend import Array
from tinyflow.flow.blocks import Block, find_blocks
from tinyflow.flow.probe import FlowError, Probe, dot, norm, relative
from tinyflow.flow.progress import Told, silent
from tinyflow.tensor import Edge, Node


@dataclass(frozen=True)
class Spectrum:
    """The path-length spectrum of the gradient at the input of the first block.

    Attributes:
        blocks: L, residual blocks crossed.
        lengths: k, from 0 to L.
        norms: ‖c_k‖.
        shares: ⟨c_k, g⟩ / ‖g‖², which add up to 1.
        gates: the same shares by (k, m), m gates among the k branches; SE only.
        paths: C(L, k).
        veit: C(L, k) × mean norm of sampled single paths of length k; NaN where none
            was sampled.
        total: ‖g‖.
        closure: ‖g - Σ c_k‖ / ‖g‖.
        seconds: time of the sweep.
    """

    blocks: int
    lengths: list[int]
    norms: list[float]
    shares: list[float]
    paths: list[int]
    total: float
    closure: float
    seconds: float
    gates: dict[tuple[int, int], float] = field(default_factory=dict)
    veit: list[float] = field(default_factory=list)

    def mean_length(self) -> float:
        """Σ k · share_k, the average path length weighted by signed share."""
        return sum(k * s for k, s in zip(self.lengths, self.shares, strict=True))

    def share_between(self, low: int, high: int) -> float:
        """Σ of the signed shares of lengths low … high."""
        return sum(
            s
            for k, s in zip(self.lengths, self.shares, strict=True)
            if low <= k <= high
        )


def residual_blocks(probe: Probe) -> list[Block]:
    """The blocks of a network that fork, first one first."""
    found = [b for b in find_blocks(probe.tape) if b.residual is not None]
    if not found:
        raise FlowError("this network has no residual blocks, hence no paths to count")
    return found


def spectrum(
    probe: Probe, *, veit_samples: int = 0, seed: int = 0, progress: Told = silent
) -> Spectrum:
    """The exact spectrum, and Veit's estimate from `veit_samples` paths per length.

    `progress` is called with the part, 0 to 1, that is done. The sweep takes about as
    long as one sampled path of every length.
    """
    tape, blocks = probe.tape, residual_blocks(probe)
    first = blocks[0].x
    g = first.grad
    if g is None:
        raise FlowError("the spectrum needs the gradient at the first block's input")
    steps: dict[Edge, tuple[int, ...]] = {}
    gated = any(b.squeeze is not None for b in blocks)
    for b in blocks:
        assert b.residual is not None
        steps[b.residual] = (1, 0)
        if b.squeeze is not None:
            steps[b.squeeze] = (0, 1)
    start = time.perf_counter()
    sweep = 1 / (1 + veit_samples)

    def visit(node: Node) -> None:
        # The nearer to the first block, the more lengths every node carries.
        progress(sweep * (1 - node.index / len(tape.nodes)) ** 2)

    parts = tape.graded_pullback(probe.loss, to=first, grade=steps.get, visit=visit)
    seconds = time.perf_counter() - start
    lengths = list(range(len(blocks) + 1))
    by_length: dict[int, Array] = {}
    for (k, _), c in parts.items():
        by_length[k] = c if k not in by_length else by_length[k] + c
    total = norm(g)
    summed = None
    for c in by_length.values():
        summed = c if summed is None else summed + c
    assert summed is not None
    return Spectrum(
        blocks=len(blocks),
        lengths=lengths,
        norms=[norm(by_length.get(k)) for k in lengths],
        shares=[dot(by_length.get(k), g) / total**2 if total else 0.0 for k in lengths],
        paths=[math.comb(len(blocks), k) for k in lengths],
        total=total,
        closure=relative(g - summed, g),
        seconds=seconds,
        gates={
            (k, m): dot(c, g) / total**2 if total else 0.0
            for (k, m), c in parts.items()
        }
        if gated
        else {},
        veit=veit_estimate(
            probe,
            blocks,
            veit_samples,
            seed,
            lambda done: progress(sweep + (1 - sweep) * done),
        )
        if veit_samples
        else [],
    )


def path_gradient(probe: Probe, blocks: list[Block], crossed: set[int]) -> np.ndarray:
    """The gradient along one path: residual branches in `crossed`, shortcuts elsewhere.

    `crossed` holds indices into `blocks`. With gates, both routes through the branch
    belong to the path.
    """
    cut: dict[Edge, float] = {}
    for i, b in enumerate(blocks):
        edge = b.shortcut if i in crossed else b.residual
        assert edge is not None
        cut[edge] = 0.0
    return probe.tape.pullback(probe.loss, to=blocks[0].x, scale=cut)


def veit_estimate(
    probe: Probe,
    blocks: list[Block],
    samples: int,
    seed: int,
    progress: Told = silent,
) -> list[float]:
    """C(L, k) × mean norm of `samples` random paths of length k, for every k."""
    rng = np.random.default_rng(seed)
    count = len(blocks)
    estimate = []
    for k in range(count + 1):
        ways = math.comb(count, k)
        sizes = []
        for _ in range(min(samples, ways)):
            crossed = set(rng.choice(count, size=k, replace=False).tolist())
            sizes.append(norm(path_gradient(probe, blocks, crossed)))
        estimate.append(ways * float(np.mean(sizes)))
        progress((k + 1) / (count + 1))
    return estimate
