"""Networks side by side: one summary each, block by block, ready for JSON and CSV."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any

from tinyflow.flow.blocks import MARKS, Terms, block_terms, has_blocks
from tinyflow.flow.dense import DenseBlock, dense_terms
from tinyflow.flow.paths import Spectrum
from tinyflow.flow.probe import FlowError
from tinyflow.flow.subject import Subject
from tinyflow.flow.trace import Row as TraceRow
from tinyflow.lengths import unit_of
from tinyflow.tape import Tape

Row = dict[str, Any]


@dataclass(frozen=True)
class Point:
    """The gradient at one depth: ‖∂L/∂x‖ where `name` begins, x of shape `shape`."""

    name: str
    norm: float
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Summary:
    """Everything measured in one network on one batch.

    Attributes:
        name, state, dataset, parameters, loss: what was looked at.
        blocks: of plain, residual and SE networks.
        dense: of a DenseNet.
        profile: the gradient from the first block to the last; in a dense block, that
            of the whole state [x_0 … x_l] in front of each later reader.
        closure_max: largest conservation error over all blocks and all tensors.
    """

    name: str
    state: str
    dataset: str
    parameters: int
    loss: float
    blocks: list[Terms]
    dense: list[DenseBlock]
    closure_max: float
    profile: list[Point] = field(default_factory=list)

    @property
    def ends(self) -> tuple[float, float]:
        """‖g‖ at the input of the first and of the last block."""
        if self.dense:
            return self.dense[0].state_norms[0], self.dense[-1].state_norms[0]
        return self.blocks[0].norms["x"], self.blocks[-1].norms["x"]

    @property
    def ratio(self) -> float:
        """Median over blocks of ‖g‖ at its input / ‖g‖ at its end (H)."""
        return median(
            [b.ratio for b in self.blocks]
            or [d.state_norms[0] / (d.state_norms[-1] or 1.0) for d in self.dense]
        )

    def share(self, *names: str) -> float | None:
        """Median share of the first of these terms that a block has; None if none."""
        found = [b.shares[n] for b in self.blocks for n in names if n in b.shares]
        return median(found) if found else None

    @property
    def cosine(self) -> float | None:
        """Mean cosine between the shortcut and all the rest of a block's gradient."""
        found = [c for c in map(against_shortcut, self.blocks) if c is not None]
        return sum(found) / len(found) if found else None


def summarise(subject: Subject) -> Summary:
    """Measure every block of a probed network."""
    check_blocks(subject)
    tape = subject.probe.tape
    dense = dense_terms(tape) if is_dense(tape) else []
    blocks = [] if dense else block_terms(tape)
    errors = [b.closure for b in blocks] + [d.closure for d in dense]
    errors += tape.closure().values()
    profile = [Point(b.name, b.norms["x"], b.shape) for b in blocks]
    for d in dense:
        shape = tape[d.sources[0]].shape
        profile += [
            Point(f"{d.name}.x{j}", size, (shape[0], 0, *shape[2:]))
            for j, size in enumerate(d.state_norms)
        ]
    return Summary(
        name=subject.name,
        state=subject.source.weights,
        dataset=subject.source.data.name,
        parameters=subject.parameters,
        loss=float(subject.probe.loss.item()),
        blocks=blocks,
        dense=dense,
        closure_max=worst(errors),
        profile=profile,
    )


def check_blocks(subject: Subject) -> None:
    """Refuse a network in which nothing is marked, saying what to write.

    Raises:
        FlowError: in one sentence.
    """
    if not (has_blocks(subject.probe.tape) or is_dense(subject.probe.tape)):
        raise FlowError(f"{subject.name} has no blocks to be found: {MARKS}")


def is_dense(tape: Tape) -> bool:
    """Whether a network has dense blocks."""
    return any(name.endswith(".x0") for name in tape.names)


def worst(errors: Sequence[float]) -> float:
    """The largest error; a NaN among them is the worst of all."""
    return math.nan if any(map(math.isnan, errors)) else max(errors, default=0.0)


def against_shortcut(block: Terms) -> float | None:
    """Cosine of shortcut and rest (residual; gain + gate; …), from their products."""
    n, c = block.norms, block.cosines
    if "shortcut" not in block.shares:
        return None
    rest = [name for name in block.shares if name not in ("shortcut", "other")]
    if len(rest) == 1:
        return c.get(f"shortcut,{rest[0]}")
    unit = unit_of([n[name] for name in rest])
    size = {name: n[name] / unit for name in rest}
    product = sum(size[name] * (c[f"shortcut,{name}"] or 0.0) for name in rest)
    square = sum(s**2 for s in size.values()) + 2 * sum(
        size[a] * size[b] * (c[f"{a},{b}"] or 0.0)
        for i, a in enumerate(rest)
        for b in rest[i + 1 :]
    )
    return product / math.sqrt(square) if square > 0 else None


