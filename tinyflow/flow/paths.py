"""How long are the paths the gradient comes along? Exactly, in one sweep.

A network of L residual blocks has 2ᴸ paths from the loss to its stem: through each
block either the residual branch or the shortcut. Backward is linear at fixed forward
values, so c_k, the sum over all paths that cross exactly k residual branches, is
carried back exactly by

    c_k ← Sᵀ (D c_k) + J_Fᵀ (D c_{k-1}),        D = 1[H > 0] where a ReLU follows,

one cotangent per k, ≈ L²/2 branch pullbacks, and Σ_k c_k is the gradient. Veit et al.
(2016, arXiv:1605.06431) instead multiply the number of paths C(L, k) by the mean norm
of single ones. That adds up norms where vectors are added: it is right if all paths of
a length point the same way, and √C(L, k) too large if they are orthogonal. Which of
the two they are is measured, as the coherence

    ‖c_k‖ / √(Σ ‖path‖²)        1: orthogonal,  √C(L, k): aligned,  below 1: cancelling.

With squeeze-and-excitation, crossing a gate is counted apart: c_{k,m}.
"""

from __future__ import annotations

import itertools
import math
import time
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tinyflow.backend import Array
from tinyflow.flow.blocks import Block, find_blocks
from tinyflow.flow.probe import FlowError, Probe, norm, relative, share
from tinyflow.flow.progress import Told, silent
from tinyflow.flow.stats import student
from tinyflow.lengths import together, unit_of
from tinyflow.tensor import Edge, Node, Tensor

ENUMERATED = 512  # paths in a network up to which every one is looked at
SIGNS = 4  # random signs drawn where there are more


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
        veit: C(L, k) × mean norm of the single paths of length k; empty if none was
            looked at.
        singles: the norms of those paths per length: all of them if there are at most
            ENUMERATED in the network or as many as asked for of that length, else a
            random choice.
        coherence: ‖c_k‖ / √(Σ ‖path‖² over the paths of length k), see above; NaN where
            nothing arrives.
        coherence_range: 95 % interval of each, (value, value) where all paths were
            looked at, else from random signs, see :func:`signed_sums`.
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
    singles: list[list[float]] = field(default_factory=list)
    coherence: list[float] = field(default_factory=list)
    coherence_range: list[tuple[float, float]] = field(default_factory=list)

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
    found = [b for b in find_blocks(probe.tape) if b.through]
    if not found:
        raise FlowError("this network has no residual blocks, hence no paths to count")
    return found


def spectrum(
    probe: Probe, *, veit_samples: int = 0, seed: int = 0, progress: Told = silent
) -> Spectrum:
    """The exact spectrum, Veit's estimate, and how far the paths of a length align.

    Args:
        probe: of a network with residual blocks.
        veit_samples: single paths per length for the last two, which are left out if
            0. A network of at most ENUMERATED paths has all of them looked at.
        seed: of the choice of paths and of the signs.
        progress: called with the part, 0 to 1, that is done. The sweep takes about as
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
        steps |= dict.fromkeys(b.through, (1, 0))
        if b.squeeze is not None:
            steps[b.squeeze] = (0, 1)
    start = time.perf_counter()
    sweep = 1 / (1 + looking(len(blocks), veit_samples))

    def visit(node: Node) -> None:
        # The nearer to the first block, the more lengths every node carries.
        progress(sweep * (1 - node.index / len(tape.nodes)) ** 2)

    parts = tape.graded_pullback(probe.loss, to=first, grade=steps.get, visit=visit)
    seconds = time.perf_counter() - start
    progress(sweep)
    lengths = list(range(len(blocks) + 1))
    by_length: dict[int, Array] = {}
    for (k, _), c in parts.items():
        by_length[k] = c if k not in by_length else by_length[k] + c
    total = norm(g)
    summed = None
    for c in by_length.values():
        summed = c if summed is None else summed + c
    assert summed is not None
    norms = [norm(by_length.get(k)) for k in lengths]
    looked: dict[str, Any] = {}
    if veit_samples:
        looked = look_at_paths(
            probe,
            blocks,
            norms,
            veit_samples,
            seed,
            lambda done: progress(sweep + (1 - sweep) * done),
        )
    return Spectrum(
        blocks=len(blocks),
        lengths=lengths,
        norms=norms,
        shares=[share(by_length.get(k), g, total) for k in lengths],
        paths=[math.comb(len(blocks), k) for k in lengths],
        total=total,
        closure=relative(g - summed, g),
        seconds=seconds,
        gates={(k, m): share(c, g, total) for (k, m), c in parts.items()}
        if gated
        else {},
        **looked,
    )


def path_gradient(probe: Probe, blocks: list[Block], crossed: set[int]) -> np.ndarray:
    """The gradient along one path: residual branches in `crossed`, shortcuts elsewhere.

    `crossed` holds indices into `blocks`. With gates, both routes through the branch
    belong to the path.
    """
    cut: dict[Edge, float] = {}
    for i, b in enumerate(blocks):
        assert b.shortcut is not None
        cut |= dict.fromkeys((b.shortcut,) if i in crossed else b.through, 0.0)
    return probe.tape.pullback(probe.loss, to=blocks[0].x, scale=cut)


def looking(blocks: int, samples: int) -> float:
    """About how long :func:`look_at_paths` takes, in sweeps."""
    if not samples:
        return 0.0
    if 2**blocks <= ENUMERATED:  # in pullbacks of a block
        return float(2 ** (blocks + 1)) / (blocks * (blocks + 1) / 2)
    return samples + SIGNS


def look_at_paths(
    probe: Probe,
    blocks: list[Block],
    norms: list[float],
    samples: int,
    seed: int,
    told: Told = silent,
) -> dict[str, Any]:
    """Veit's estimate, the single paths behind it, and the coherence of each length."""
    part = 1.0 if 2 ** len(blocks) <= ENUMERATED else samples / (samples + SIGNS)
    singles = single_paths(probe, blocks, samples, seed, lambda d: told(part * d))
    count = len(blocks)
    ways = [math.comb(count, k) for k in range(count + 1)]
    if all(len(s) == n for s, n in zip(singles, ways, strict=True)):
        sums = [[together(s)] for s in singles]
    else:
        rest = 1 - part
        sums = signed_sums(probe, blocks, SIGNS, seed, lambda d: told(part + rest * d))
    coherence, ranges = [], []
    for size, found in zip(norms, sums, strict=True):
        unit = unit_of(found)  # in it the squares are in range
        drawn = np.square(np.array(found) / unit)
        middle, half = float(drawn.mean()), 0.0
        coherence.append(size / unit / math.sqrt(middle) if middle > 0 else math.nan)
        if len(drawn) > 1 and middle > 0:
            half = student(len(drawn) - 1) * float(np.std(drawn, ddof=1))
            half *= coherence[-1] / (2 * middle * math.sqrt(len(drawn)))
        ranges.append((max(0.0, coherence[-1] - half), coherence[-1] + half))
    return {
        "veit": [n * float(np.mean(s)) for n, s in zip(ways, singles, strict=True)],
        "singles": singles,
        "coherence": coherence,
        "coherence_range": ranges,
    }


