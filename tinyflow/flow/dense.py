"""Dense blocks: what every later layer sends to every earlier map (Noh's (4) to (6)).

In a dense block the map x_j is read by each later layer l, by the transition or by the
classifier. Each reading is an edge, c_{l→j}, the slice of that reader's input gradient
that x_j filled, and ∂L/∂x_j = Σ_l c_{l→j} exactly.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from tinyflow.backend import Array
from tinyflow.flow.probe import FlowError, norm, relative, share
from tinyflow.lengths import together, unit_of
from tinyflow.tape import Tape
from tinyflow.tensor import Node


@dataclass(frozen=True)
class DenseBlock:
    """The contributions inside one dense block, measured.

    Attributes:
        name: module path.
        sources: names of the maps x_0, x_1, … (rows).
        consumers: names of the readers (columns).
        norms: ‖c_{l→j}‖, (sources, consumers); NaN where l does not read j.
        shares: ⟨c_{l→j}, g_j⟩ / ‖g_j‖²; each row adds up to 1.
        totals: ‖g_j‖; rms: ‖g_j‖ / √(number of entries), comparable between maps of
            different width.
        readers: m_j, how many consumers read x_j.
        coherence: R_j = ‖Σ c‖ / √Σ‖c‖²: 1 if the contributions are orthogonal, √m_j if
            they are equal and aligned, below 1 if they cancel.
        effective: N_eff = (Σ‖c‖²)² / Σ‖c‖⁴, how many contributions really count.
        exponent: α of the fit rms_j ∝ m_j^α over the maps the block made (not x_0); NaN
            with fewer than three. A √l law in Noh's sense is α = ½ *with* equal
            contributions, N_eff = m.
        state_norms: ‖∂L/∂[x_0 … x_l]‖ counting readers after layer l, for l = 0, 1, …:
            the gradient of the whole state as it passes back through the block.
        closure: largest ‖g_j - Σ_l c_{l→j}‖ / ‖g_j‖.
    """

    name: str
    sources: list[str]
    consumers: list[str]
    norms: np.ndarray
    shares: np.ndarray
    totals: list[float]
    rms: list[float]
    readers: list[int]
    coherence: list[float]
    effective: list[float]
    exponent: float
    state_norms: list[float]
    closure: float


def find_dense_blocks(tape: Tape) -> list[str]:
    """Paths of the modules whose maps are marked x0, x1, … (as DenseNet's are)."""
    found = [name[: -len(".x0")] for name in tape.names if name.endswith(".x0")]
    if not found:
        raise FlowError("this network has no dense blocks (maps marked x0, x1, …)")
    return found


def measure_dense(tape: Tape, path: str) -> DenseBlock:
    """All numbers of one dense block; see :class:`DenseBlock`."""
    sources: list[Node] = []
    while (name := f"{path}.x{len(sources)}") in tape.names:
        sources.append(tape[name])
    readers = sorted({e.index for s in sources for e in tape.edges(s)})
    column = {index: i for i, index in enumerate(readers)}
    norms = np.full((len(sources), len(readers)), np.nan)
    shares = norms.copy()
    sizes = np.zeros_like(norms)
    totals, rms, counts, coherence, effective = [], [], [], [], []
    closure = 0.0
    tails: list[list[float]] = []  # ‖Σ of readers from column c on‖ per source
    for j, source in enumerate(sources):
        g = source.grad
        if g is None:
            raise FlowError(f"{source.name}: no gradient; analyse a Tape('edges')")
        edges = tape.edges(source)
        size = norm(g)
        suffix: Array | None = None
        tail = [0.0] * (len(readers) + 1)
        for edge in reversed(edges):
            if edge.grad is None:
                raise FlowError(f"{edge} holds no gradient; analyse a Tape('edges')")
            c = column[edge.index]
            norms[j, c] = sizes[j, c] = norm(edge.grad)
            shares[j, c] = share(edge.grad, g, size)
            suffix = edge.grad if suffix is None else suffix + edge.grad
            tail[c] = norm(suffix)
        for c in range(len(readers) - 1, -1, -1):
            tail[c] = tail[c] or tail[c + 1]
        tails.append(tail)
        assert suffix is not None
        closure = max(closure, relative(g - suffix, g))
        unit = unit_of(sizes[j])  # in it squares and fourth powers are in range
        squares = (sizes[j] / unit) ** 2
        total = float(squares.sum())
        totals.append(size)
        rms.append(size / math.sqrt(math.prod(g.shape) or 1))
        counts.append(len(edges))
        coherence.append(size / unit / math.sqrt(total) if total else 0.0)
        effective.append(total**2 / float((squares**2).sum()) if total else 0.0)
    state = [
        together(tails[j][min(layer, len(readers) - 1)] for j in range(layer + 1))
        for layer in range(len(sources))
    ]
    return DenseBlock(
        name=path,
        sources=[s.name for s in sources],
        consumers=[_reader(tape.nodes[i].name) for i in readers],
        norms=norms,
        shares=shares,
        totals=totals,
        rms=rms,
        readers=counts,
        coherence=coherence,
        effective=effective,
        exponent=fit_exponent(counts[1:], rms[1:]),
        state_norms=state,
        closure=closure,
    )


def fit_exponent(m: list[int], size: list[float]) -> float:
    """α of the least-squares line log size = α log m + b; NaN below three points."""
    kept = [(a, b) for a, b in zip(m, size, strict=True) if a > 0 and b > 0]
    if len({a for a, _ in kept}) < 3:
        return math.nan
    x, y = np.log(np.array(kept, dtype=float)).T
    return float(np.polyfit(x, y, 1)[0])


def _reader(name: str) -> str:
    """``features.denseblock1.denselayer3.concat`` → ``denselayer3``."""
    parts = name.split(".")[:-1]
    return parts[-1] if parts and parts[-1] != "features" else "classifier"


def dense_terms(tape: Tape) -> list[DenseBlock]:
    """:func:`measure_dense` for every dense block, first one first."""
    return [measure_dense(tape, path) for path in find_dense_blocks(tape)]