def to_json(summary: Summary) -> Row:
    """The summary as a JSON object; see docs for the schema."""
    first, last = summary.ends
    return {
        "name": summary.name,
        "weights": summary.state,
        "dataset": summary.dataset,
        "parameters": summary.parameters,
        "loss": summary.loss,
        "closure_max": summary.closure_max,
        "gradient_first_block": first,
        "gradient_last_block": last,
        "median_block_ratio": summary.ratio,
        "median_shares": {
            name: summary.share(name)
            for name in dict.fromkeys(n for b in summary.blocks for n in b.shares)
            if name != "other"
        },
        "mean_cosine_shortcut_rest": summary.cosine,
        "blocks": [_block(b) for b in summary.blocks]
        + [_dense(d) for d in summary.dense],
        "profile": [{"name": p.name, "norm": p.norm} for p in summary.profile],
    }


def _block(b: Terms) -> Row:
    return {
        "name": b.name,
        "kind": b.kind,
        "shape": list(b.shape),
        "norm_x": b.norms["x"],
        "norm_H": b.norms["H"],
        "norm_y": b.norms.get("y"),
        "ratio": b.ratio,
        "terms": {
            name: {"norm": b.norms[name], "share": share}
            for name, share in b.shares.items()
        },
        "cosines": b.cosines,
        "cancellation": b.cancellation,
        "mask": b.mask,
        "gate": b.gate,
        "flags": b.flags,
        "closure": b.closure,
    }


def _dense(d: DenseBlock) -> Row:
    return {
        "name": d.name,
        "kind": "dense",
        "sources": [f"x{j}" for j in range(len(d.sources))],
        "made_by": d.sources,
        "consumers": d.consumers,
        "terms": contributions(d),
        "totals": d.totals,
        "rms": d.rms,
        "readers": d.readers,
        "coherence": d.coherence,
        "effective": d.effective,
        "exponent": d.exponent,
        "state_norms": d.state_norms,
        "closure": d.closure,
    }


def contributions(d: DenseBlock) -> list[Row]:
    """One row per edge of a dense block: who sent how much to which map."""
    return [
        {
            "source": f"x{j}",
            "consumer": consumer,
            "norm": float(d.norms[j, c]),
            "share": float(d.shares[j, c]),
        }
        for j in range(len(d.sources))
        for c, consumer in enumerate(d.consumers)
        if not math.isnan(d.norms[j, c])
    ]


def block_rows(summaries: Sequence[Summary]) -> list[Row]:
    """One CSV row per block and term."""
    return [
        {
            "model": s.name,
            "block": b.name,
            "kind": b.kind,
            "term": term,
            "norm": b.norms[term],
            "share": share,
            "norm_x": b.norms["x"],
            "norm_H": b.norms["H"],
            "ratio": b.ratio,
            "cancellation": b.cancellation,
            "cosine_shortcut_rest": against_shortcut(b),
            "mask": b.mask,
            "closure": b.closure,
        }
        for s in summaries
        for b in s.blocks
        for term, share in b.shares.items()
    ]


def dense_rows(summaries: Sequence[Summary]) -> list[Row]:
    """One CSV row per edge of a dense block."""
    return [
        {"model": s.name, "block": d.name, **row}
        for s in summaries
        for d in s.dense
        for row in contributions(d)
    ]


def profile_rows(summaries: Sequence[Summary]) -> list[Row]:
    """One CSV row per network and depth."""
    return [
        {"model": s.name, "position": i, "name": p.name, "norm": p.norm}
        for s in summaries
        for i, p in enumerate(s.profile)
    ]


def spectrum_rows(found: Spectrum, name: str) -> list[Row]:
    """One row per path length."""
    return [
        {
            "model": name,
            "length": k,
            "paths": found.paths[i],
            "norm": found.norms[i],
            "share": found.shares[i],
            "veit": found.veit[i] if found.veit else None,
            "looked_at": len(found.singles[i]) if found.singles else 0,
            "coherence": found.coherence[i] if found.coherence else None,
            "coherence_low": found.coherence_range[i][0] if found.coherence else None,
            "coherence_high": found.coherence_range[i][1] if found.coherence else None,
        }
        for i, k in enumerate(found.lengths)
    ]


def missing_share(rows: Iterable[TraceRow]) -> float:
    """How far the shares of a traced block are from adding up to 1, at worst.

    Relative to the sum of their sizes, since a trace keeps six digits of each.
    """
    sums: dict[tuple[int, str], list[float]] = {}
    for row in rows:
        if row.share is not None:
            sums.setdefault((row.step, row.block), []).append(row.share)
    return worst(
        [abs(sum(s) - 1) / max(1.0, sum(map(abs, s))) for s in sums.values() if any(s)]
    )
