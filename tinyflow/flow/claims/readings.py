"""The numbers of one network on one batch, which the claims are judged by."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tinyflow.backend import Array
from tinyflow.flow.blocks import Block, Terms, find_blocks, measure
from tinyflow.flow.claims.sums import LayerSum, layer_sum
from tinyflow.flow.counterfactual import first_weight
from tinyflow.flow.dense import DenseBlock, dense_terms
from tinyflow.flow.depth import ends, ratio, rms
from tinyflow.flow.paths import path_gradient, residual_blocks
from tinyflow.flow.probe import Probe, norm, share
from tinyflow.tape import Tape


@dataclass(frozen=True)
class Run:
    """Consecutive blocks with identity shortcuts.

    Attributes:
        first, blocks: name of the first, and how many.
        relu: whether a ReLU follows the additions.
        error: ‖x_L - x_1 - Σ F‖ / ‖x_L‖ of their values.
    """

    first: str
    blocks: int
    relu: bool
    error: float


@dataclass(frozen=True)
class Reading:
    """The numbers of one network with one seed on the bench's batch.

    Attributes:
        model, unit: which network, with which seed (and batch).
        loss: of the batch.
        weight: ‖∂L/∂W‖ of the first layer.
        first, last, first_rms, last_rms: gradient at the two ends, see
            :func:`tinyflow.flow.depth.ends`; L2 norm, and per √(number of entries).
        normalised: whether the network has batch normalisation.
        terms: of its blocks; empty in a DenseNet.
        dense: its dense blocks, if any.
        sums: of the maps of the first dense block, see :class:`LayerSum`.
        variances: (Var x, Var F) per residual block.
        shortcuts: ‖c₀‖, the gradient along the path of shortcuts alone, and its signed
            share ⟨c₀, g⟩ / ‖g‖²; None without shortcuts.
        runs: of each stretch of blocks with identity shortcuts, how far its output is
            from its input plus all its F, see :func:`runs_of`.
        responses: standard deviation of what each normalised 3x3 convolution puts out.
        closure: largest conservation error.
    """

    model: str
    unit: str
    loss: float
    weight: float
    first: float
    last: float
    first_rms: float
    last_rms: float
    normalised: bool
    terms: tuple[Terms, ...] = ()
    dense: tuple[DenseBlock, ...] = ()
    sums: tuple[LayerSum, ...] = ()
    variances: tuple[tuple[float, float], ...] = ()
    shortcuts: tuple[float, float] | None = None
    runs: tuple[Run, ...] = ()
    responses: tuple[float, ...] = ()
    closure: float = 0.0

    @property
    def setting(self) -> str:
        """Model and unit in a word."""
        return f"{self.model}/{self.unit}"

    @property
    def growth(self) -> float:
        """By what factor ‖g‖ grew from the last map to the first block."""
        return ratio(self.first, self.last)

    @property
    def growth_rms(self) -> float:
        """The same per √(number of entries)."""
        return ratio(self.first_rms, self.last_rms)


def read(p: Probe, name: str, unit: str) -> Reading:
    """All numbers of one probe; afterwards the tape can go."""
    tape = p.tape
    first, last = ends(tape)
    terms: list[Terms] = []
    dense: list[DenseBlock] = []
    sums: list[LayerSum] = []
    variances, shortcuts = [], None
    runs: tuple[Run, ...] = ()
    if any(path.endswith(".x0") for path in tape.names):
        dense = dense_terms(tape)
        sums = [layer_sum(tape, dense[0], j) for j in (0, len(dense[0].sources) // 2)]
    else:
        blocks = find_blocks(tape)
        terms = [measure(tape, b) for b in blocks]
        if any(b.residual is not None for b in blocks):
            forks = residual_blocks(p)
            bare, g = path_gradient(p, forks, set()), forks[0].x.grad
            shortcuts = norm(bare), share(bare, g)
            runs = runs_of(blocks)
            variances = [(_variance(b.x.value), _variance(b.f.value)) for b in forks]
    return Reading(
        model=name,
        unit=unit,
        loss=p.loss.item(),
        weight=norm(first_weight(p).grad),
        first=norm(first.grad),
        last=norm(last.grad),
        first_rms=rms(first),
        last_rms=rms(last),
        normalised=any(node.op == "batch_norm" for node in tape.nodes),
        terms=tuple(terms),
        dense=tuple(dense),
        sums=tuple(sums),
        variances=tuple(variances),
        shortcuts=shortcuts,
        runs=runs,
        responses=responses_of(tape),
        closure=max(
            [t.closure for t in terms]
            + [d.closure for d in dense]
            + [s.closure for s in sums]
        ),
    )


def runs_of(blocks: Sequence[Block]) -> tuple[Run, ...]:
    """Every longest run of identity blocks, each reading what the one before made."""
    runs: list[list[Block]] = []
    for b in blocks:
        if b.kind != "identity" or b.out is None:
            continue
        if runs and runs[-1][-1].out is b.x:
            runs[-1].append(b)
        else:
            runs.append([b])
    found = []
    for run in runs:
        out = run[-1].out
        assert out is not None
        rest: Any = out.value
        for part in (run[0].x, *(b.f for b in run)):
            rest = rest - part.value
        error = norm(rest) / (norm(out.value) or 1.0)
        found.append(Run(run[0].name, len(run), out is not run[-1].h, error))
    return tuple(found)


def responses_of(tape: Tape) -> tuple[float, ...]:
    """Standard deviation of each batch normalisation that follows a 3x3 convolution."""
    found = []
    for node in tape.nodes:
        if node.op == "batch_norm" and node.edges:
            made = node.edges[0].producer
            if made.op == "conv2d" and made.edges[1].producer.shape[2:] == (3, 3):
                found.append(math.sqrt(_variance(node.value)))
    return tuple(found)


def _variance(value: Array | None) -> float:
    """Over all entries, in float64; NaN for None."""
    return math.nan if value is None else float(value.var(dtype="float64"))
