"""The tables an analysis prints; :mod:`tinyflow.flow.show.layout` sets them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from tinyflow.flow.blocks import Terms
from tinyflow.flow.compare import Summary, against_shortcut
from tinyflow.flow.counterfactual import Counterfactual
from tinyflow.flow.dense import DenseBlock
from tinyflow.flow.depth import DepthPoint
from tinyflow.flow.importance import Importance, agreement
from tinyflow.flow.paths import Spectrum
from tinyflow.flow.show.layout import (
    PROSE,
    Column,
    Table,
    counts,
    errors,
    fill,
    numbers,
    percent,
    two,
    words,
)

CLOSURE = "largest conservation error, ‖gradient - sum of its parts‖ / ‖gradient‖"
INTERVALS = (
    "Intervals are Student's, 95 %, over the seeds: of each the median over its cases, "
    "averaged over its batches."
)
SHARE = {
    "F": "of what came through the block's layers; all there is",
    "shortcut": "of what came along the shortcut",
    "residual": "of what came through the residual branch",
    "gain": "of what came through the residual branch, scaled by the gate",
    "gate": "of what came through the gate itself",
    "other": "of what came from uses of x outside the block",
}


def compared(summaries: Sequence[Summary], conditions: str) -> Table:
    """A row per network."""
    ends = [s.ends for s in summaries]

    def share(*names: str) -> list[float | None]:
        return [s.share(*names) for s in summaries]

    ratios = [first / last if last else None for first, last in ends]
    return Table(
        f"Gradient flow · {conditions}",
        [
            Column("model", "the network", [s.name for s in summaries], words),
            Column(
                "param.\n(M)",
                "its trainable numbers, in millions",
                [s.parameters / 1e6 for s in summaries],
                two,
            ),
            Column(
                "blocks",
                "how many it has; in a DenseNet, dense blocks",
                [len(s.blocks) or len(s.dense) for s in summaries],
                words,
            ),
            Column(
                "loss",
                "mean cross-entropy of the batch, in nats",
                [s.loss for s in summaries],
                two,
            ),
            Column(
                "‖g‖\nfirst",
                "size of ∂L/∂x at the input of the first block",
                [e[0] for e in ends],
            ),
            Column("‖g‖\nlast", "the same of the last block", [e[1] for e in ends]),
            Column("first\n/ last", "the one divided by the other", ratios),
            Column(
                "x / H",
                "median over blocks: gradient at a block's input by that at its end",
                [s.ratio for s in summaries],
            ),
            Column(
                "short-\ncut",
                f"median signed share {SHARE['shortcut']}; shares add up to about 1",
                share("shortcut"),
                two,
            ),
            Column(
                "resi-\ndual",
                f"median signed share {SHARE['residual']} (SE: gain)",
                share("residual", "gain"),
                two,
            ),
            Column("gate", f"median signed share {SHARE['gate']}", share("gate"), two),
            Column(
                "cos",
                "mean cosine of the angle between the shortcut's part and the rest",
                [s.cosine for s in summaries],
                two,
            ),
            Column("closure", CLOSURE, [s.closure_max for s in summaries], errors),
        ],
    )


def blocks(found: Sequence[Terms], title: str) -> Table:
    """A row per block."""
    names = list(dict.fromkeys(t for b in found for t in b.shares))
    return Table(
        title,
        [
            Column("block", "first one first", [b.name for b in found], words),
            Column("kind", "what its shortcut is", [b.kind for b in found], words),
            Column(
                "‖g_x‖",
                "size of the gradient at its input x",
                [b.norms["x"] for b in found],
            ),
            Column(
                "x / H",
                "‖g_x‖ by ‖g_H‖, the gradient where it ends, before a last ReLU",
                [b.ratio for b in found],
            ),
            *(
                Column(
                    f"{n}\nshare",
                    f"signed share in g_x {SHARE.get(n, '')}",
                    [b.shares.get(n) for b in found],
                    two,
                )
                for n in names
            ),
            Column(
                "cosine",
                "of the angle between the shortcut's part and the rest",
                [against_shortcut(b) for b in found],
                two,
            ),
            Column(
                "H > 0",
                "part of H that the ReLU behind it lets through",
                [b.mask for b in found],
                percent,
            ),
            Column("closure", CLOSURE, [b.closure for b in found], errors),
        ],
    )


def dense(found: Sequence[DenseBlock], title: str) -> Table:
    """A row per dense block."""
    return Table(
        title,
        [
            Column(
                "block",
                "first one first",
                [d.name.rpartition(".")[2] for d in found],
                words,
            ),
            Column("maps", "how many it holds", [len(d.sources) for d in found], words),
            Column(
                "‖g‖ in",
                "size of the gradient of its first map, counting all readers",
                [d.state_norms[0] for d in found],
            ),
            Column(
                "‖g‖ out",
                "size of the gradient of all its maps where it ends",
                [d.state_norms[-1] for d in found],
            ),
            Column(
                "R first",
                "of the first map x_0: 1 if what its readers send back is at right "
                "angles, root readers if it all aligns, below 1 if it cancels",
                [d.coherence[0] for d in found],
            ),
            Column(
                "root\nreaders",
                "square root of the number of readers of x_0",
                [math.sqrt(d.readers[0]) for d in found],
            ),
            Column(
                "N_eff\nfirst",
                "how many of these readers count",
                [d.effective[0] for d in found],
            ),
            Column(
                "exponent",
                "of rms gradient against readers; a √l law needs 0.5 and N_eff = "
                "readers",
                [d.exponent for d in found],
                two,
            ),
            Column("closure", CLOSURE, [d.closure for d in found], errors),
        ],
    )


def paths(found: Spectrum, title: str) -> Table:
    """The lengths that carry the gradient."""
    columns = [
        Column("length", "k, residual branches crossed", found.lengths, words),
        Column("paths", "how many have that length", found.paths, counts),
        Column("‖c_k‖", "size of the sum of what comes along them", found.norms),
        Column("share", "its signed share in the gradient", found.shares, two),
    ]
    if found.veit:
        meaning = "number of paths by the mean size of one (Veit et al.)"
        columns.append(Column("estimate", meaning, found.veit))
        looked = [len(sizes) for sizes in found.singles]
        columns.append(Column("looked\nat", "paths that mean is of", looked, counts))
        meaning = (
            "‖c_k‖ by the root of the summed squares of its paths: 1 if they are at "
            "right angles, root of their number if they align, below 1 if they cancel"
        )
        columns.append(Column("coherence", meaning, found.coherence, two))
        if any(low < high for low, high in found.coherence_range):
            for i, (end, where) in enumerate((("from", "lower"), ("to", "upper"))):
                ends = [both[i] for both in found.coherence_range]
                meaning = f"{where} end of its 95 % interval"
                columns.append(Column(end, meaning, ends, two))
    (size,) = numbers([found.total])
    return Table(
        title,
        columns,
        f"Mean length {found.mean_length():z.2f} of {found.blocks}, weighted by signed "
        f"share; size of the whole gradient {size}; sweep {found.seconds:.1f} s.",
    )


def counterfactual(found: Sequence[tuple[str, Counterfactual]], title: str) -> Table:
    """A row per network: what became of the first layer's gradient."""
    rows = [c for _, c in found]
    return Table(
        title,
        [
            Column("model", "the network", [name for name, _ in found], words),
            Column("block", "whose branch was scaled", [c.block for c in rows], words),
            Column("branch", "which one", [c.branch for c in rows], words),
            Column(
                "factor",
                "what crosses the branch is multiplied by this",
                [c.factor for c in rows],
            ),
            Column(
                "size",
                "of the first layer's gradient, by what it was",
                [c.norm_ratio for c in rows],
            ),
            Column(
                "change",
                "size of the difference, by the size of what it was",
                [c.change for c in rows],
            ),
            Column(
                "cosine",
                "of the angle between the two",
                [c.cosine for c in rows],
                two,
            ),
        ],
    )