def single_paths(
    probe: Probe, blocks: list[Block], samples: int, seed: int, told: Told = silent
) -> list[list[float]]:
    """The norms of single paths, per length: all of them, or `samples` random ones."""
    count = len(blocks)
    if 2**count <= ENUMERATED:
        return all_paths(probe, blocks, told)
    rng = np.random.default_rng(seed)
    found = []
    for k in range(count + 1):
        if math.comb(count, k) <= samples:
            chosen = [set(c) for c in itertools.combinations(range(count), k)]
        else:
            different: set[frozenset[int]] = set()
            while len(different) < samples:
                different.add(frozenset(rng.choice(count, k, replace=False).tolist()))
            chosen = [set(c) for c in sorted(different, key=sorted)]
        found.append([norm(path_gradient(probe, blocks, c)) for c in chosen])
        told((k + 1) / (count + 1))
    return found


def all_paths(
    probe: Probe, blocks: list[Block], told: Told = silent
) -> list[list[float]]:
    """The norm of every path, per length, each block walked once per path behind it."""
    found: list[list[float]] = [[] for _ in range(len(blocks) + 1)]
    tape = probe.tape

    def back(i: int, start: Tensor | Node, g: Array | None, crossed: int) -> None:
        if i < 0:
            found[crossed].append(norm(g))
            told(sum(map(len, found)) / 2 ** len(blocks))
            return
        b = blocks[i]
        assert b.shortcut is not None
        for cut, longer in ((b.through, 0), ((b.shortcut,), 1)):
            scale = dict.fromkeys(cut, 0.0)
            there = tape.pullback(start, g, to=b.x, scale=scale)
            back(i - 1, b.x, there, crossed + longer)

    back(len(blocks) - 1, probe.loss, None, 0)
    return found


def signed_sums(
    probe: Probe, blocks: list[Block], sweeps: int, seed: int, told: Told = silent
) -> list[list[float]]:
    """√Σ ‖path‖² over the paths of each length, `sweeps` estimates of each.

    Give every residual branch a random sign. The product of two different paths then
    has a random sign too, and on average only their squares are left of ‖c_k‖², whose
    root is returned: one sweep sees every path, where a sample of single ones would see
    a few of 2ᴸ.
    """
    rng = np.random.default_rng(seed)
    steps = {edge: (1,) for b in blocks for edge in b.through}
    found: list[list[float]] = [[] for _ in range(len(blocks) + 1)]
    for i in range(sweeps):
        signs: dict[Edge, float] = {}
        for b in blocks:
            signs |= dict.fromkeys(b.through, float(rng.choice((-1.0, 1.0))))
        parts = probe.tape.graded_pullback(
            probe.loss, to=blocks[0].x, grade=steps.get, scale=signs
        )
        for k, drawn in enumerate(found):
            drawn.append(norm(parts.get((k,))))
        told((i + 1) / sweeps)
    return found
