"""The tables an analysis prints: 100 columns at most, plain text in a pipe."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from tinyflow.flow.blocks import Terms
from tinyflow.flow.compare import Summary, against_shortcut
from tinyflow.flow.dense import DenseBlock
from tinyflow.flow.paths import Spectrum

WIDTH = 100


def number(value: float | None) -> str:
    """Three digits, whatever the size; "-" for what is not there."""
    if value is None or math.isnan(value):
        return "-"
    size = abs(value)
    if value and math.isfinite(value) and (size < 1e-2 or size >= 1e4):
        digits, _, exponent = f"{value:.1e}".partition("e")
        return f"{digits}e{int(exponent)}"  # 4.6e-3, not 4.6e-03: columns are dear
    return f"{value:.3g}"


def two(value: float | None) -> str:
    """Two decimals; "-" for what is not there."""
    return "-" if value is None or math.isnan(value) else f"{value:.2f}"


def error(value: float) -> str:
    """A closure error: its power of ten, or 0."""
    return f"{value:.0e}" if value else "0"


def show(table: Table) -> None:
    """Print title, table and notes: as wide as the terminal, or 100 columns."""
    live = sys.stdout.isatty()
    console = Console(
        width=None if live else WIDTH, color_system="auto" if live else None
    )
    title, notes, table.title, table.caption = table.title, table.caption, None, None
    console.print(title, style="bold", highlight=False, markup=False)
    console.print(table)
    if notes is not None:
        console.print(notes, highlight=False, markup=False)


def _table(title: str, *columns: str) -> Table:
    table = Table(
        title=title,
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        pad_edge=False,
    )
    for i, column in enumerate(columns):
        table.add_column(column, justify="right" if i else "left", no_wrap=i == 0)
    return table


def compared(summaries: Sequence[Summary], conditions: str) -> Table:
    """A row per network."""
    table = _table(
        f"Gradient flow · {conditions}",
        "model",
        "param.\n(M)",
        "blocks",
        "loss",
        "‖g‖\nfirst",
        "‖g‖\nlast",
        "first\n/ last",
        "x / H",
        "short-\ncut",
        "resi-\ndual",
        "gate",
        "cos",
        "clos-\nure",
    )
    for s in summaries:
        first, last = s.ends
        table.add_row(
            s.name,
            f"{s.parameters / 1e6:.1f}",
            str(len(s.blocks) or len(s.dense)),
            f"{s.loss:.2f}",
            number(first),
            number(last),
            number(first / last if last else None),
            number(s.ratio),
            two(s.share("shortcut")),
            two(s.share("residual", "gain")),
            two(s.share("gate")),
            two(s.cosine),
            error(s.closure_max),
        )
    table.caption = (
        "‖g‖: ∂L/∂x at the input of the first and last block. x / H: median over "
        "blocks, size at the block's input by size at its end. shortcut, residual "
        "(SE: gain), gate: median signed shares, together about 1. cos: mean cosine "
        "between the shortcut and the rest. closure: largest conservation error."
    )
    return table


def blocks(found: Sequence[Terms], title: str) -> Table:
    """A row per block."""
    names = list(dict.fromkeys(t for b in found for t in b.shares))
    table = _table(
        title,
        "block",
        "kind",
        "‖g_x‖",
        "x / H",
        *(f"{n}\nshare" for n in names),
        "cosine",
        "H > 0",
        "closure",
    )
    for b in found:
        table.add_row(
            b.name,
            b.kind,
            number(b.norms["x"]),
            number(b.ratio),
            *(two(b.shares.get(n)) for n in names),
            two(against_shortcut(b)),
            "-" if b.mask is None else f"{b.mask:.0%}",
            error(b.closure),
        )
    return table


def dense(found: Sequence[DenseBlock], title: str) -> Table:
    """A row per dense block."""
    table = _table(
        title,
        "block",
        "maps",
        "‖g‖ in",
        "‖g‖ out",
        "R first",
        "√readers",
        "N_eff first",
        "exponent",
        "closure",
    )
    for d in found:
        table.add_row(
            d.name.rpartition(".")[2],
            str(len(d.sources)),
            number(d.state_norms[0]),
            number(d.state_norms[-1]),
            number(d.coherence[0]),
            number(math.sqrt(d.readers[0])),
            number(d.effective[0]),
            number(d.exponent),
            error(d.closure),
        )
    table.caption = (
        "R: 1 if the readers' contributions to x_0 are at right angles, √readers if "
        "they all align, below 1 if they cancel. N_eff: how many of them count. "
        "exponent: of rms gradient against readers; a √l law needs 0.5 and N_eff = "
        "readers."
    )
    return table


def paths(found: Spectrum, title: str) -> Table:
    """The lengths that carry the gradient."""
    table = _table(title, "length k", "paths", "‖c_k‖", "share", "Veit's estimate")
    for i, k in enumerate(found.lengths):
        table.add_row(
            str(k),
            number(float(found.paths[i])),
            number(found.norms[i]),
            number(found.shares[i]),
            number(found.veit[i]) if found.veit else "-",
        )
    table.caption = (
        f"mean length {found.mean_length():.2f} of {found.blocks} (weighted by signed "
        f"share); ‖g‖ = {number(found.total)}; sweep {found.seconds:.1f} s"
    )
    return table


def plain(rows: Sequence[Mapping[str, Any]], title: str) -> Table:
    """Any rows of the same keys."""
    table = _table(title, *(rows[0] if rows else ()))
    for row in rows:
        table.add_row(
            *(number(v) if isinstance(v, float) else str(v) for v in row.values())
        )
    return table


def judged(rows: Sequence[Mapping[str, Any]], title: str) -> Table:
    """A row per claim: who, what, and how it ends."""
    table = _table(title, "claim", "weights", "verdict", "decided by")
    for row in rows:
        table.add_row(
            row["id"], str(row.get("mode", "")), row["verdict"], row["decided_by"]
        )
    for column in table.columns[1:]:
        column.justify = "left"
    return table