def importance(found: Sequence[Importance], title: str) -> Table:
    """A row per block with a residual branch."""
    return Table(
        title,
        [
            Column("block", "first one first", [i.block for i in found], words),
            Column("kind", "how its shortcut runs", [i.kind for i in found], words),
            Column(
                "share",
                "of its residual branch in the gradient at its input, signed",
                [i.share for i in found],
                two,
            ),
            Column(
                "cut",
                "how far the first layer's gradient moves, by its size, if the branch "
                "sends nothing back",
                [i.cut for i in found],
            ),
            Column(
                "lesion",
                "how far the loss moves, in nats, if the branch computes nothing",
                [i.loss for i in found],
            ),
            Column(
                "right",
                "how many more images of the batch are then right",
                [i.correct for i in found],
                percent,
            ),
        ],
        agreement(found).said,
    )


def depths(found: Sequence[DepthPoint], title: str) -> Table:
    """A row per network of a depth sweep."""
    return Table(
        title,
        [
            Column("kind", "plain or residual", [p.kind for p in found], words),
            Column("depth", "weighted layers", [p.depth for p in found], words),
            Column("seed", "of the initial weights", [p.seed for p in found], words),
            Column(
                "‖∂L/∂W‖",
                "size of the gradient of the first layer's weights",
                [p.weight for p in found],
            ),
            Column(
                "first",
                "size of the gradient at the input of the first block",
                [p.first for p in found],
            ),
            Column(
                "last",
                "the same at the last map before the classifier",
                [p.last for p in found],
            ),
            Column(
                "growth",
                "the one divided by the other: above 1 it grew on its way back",
                [p.growth for p in found],
            ),
            Column(
                "loss",
                "mean cross-entropy of the batch, in nats",
                [p.loss for p in found],
                two,
            ),
            Column("closure", CLOSURE, [p.closure for p in found], errors),
        ],
    )


def judged(rows: Sequence[Mapping[str, Any]], title: str, most: int) -> str:
    """A paragraph per claim: who says what, what was measured, how it ends and why."""
    prose = min(most, PROSE)
    parts = [fill(title, prose, later="  ")]
    for row in rows:
        fields = {
            "claim": row["statement"],
            "measured": row["quantity"],
            "on": measured_on(row),
            "verdict": row["verdict"],
            "because": row["decided_by"],
        }
        if row["interval"]:
            fields["interval"] = row["interval"]
        lines = [fill(f"{row['id']} · {row['source']}", prose, later="  ")]
        for name, text in fields.items():
            lines.append(fill(text, prose, f"  {name}:".ljust(13), " " * 13))
        parts.append("\n".join(lines))
    if any(row["interval"] for row in rows):
        parts.append(fill(INTERVALS, prose))
    return "\n\n".join(parts) + "\n"


def measured_on(row: Mapping[str, Any]) -> str:
    """Networks, seeds and weights of a claim; only what it says if it counts."""
    if not row["seeds"]:
        return str(row["models"])
    seeds = f"{row['models']}, seeds {row['seeds']}, {row['weights']}"
    return seeds if row["batches"] == 1 else f"{seeds}, {row['batches']} batches each"
